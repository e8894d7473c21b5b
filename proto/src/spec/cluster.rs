//! Settings of the cluster.

use std::collections::BTreeMap;

use super::{Labels, LogDriver};
use crate::json::api_struct;

api_struct! {
    /// Settings of the cluster. An absent group means the defaults.
    pub struct ClusterSpec {
        /// Always `default`.
        pub name: String,
        /// Labels of the cluster.
        pub labels: Labels,
        /// Of the orchestrators.
        pub orchestration: Option<OrchestrationConfig>,
        /// Of consensus.
        pub raft: Option<RaftConfig>,
        /// Of the dispatcher.
        pub dispatcher: Option<DispatcherConfig>,
        /// Of certificates.
        #[serde(rename = "CAConfig")]
        pub ca_config: Option<CaConfig>,
        /// For tasks that do not say.
        pub task_defaults: Option<TaskDefaults>,
        /// Of keys at rest.
        pub encryption_config: Option<EncryptionConfig>,
    }
}

api_struct! {
    /// Settings of the orchestrators.
    pub struct OrchestrationConfig {
        /// Ended tasks kept per slot; 5 where it is not said, all where it is negative.
        pub task_history_retention_limit: Option<i64>,
    }
}

api_struct! {
    /// Settings of consensus.
    pub struct RaftConfig {
        /// Log entries between two snapshots; 10000.
        pub snapshot_interval: u64,
        /// Old snapshots kept; 0.
        pub keep_old_snapshots: Option<u64>,
        /// Entries kept after a snapshot for slow followers; 500.
        pub log_entries_for_slow_followers: u64,
        /// Ticks without word from the leader before an election.
        pub election_tick: i64,
        /// Ticks between heartbeats of the leader.
        pub heartbeat_tick: i64,
    }
}

api_struct! {
    /// Settings of the dispatcher.
    pub struct DispatcherConfig {
        /// Nanoseconds between heartbeats of a node; 1 s here (Docker: 5 s).
        pub heartbeat_period: i64,
    }
}

api_struct! {
    /// Settings of certificates.
    pub struct CaConfig {
        /// Nanoseconds that a node's certificate is valid; 90 days.
        pub node_cert_expiry: i64,
        /// Certificate that signs the nodes'.
        #[serde(rename = "SigningCACert")]
        pub signing_ca_cert: String,
        /// Its key. Never given out.
        #[serde(rename = "SigningCAKey")]
        pub signing_ca_key: crate::Hidden,
        /// Counted up to rotate the root.
        pub force_rotate: u64,
        /// Who signs certificates in the managers' stead. Known so that it can be refused.
        #[serde(rename = "ExternalCAs")]
        pub external_cas: Vec<ExternalCa>,
    }
}

api_struct! {
    /// A server that signs certificates.
    pub struct ExternalCa {
        /// What it speaks.
        pub protocol: String,
        /// Where it is.
        #[serde(rename = "URL")]
        pub url: String,
        /// More of it.
        pub options: BTreeMap<String, String>,
        /// The root under which it is believed, in PEM.
        #[serde(rename = "CACert")]
        pub ca_cert: String,
    }
}

api_struct! {
    /// For tasks that do not say.
    pub struct TaskDefaults {
        /// Where their output goes.
        pub log_driver: Option<LogDriver>,
    }
}

api_struct! {
    /// Settings of keys at rest.
    pub struct EncryptionConfig {
        /// Whether managers need a key from a person after a restart.
        pub auto_lock_managers: bool,
    }
}
