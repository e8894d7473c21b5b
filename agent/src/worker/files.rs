//! Secrets and configs of this node's tasks: kept in memory only, handed to the engine as files of one container.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use proto::spec::{ConfigReference, FileTarget, LogDriver, SecretReference};
use proto::{Config, ConfigId, Secret, SecretId, Task};
use thiserror::Error;

use super::template::{TemplateContext, TemplateError};
use crate::engine::InjectedFile;

/// Where secrets with a relative name lie in the container.
const SECRETS_DIR: &str = "/run/secrets";
/// Permission bits of a file whose reference says nothing.
const DEFAULT_MODE: u32 = 0o444;

/// Why a secret or config cannot become a file.
#[derive(Debug, Error)]
pub enum FileError {
    /// The manager has not sent it.
    #[error("{kind} {name:?} is not available on this node")]
    Missing {
        /// `secret` or `config`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// Its content is not base64.
    #[error("decode the content of {kind} {name:?}")]
    Content {
        /// `secret` or `config`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: base64::DecodeError,
    },
    /// The reference asks for something that is not built.
    #[error("{kind} {name:?}: {what}")]
    Unsupported {
        /// `secret` or `config`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What it asks for.
        what: String,
    },
    /// Its content has a placeholder that cannot be expanded.
    #[error("expand {kind} {name:?}")]
    Template {
        /// `secret` or `config`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: TemplateError,
    },
}

/// The secrets and configs that this node was given.
#[derive(Default)]
pub struct Files {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    secrets: HashMap<SecretId, Secret>,
    configs: HashMap<ConfigId, Config>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Secrets stay out of logs.
        let known = self.lock();
        f.debug_struct("Files")
            .field("secrets", &known.secrets.len())
            .field("configs", &known.configs.len())
            .finish()
    }
}

impl Files {
    /// Keeps a secret.
    pub fn put_secret(&self, secret: Secret) {
        self.lock().secrets.insert(secret.id.clone(), secret);
    }

    /// Keeps a config.
    pub fn put_config(&self, config: Config) {
        self.lock().configs.insert(config.id.clone(), config);
    }

    /// Forgets a secret.
    pub fn remove_secret(&self, id: &str) {
        self.lock().secrets.remove(id);
    }

    /// Forgets a config.
    pub fn remove_config(&self, id: &str) {
        self.lock().configs.remove(id);
    }

    /// Forgets everything that `keep` refuses; asked with every identifier.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        let mut known = self.lock();
        known.secrets.retain(|id, _| keep(id.as_str()));
        known.configs.retain(|id, _| keep(id.as_str()));
    }

    /// The files of a task's container.
    pub fn of(&self, task: &Task, words: &TemplateContext) -> Result<Vec<InjectedFile>, FileError> {
        let Some(spec) = &task.spec.container_spec else {
            return Ok(Vec::new());
        };
        let known = self.lock();
        let mut files = Vec::new();
        for reference in &spec.secrets {
            let source = secret_source(reference);
            let secret = known
                .secrets
                .get(&reference.secret_id)
                .ok_or_else(|| source.missing())?;
            let content = source.content(&secret.spec.data, secret.spec.templating.as_ref(), words)?;
            files.push(source.file(reference.file.as_ref(), content)?);
        }
        for reference in &spec.configs {
            let source = config_source(reference)?;
            let config = known
                .configs
                .get(&reference.config_id)
                .ok_or_else(|| source.missing())?;
            let content = source.content(&config.spec.data, config.spec.templating.as_ref(), words)?;
            files.push(source.file(reference.file.as_ref(), content)?);
        }
        Ok(files)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One reference on its way to a file.
/// Whether the files of `task` could lie where its spec wants them, whatever they hold.
///
/// # Errors
/// The reference that cannot be acted on.
pub fn check(task: &Task) -> Result<(), FileError> {
    let Some(spec) = &task.spec.container_spec else {
        return Ok(());
    };
    for reference in &spec.secrets {
        secret_source(reference).file(reference.file.as_ref(), Bytes::new())?;
    }
    for reference in &spec.configs {
        config_source(reference)?.file(reference.file.as_ref(), Bytes::new())?;
    }
    Ok(())
}

fn secret_source(reference: &SecretReference) -> Source<'_> {
    Source {
        kind: "secret",
        name: &reference.secret_name,
        root: SECRETS_DIR,
    }
}

fn config_source(reference: &ConfigReference) -> Result<Source<'_>, FileError> {
    let source = Source {
        kind: "config",
        name: &reference.config_name,
        root: "",
    };
    match reference.runtime {
        Some(_) => Err(source.unsupported("a config for the runtime itself is not supported")),
        None => Ok(source),
    }
}

struct Source<'a> {
    kind: &'static str,
    name: &'a str,
    root: &'static str,
}

impl Source<'_> {
    fn content(
        &self,
        data: &str,
        templating: Option<&LogDriver>,
        words: &TemplateContext,
    ) -> Result<Bytes, FileError> {
        let (kind, name) = (self.kind, self.name.to_owned());
        let decoded = STANDARD.decode(data).map_err(|source| FileError::Content {
            kind,
            name: name.clone(),
            source,
        })?;
        let Some(driver) = templating
            .map(|driver| driver.name.as_str())
            .filter(|driver| !driver.is_empty())
        else {
            return Ok(decoded.into());
        };
        if driver != "golang" {
            return Err(self.unsupported(&format!("the template driver {driver:?} is not supported")));
        }
        let text = String::from_utf8(decoded).map_err(|_| self.unsupported("a template must be UTF-8"))?;
        let expanded = words
            .expand(&text)
            .map_err(|source| FileError::Template { kind, name, source })?;
        Ok(expanded.into())
    }

    fn file(&self, target: Option<&FileTarget>, content: Bytes) -> Result<InjectedFile, FileError> {
        let target = target.cloned().unwrap_or_default();
        let path = if target.name.is_empty() {
            self.name.to_owned()
        } else {
            target.name
        };
        let path = if path.starts_with('/') {
            path
        } else {
            format!("{}/{path}", self.root)
        };
        Ok(InjectedFile {
            target: path,
            content,
            uid: self.number("uid", &target.uid)?,
            gid: self.number("gid", &target.gid)?,
            mode: if target.mode == 0 {
                DEFAULT_MODE
            } else {
                target.mode & 0o7777
            },
        })
    }

    fn number(&self, what: &str, text: &str) -> Result<u32, FileError> {
        if text.is_empty() {
            return Ok(0);
        }
        text.parse()
            .map_err(|_| self.unsupported(&format!("{what} {text:?} is not a number")))
    }

    fn missing(&self) -> FileError {
        FileError::Missing {
            kind: self.kind,
            name: self.name.to_owned(),
        }
    }

    fn unsupported(&self, what: &str) -> FileError {
        FileError::Unsupported {
            kind: self.kind,
            name: self.name.to_owned(),
            what: what.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::spec::{ConfigSpec, ContainerSpec, SecretSpec, TaskSpec};

    fn task() -> Task {
        let file = FileTarget {
            name: "password".into(),
            uid: "33".into(),
            gid: "0".into(),
            mode: 0o400,
        };
        let secrets = vec![SecretReference {
            file: Some(file),
            secret_id: "s".into(),
            secret_name: "stack_pw".into(),
        }];
        let configs = vec![ConfigReference {
            file: None,
            runtime: None,
            config_id: "c".into(),
            config_name: "app.conf".into(),
        }];
        let spec = ContainerSpec {
            secrets,
            configs,
            ..ContainerSpec::default()
        };
        Task {
            spec: std::sync::Arc::new(TaskSpec {
                container_spec: Some(spec),
                ..TaskSpec::default()
            }),
            ..Task::default()
        }
    }

    fn config(data: &str) -> Config {
        let templating = Some(LogDriver {
            name: "golang".into(),
            ..LogDriver::default()
        });
        let spec = ConfigSpec {
            data: STANDARD.encode(data),
            templating,
            ..ConfigSpec::default()
        };
        Config {
            id: "c".into(),
            spec,
            ..Config::default()
        }
    }

    #[test]
    fn references_become_files() {
        let files = Files::default();
        files.put_secret(Secret {
            id: "s".into(),
            spec: SecretSpec {
                data: STANDARD.encode("geheim").into(),
                ..SecretSpec::default()
            },
            ..Secret::default()
        });
        files.put_config(config("slot {{.Task.Slot}}"));
        let words = TemplateContext {
            task_slot: "4".into(),
            ..TemplateContext::default()
        };
        let made = files.of(&task(), &words).unwrap();
        assert_eq!(
            (made[0].target.as_str(), made[0].uid, made[0].mode),
            ("/run/secrets/password", 33, 0o400)
        );
        assert_eq!(made[0].content, "geheim");
        assert_eq!((made[1].target.as_str(), made[1].mode), ("/app.conf", 0o444));
        assert_eq!(made[1].content, "slot 4");
        assert!(!format!("{files:?}").contains("geheim"));
    }

    #[test]
    fn what_was_not_sent_is_named() {
        let files = Files::default();
        let error = files.of(&task(), &TemplateContext::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "secret \"stack_pw\" is not available on this node"
        );
    }
}
