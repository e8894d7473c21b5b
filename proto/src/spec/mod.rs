//! What a user writes. A manager never changes a spec; it keeps the one before it for a rollback.

mod cluster;
mod container;
mod endpoint;
mod mount;
mod network;
mod node;
pub mod placement_labels;
mod service;

use std::collections::BTreeMap;

pub use cluster::{
    CaConfig, ClusterSpec, DispatcherConfig, EncryptionConfig, OrchestrationConfig, RaftConfig, TaskDefaults,
};
pub use container::{
    AppArmor, ConfigReference, ContainerSpec, CredentialSpec, DnsConfig, FileTarget, HealthConfig,
    Privileges, SeLinuxContext, SeccompOptions, SecretReference, Ulimit,
};
pub use endpoint::{EndpointMode, EndpointSpec, PortConfig, PortProtocol, PublishMode};
pub use mount::{BindOptions, Mount, MountType, TmpfsOptions, VolumeDriver, VolumeOptions};
pub use network::{IpamConfig, IpamOptions, NetworkDriver, NetworkSpec};
pub use node::{Availability, NodeRole, NodeSpec};
pub use placement_labels::{PlacementLabelError, PlacementLabels, Strategy};
pub use service::{
    ATTACHMENT_RUNTIME, DiscreteResource, Empty, FailureAction, GenericResource, JobMode, Limits, LogDriver,
    NamedResource, NetworkAttachmentConfig, NetworkAttachmentSpec, Placement, PlacementPreference, Platform,
    ReplicatedMode, Reservations, ResourceRequirements, RestartCondition, RestartPolicy, ServiceMode,
    ServiceSpec, SpreadOver, TaskSpec, UpdateConfig, UpdateOrder,
};

use crate::json::api_struct;

/// Labels; sorted, so that equal sets have equal JSON.
pub type Labels = BTreeMap<String, String>;

/// A word that the API does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown value {word:?}: it must be one of {}", known.join(", "))]
pub struct UnknownWord {
    /// What was given.
    pub word: String,
    /// What would have been understood.
    pub known: &'static [&'static str],
}

api_struct! {
    /// A secret's name, labels and content.
    pub struct SecretSpec {
        /// Unique among secrets.
        pub name: String,
        /// Labels of the secret.
        pub labels: Labels,
        /// Content in base64, less than 500 KiB. Never given out again.
        pub data: crate::Hidden,
        /// Where the content comes from, if not from `data`.
        pub driver: Option<LogDriver>,
        /// How the content is expanded.
        pub templating: Option<LogDriver>,
    }
}

api_struct! {
    /// A config's name, labels and content.
    pub struct ConfigSpec {
        /// Unique among configs.
        pub name: String,
        /// Labels of the config.
        pub labels: Labels,
        /// Content in base64, less than 1000 KiB.
        pub data: String,
        /// How the content is expanded.
        pub templating: Option<LogDriver>,
    }
}
