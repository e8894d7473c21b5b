//! What every node would refuse of a service, found before the service is taken in: a wrong or unbuilt field is one error for
//! who writes the spec, not a task that is rejected for ever.
//!
//! Input: the spec. Output: the error that its tasks would end with, leaving out what only a node can know (its images, its
//! volumes, its free ports).

use proto::object::{Network, NetworkAttachment};
use proto::spec::MountType;
use proto::{ServiceSpec, Task};
use storage::{CreateVolume, VolumeError};
use thiserror::Error;

use super::files::{self, FileError};
use super::plan::{self, PlanError};
use crate::engine::{self, EngineError};

/// Why no task of a service could run.
#[derive(Debug, Error)]
pub enum PreviewError {
    /// The spec cannot be translated.
    #[error("service {service}")]
    Plan {
        /// Its name.
        service: String,
        /// What is wrong.
        #[source]
        source: PlanError,
    },
    /// A secret or config cannot be put where it shall be.
    #[error("service {service}")]
    Files {
        /// Its name.
        service: String,
        /// What is wrong.
        #[source]
        source: FileError,
    },
    /// A volume cannot be made so.
    #[error("service {service}")]
    Volume {
        /// Its name.
        service: String,
        /// What is wrong.
        #[source]
        source: VolumeError,
    },
    /// The container would be refused.
    #[error("service {service}")]
    Engine {
        /// Its name.
        service: String,
        /// What is wrong.
        #[source]
        source: EngineError,
    },
}

/// Refuses a spec whose tasks every node would reject.
///
/// # Errors
/// [`PreviewError`], with the field.
pub fn check(spec: &ServiceSpec) -> Result<(), PreviewError> {
    let service = || spec.name.clone();
    let task = sample(spec);
    volumes(spec)?;
    let request = plan::container(&task, "node").map_err(|source| PreviewError::Plan {
        service: service(),
        source,
    })?;
    files::check(&task).map_err(|source| PreviewError::Files {
        service: service(),
        source,
    })?;
    engine::preview(request).map_err(|source| PreviewError::Engine {
        service: service(),
        source,
    })
}

/// The volumes as the node will make them.
fn volumes(spec: &ServiceSpec) -> Result<(), PreviewError> {
    let container = spec.task_template.container_spec.iter();
    let mounts = container.flat_map(|container| &container.mounts);
    for mount in mounts.filter(|mount| mount.kind == MountType::Volume) {
        let options = mount.volume_options.clone().unwrap_or_default();
        let driver = options.driver_config.unwrap_or_default();
        let volume = CreateVolume {
            // What a placeholder stands for is known on the node.
            name: Some(mount.source.clone()).filter(|name| !name.contains("{{")),
            driver: driver.name,
            options: driver.options,
            ..CreateVolume::default()
        };
        volume.check().map_err(|source| PreviewError::Volume {
            service: spec.name.clone(),
            source,
        })?;
    }
    Ok(())
}

/// A task of the service as a node would get it.
fn sample(spec: &ServiceSpec) -> Task {
    let networks = spec.task_template.networks.iter().chain(&spec.networks);
    let attachment = |network: &proto::spec::NetworkAttachmentConfig| NetworkAttachment {
        network: Network {
            id: network.target.as_str().into(),
            ..Network::default()
        },
        ..NetworkAttachment::default()
    };
    Task {
        id: "sample".into(),
        service_id: "sample".into(),
        // A name that is missing or wrong is the manager's to refuse.
        service_name: "sample".into(),
        labels: spec.labels.clone(),
        slot: 1,
        spec: spec.task_template.clone().into(),
        endpoint: spec.endpoint_spec.clone(),
        networks_attachments: networks.map(attachment).collect(),
        ..Task::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::error::chain;
    use proto::spec::{ContainerSpec, FileTarget, LogDriver, Mount, SecretReference, Ulimit};

    fn refusal(change: impl FnOnce(&mut ServiceSpec, &mut ContainerSpec)) -> Option<String> {
        let mut container = ContainerSpec {
            image: "bb".into(),
            ..ContainerSpec::default()
        };
        let mut spec = ServiceSpec {
            name: "web".into(),
            ..ServiceSpec::default()
        };
        change(&mut spec, &mut container);
        spec.task_template.container_spec = Some(container);
        check(&spec).err().map(|error| chain(&error))
    }

    #[test]
    fn what_a_node_would_refuse_is_refused_at_once() {
        assert_eq!(refusal(|_, _| {}), None);
        let said = |error: Option<String>, word: &str| {
            let error = error.unwrap_or_default();
            assert!(
                error.starts_with("service web: ") && error.contains(word),
                "{error:?}"
            );
        };
        said(refusal(|_, c| c.env = vec!["A={{.Nope}}".into()]), ".Nope");
        said(refusal(|_, c| c.capability_add = vec!["CAP_NOPE".into()]), "NOPE");
        said(refusal(|_, c| c.isolation = "hyperv".into()), "isolation");
        said(
            refusal(|_, c| {
                c.ulimits = vec![Ulimit {
                    name: "nope".into(),
                    hard: 1,
                    soft: 1,
                }]
            }),
            "nope",
        );
        said(
            refusal(|s, _| {
                s.task_template.log_driver = Some(LogDriver {
                    name: "syslog".into(),
                    ..LogDriver::default()
                })
            }),
            "syslog",
        );
        said(
            refusal(|_, c| {
                c.mounts = vec![Mount {
                    kind: MountType::Bind,
                    source: "relative".into(),
                    target: "/x".into(),
                    ..Mount::default()
                }]
            }),
            "relative",
        );
        said(refusal(|_, c| c.hosts = vec!["nonsense".into()]), "nonsense");
        said(
            refusal(|_, c| {
                c.mounts = vec![Mount {
                    source: "../x".into(),
                    target: "/x".into(),
                    ..Mount::default()
                }]
            }),
            "../x",
        );
        said(
            refusal(|_, c| {
                c.secrets = vec![SecretReference {
                    file: Some(FileTarget {
                        name: "x".into(),
                        uid: "root".into(),
                        ..FileTarget::default()
                    }),
                    secret_name: "pw".into(),
                    ..SecretReference::default()
                }]
            }),
            "uid",
        );
    }
}
