//! Services as the manager keeps them.

use super::SpecHistory;
use crate::json::{api_struct, api_word};
use crate::spec::{EndpointSpec, PortConfig, ServiceSpec};
use crate::{Meta, NetworkId, ServiceId, Timestamp, Version};

/// A service.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Service {
    /// Its identifier.
    #[serde(rename = "ID")]
    pub id: ServiceId,
    /// Version and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// What it shall be.
    #[serde(default)]
    pub spec: ServiceSpec,
    /// What it was before the last update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_spec: Option<Box<ServiceSpec>>,
    /// What it was before that. The API gives it out by itself, at `/services/{id}/history`.
    #[serde(default, skip_serializing_if = "crate::json::is_default")]
    pub history: SpecHistory,
    /// How it is reached.
    #[serde(default)]
    pub endpoint: Endpoint,
    /// How the last update goes or went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_status: Option<UpdateStatus>,
    /// Counts of tasks; only in answers that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_status: Option<ServiceStatus>,
    /// Of jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_status: Option<JobStatus>,
    /// Version of the object at which the spec last changed: tasks made from it carry the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_version: Option<Version>,
    /// As `spec_version`, of the spec before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_spec_version: Option<Version>,
    /// Set when the service is removed but its tasks still stop.
    #[serde(default, skip_serializing_if = "crate::json::is_default")]
    pub pending_delete: bool,
}

impl Service {
    /// The spec that it has, and those that it can go back to.
    pub fn specs(&self) -> impl Iterator<Item = &ServiceSpec> {
        let kept = self.history.kept.iter().map(|kept| &*kept.spec);
        std::iter::once(&self.spec)
            .chain(self.previous_spec.as_deref())
            .chain(kept)
    }
}

api_struct! {
    /// How a service is reached.
    pub struct Endpoint {
        /// What was asked for.
        pub spec: EndpointSpec,
        /// Ports with the numbers that the allocator chose.
        pub ports: Vec<PortConfig>,
        /// One address per network, in mode `vip`.
        #[serde(rename = "VirtualIPs")]
        pub virtual_ips: Vec<EndpointVip>,
    }
}

api_struct! {
    /// A virtual address.
    pub struct EndpointVip {
        /// On which network.
        #[serde(rename = "NetworkID")]
        pub network_id: NetworkId,
        /// Address and prefix, such as `10.0.1.2/24`.
        pub addr: String,
    }
}

api_word! {
    /// How far an update has come.
    pub enum UpdateState {
        /// Under way.
        #[default]
        Updating = "updating",
        /// Stopped by a failure; waits for the user.
        Paused = "paused",
        /// Done.
        Completed = "completed",
        /// Going back.
        RollbackStarted = "rollback_started",
        /// Going back was stopped by a failure.
        RollbackPaused = "rollback_paused",
        /// Gone back.
        RollbackCompleted = "rollback_completed",
    }
}

/// How an update goes or went.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UpdateStatus {
    /// How far.
    #[serde(default)]
    pub state: UpdateState,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// For people.
    #[serde(default)]
    pub message: String,
}

/// Counts of tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceStatus {
    /// Tasks that run.
    #[serde(default)]
    pub running_tasks: u64,
    /// Tasks that shall run.
    #[serde(default)]
    pub desired_tasks: u64,
    /// Tasks of a job that ended well.
    #[serde(default)]
    pub completed_tasks: u64,
}

/// How far a job has come.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct JobStatus {
    /// Counts the runs of the whole job.
    #[serde(default)]
    pub job_iteration: Version,
    /// When the last one began.
    #[serde(default)]
    pub last_execution: Timestamp,
}
