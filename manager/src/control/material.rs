//! Secrets and configs: content that tasks read. It never changes; only its labels do.

use std::sync::Arc;

use proto::{
    Config, ConfigId, ConfigSpec, Secret, SecretId, SecretSpec, Service, ServiceSpec, Task, TaskState,
};

use super::{Control, ControlError, Result, lookup, validate};
use crate::state::{Key, Kind, Reader, StoreObject};

/// What keeps a secret or config from being removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBy {
    /// The specs of services. One that a service could be rolled back to needs it too, but does not hold it: as in Docker.
    Specs,
    /// Those, the specs that services can go back to, and tasks that may still start with it. For versions that nobody
    /// asked to remove.
    Anyone,
}

impl Control {
    /// Keeps a secret.
    ///
    /// # Errors
    /// [`ControlError::InvalidArgument`] (name, size, driver), [`ControlError::NameConflict`].
    pub async fn create_secret(&self, spec: SecretSpec) -> Result<SecretId> {
        validate::secret(&spec)?;
        let id = SecretId::random();
        let secret = Secret {
            id: id.clone(),
            spec,
            ..Secret::default()
        };
        self.store
            .update(|tx| Ok::<_, ControlError>(tx.create(secret)?))
            .await?;
        Ok(id)
    }

    /// The secret without its content, by identifier, name or unique beginning of the identifier.
    ///
    /// # Errors
    /// [`ControlError::NotFound`], [`ControlError::Ambiguous`].
    pub fn secret(&self, reference: &str) -> Result<Secret> {
        self.store
            .view(|tx| lookup::object::<Secret>(&tx, reference))
            .map(|secret| without_content(&secret))
    }

    /// Every secret, without content.
    pub fn secrets(&self) -> Vec<Secret> {
        self.store
            .view(|tx| tx.all::<Secret>())
            .iter()
            .map(|secret| without_content(secret))
            .collect()
    }

    /// Gives a secret new labels. Content in `spec` must be absent or the same; where the labels are the same too, nothing is
    /// written, so that this also says whether content is the same.
    ///
    /// # Errors
    /// [`ControlError::OutOfSequence`], [`ControlError::InvalidArgument`] and those of [`Self::secret`].
    pub async fn update_secret(&self, reference: &str, version: u64, spec: SecretSpec) -> Result<()> {
        self.store
            .update(|tx| {
                let mut secret = lookup::owned::<Secret>(tx, reference)?;
                let same_content = spec.data.is_empty() || spec.data == secret.spec.data;
                refuse_more_than_labels(&secret, version, &spec.name, &secret.spec.name, same_content)?;
                if secret.spec.labels != spec.labels {
                    secret.spec.labels = spec.labels;
                    tx.update(secret)?;
                }
                Ok::<_, ControlError>(())
            })
            .await
    }

    /// Removes a secret that nobody holds.
    ///
    /// # Errors
    /// [`ControlError::InUse`] and those of [`Self::secret`].
    pub async fn remove_secret(&self, reference: &str, held_by: HeldBy) -> Result<()> {
        self.store
            .update(|tx| {
                let secret = lookup::object::<Secret>(tx, reference)?;
                let key = Key::Secret(secret.id.as_str().to_owned());
                refuse_while_in_use(tx, Kind::Secret, &secret.spec.name, &key, held_by)?;
                Ok::<_, ControlError>(tx.remove::<Secret>(secret.id.as_str())?)
            })
            .await
    }

    /// Keeps a config.
    ///
    /// # Errors
    /// [`ControlError::InvalidArgument`] (name, size), [`ControlError::NameConflict`].
    pub async fn create_config(&self, spec: ConfigSpec) -> Result<ConfigId> {
        validate::config(&spec)?;
        let id = ConfigId::random();
        let config = Config {
            id: id.clone(),
            spec,
            ..Config::default()
        };
        self.store
            .update(|tx| Ok::<_, ControlError>(tx.create(config)?))
            .await?;
        Ok(id)
    }

    /// The config by identifier, name or unique beginning of the identifier.
    ///
    /// # Errors
    /// [`ControlError::NotFound`], [`ControlError::Ambiguous`].
    pub fn config(&self, reference: &str) -> Result<Arc<Config>> {
        self.store.view(|tx| lookup::object(&tx, reference))
    }

    /// Every config.
    pub fn configs(&self) -> Vec<Arc<Config>> {
        self.store.view(|tx| tx.all())
    }

    /// Gives a config new labels. Content in `spec` must be absent or the same; where the labels are the same too, nothing is
    /// written, so that this also says whether content is the same.
    ///
    /// # Errors
    /// [`ControlError::OutOfSequence`], [`ControlError::InvalidArgument`] and those of [`Self::config`].
    pub async fn update_config(&self, reference: &str, version: u64, spec: ConfigSpec) -> Result<()> {
        self.store
            .update(|tx| {
                let mut config = lookup::owned::<Config>(tx, reference)?;
                let same_content = spec.data.is_empty() || spec.data == config.spec.data;
                refuse_more_than_labels(&config, version, &spec.name, &config.spec.name, same_content)?;
                if config.spec.labels != spec.labels {
                    config.spec.labels = spec.labels;
                    tx.update(config)?;
                }
                Ok::<_, ControlError>(())
            })
            .await
    }

    /// Removes a config that nobody holds.
    ///
    /// # Errors
    /// [`ControlError::InUse`] and those of [`Self::config`].
    pub async fn remove_config(&self, reference: &str, held_by: HeldBy) -> Result<()> {
        self.store
            .update(|tx| {
                let config = lookup::object::<Config>(tx, reference)?;
                let key = Key::Config(config.id.as_str().to_owned());
                refuse_while_in_use(tx, Kind::Config, &config.spec.name, &key, held_by)?;
                Ok::<_, ControlError>(tx.remove::<Config>(config.id.as_str())?)
            })
            .await
    }
}

fn without_content(secret: &Secret) -> Secret {
    let mut secret = secret.clone();
    secret.spec.data.clear();
    secret
}

fn refuse_more_than_labels<T: StoreObject>(
    object: &T,
    version: u64,
    new_name: &str,
    name: &str,
    same_content: bool,
) -> Result<()> {
    if object.meta().version.index != version {
        return Err(ControlError::OutOfSequence);
    }
    if new_name != name || !same_content {
        return Err(ControlError::invalid("only updates to Labels are allowed"));
    }
    Ok(())
}

fn refuse_while_in_use(tx: &impl Reader, kind: Kind, name: &str, key: &Key, held_by: HeldBy) -> Result<()> {
    let by_spec = tx.by_key::<Service>(key.clone());
    let mut user_kind = Kind::Service;
    let mut users: Vec<_> = by_spec.iter().map(|service| service.spec.name.clone()).collect();
    if users.is_empty() && held_by == HeldBy::Anyone {
        let could = |service: &&Arc<Service>| service.specs().any(|spec| names(spec, key));
        let services = tx.all::<Service>();
        users = services
            .iter()
            .filter(could)
            .map(|service| service.spec.name.clone())
            .collect();
    }
    if users.is_empty() && held_by == HeldBy::Anyone {
        user_kind = Kind::Task;
        let tasks = tx.by_key::<Task>(key.clone());
        let lives =
            |task: &&Arc<Task>| task.desired_state <= TaskState::Complete && !task.status.state.is_terminal();
        users = tasks.iter().filter(lives).map(|task| task.name()).collect();
    }
    if users.is_empty() {
        return Ok(());
    }
    Err(ControlError::InUse {
        kind,
        name: name.to_owned(),
        user_kind,
        users,
    })
}

fn names(spec: &ServiceSpec, key: &Key) -> bool {
    let container = spec.task_template.container_spec.iter();
    match key {
        Key::Secret(id) => container
            .flat_map(|container| &container.secrets)
            .any(|used| used.secret_id.as_str() == id),
        Key::Config(id) => container
            .flat_map(|container| &container.configs)
            .any(|used| used.config_id.as_str() == id),
        _ => false,
    }
}
