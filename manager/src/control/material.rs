//! Secrets and configs: content that tasks read. It never changes; only its labels do.

use std::sync::Arc;

use proto::{Config, ConfigId, ConfigSpec, Secret, SecretId, SecretSpec, Service};

use super::{Control, ControlError, Result, lookup, validate};
use crate::state::{Key, Kind, Reader, StoreObject};

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

    /// Gives a secret new labels. Content in `spec` must be absent or the same.
    ///
    /// # Errors
    /// [`ControlError::OutOfSequence`], [`ControlError::InvalidArgument`] and those of [`Self::secret`].
    pub async fn update_secret(&self, reference: &str, version: u64, spec: SecretSpec) -> Result<()> {
        self.store
            .update(|tx| {
                let mut secret = lookup::owned::<Secret>(tx, reference)?;
                let same_content = spec.data.is_empty() || spec.data == secret.spec.data;
                refuse_more_than_labels(&secret, version, &spec.name, &secret.spec.name, same_content)?;
                secret.spec.labels = spec.labels;
                Ok::<_, ControlError>(tx.update(secret)?)
            })
            .await
    }

    /// Removes a secret that no service uses.
    ///
    /// # Errors
    /// [`ControlError::InUse`] and those of [`Self::secret`].
    pub async fn remove_secret(&self, reference: &str) -> Result<()> {
        self.store
            .update(|tx| {
                let secret = lookup::object::<Secret>(tx, reference)?;
                refuse_while_in_use(
                    tx,
                    Kind::Secret,
                    &secret.spec.name,
                    &Key::Secret(secret.id.as_str().to_owned()),
                )?;
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

    /// Gives a config new labels. Content in `spec` must be absent or the same.
    ///
    /// # Errors
    /// [`ControlError::OutOfSequence`], [`ControlError::InvalidArgument`] and those of [`Self::config`].
    pub async fn update_config(&self, reference: &str, version: u64, spec: ConfigSpec) -> Result<()> {
        self.store
            .update(|tx| {
                let mut config = lookup::owned::<Config>(tx, reference)?;
                let same_content = spec.data.is_empty() || spec.data == config.spec.data;
                refuse_more_than_labels(&config, version, &spec.name, &config.spec.name, same_content)?;
                config.spec.labels = spec.labels;
                Ok::<_, ControlError>(tx.update(config)?)
            })
            .await
    }

    /// Removes a config that no service uses.
    ///
    /// # Errors
    /// [`ControlError::InUse`] and those of [`Self::config`].
    pub async fn remove_config(&self, reference: &str) -> Result<()> {
        self.store
            .update(|tx| {
                let config = lookup::object::<Config>(tx, reference)?;
                refuse_while_in_use(
                    tx,
                    Kind::Config,
                    &config.spec.name,
                    &Key::Config(config.id.as_str().to_owned()),
                )?;
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

/// A service that could be rolled back to a spec with the secret or config needs it too, but does not hold it: as in Docker.
fn refuse_while_in_use(tx: &impl Reader, kind: Kind, name: &str, key: &Key) -> Result<()> {
    let users: Vec<_> = tx
        .by_key::<Service>(key.clone())
        .iter()
        .map(|service| service.spec.name.clone())
        .collect();
    if users.is_empty() {
        return Ok(());
    }
    Err(ControlError::InUse {
        kind,
        name: name.to_owned(),
        user_kind: Kind::Service,
        users,
    })
}
