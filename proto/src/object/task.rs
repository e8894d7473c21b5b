//! Tasks: one attempt each to run one container. A task never moves; it is replaced.

use std::sync::Arc;

use super::Network;
use crate::json::{api_struct, api_word};
use crate::spec::{EndpointSpec, GenericResource, Labels, NetworkAttachmentSpec, PortConfig, TaskSpec};
use crate::{Meta, NodeId, ServiceId, TaskId, TaskState, Timestamp, Version};

/// A task.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Task {
    /// Its identifier.
    #[serde(rename = "ID")]
    pub id: TaskId,
    /// Version and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// Labels of the service.
    #[serde(default)]
    pub labels: Labels,
    /// What it runs. Never changes, so that all versions of a task share it, and all tasks made from one spec.
    #[serde(default)]
    pub spec: Arc<TaskSpec>,
    /// Version of the service's spec that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_version: Option<Version>,
    /// Its service.
    #[serde(rename = "ServiceID", default)]
    pub service_id: ServiceId,
    /// Name of its service, so that a node can name the container without asking.
    #[serde(default)]
    pub service_name: String,
    /// Which replica it is, from 1; 0 in global services.
    #[serde(default, skip_serializing_if = "crate::json::is_default")]
    pub slot: u64,
    /// Its node, once it is assigned; from the start in global services.
    #[serde(rename = "NodeID", default, skip_serializing_if = "NodeId::is_empty")]
    pub node_id: NodeId,
    /// What was observed. Written by the manager until the task is assigned, by the node from then on.
    #[serde(default)]
    pub status: TaskStatus,
    /// What the manager wants. Only grows.
    #[serde(default)]
    pub desired_state: TaskState,
    /// Networks and addresses, from the allocator.
    #[serde(default)]
    pub networks_attachments: Vec<NetworkAttachment>,
    /// How its service is reached, as far as the node must act on it (ports published in host mode).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointSpec>,
    /// Things that the scheduler gave it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub generic_resources: Vec<GenericResource>,
    /// Which run of a job it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_iteration: Option<Version>,
    /// How many tasks ended soon, one after the other, in its slot before it; counted where restarts back off.
    #[serde(default, skip_serializing_if = "crate::json::is_default")]
    pub failures: u32,
    /// The task whose place it takes while that one still runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes_over: Option<TakeOver>,
}

api_word! {
    /// Why a task takes the place of one that runs.
    pub enum TakeOverReason {
        /// The other one's node is drained: it stops after a time in any case.
        #[default]
        Drain = "drain",
        /// The other one's node has more tasks of the service than this one's: it stays if this one does not come to run.
        Rebalance = "rebalance",
    }
}

api_struct! {
    /// A task and the one that stops when it runs.
    pub struct TakeOver {
        /// The task that stops.
        #[serde(rename = "TaskID")]
        pub task: TaskId,
        /// Why.
        pub reason: TakeOverReason,
    }
}

impl Task {
    /// Its name: `service.slot.id`, or `service.node.id` in global services, as Docker names the container.
    pub fn name(&self) -> String {
        format!("{}.{}", self.short_name(), self.id)
    }

    /// The container that somebody started by hand and for which it holds a place on a network; `None` for a task that
    /// runs something itself.
    pub fn attachment(&self) -> Option<&NetworkAttachmentSpec> {
        self.spec.network_attachment_spec.as_ref()
    }

    /// Its name without the identifier: `service.slot`, or the container's name if it only holds a place for one.
    pub fn short_name(&self) -> String {
        if let Some(attachment) = self.attachment() {
            let mut names = self.spec.networks.iter().flat_map(|on| &on.aliases);
            names.next().unwrap_or(&attachment.container_id).clone()
        } else if self.slot == 0 {
            format!("{}.{}", self.service_name, self.node_id)
        } else {
            format!("{}.{}", self.service_name, self.slot)
        }
    }
}

/// What was observed of a task.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TaskStatus {
    /// When it was observed.
    #[serde(default)]
    pub timestamp: Timestamp,
    /// How far it has come.
    #[serde(default)]
    pub state: TaskState,
    /// What it is doing, or why it waits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub err: String,
    /// Its container, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_status: Option<ContainerStatus>,
    /// Ports that it has on its node itself.
    #[serde(default)]
    pub port_status: PortStatus,
    /// It runs, and answers for its service no longer: its node is about to stop it.
    #[serde(default, skip_serializing_if = "crate::json::is_default")]
    pub withdrawn: bool,
}

/// The container of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ContainerStatus {
    /// Identifier of the container on its node.
    #[serde(rename = "ContainerID", default)]
    pub container_id: String,
    /// Process of the host that is the container's first; 0 when it has ended.
    #[serde(rename = "PID", default)]
    pub pid: i64,
    /// How it ended.
    #[serde(rename = "ExitCode", default)]
    pub exit_code: i64,
}

api_struct! {
    /// Ports that a task has on its node itself.
    pub struct PortStatus {
        /// Those published in host mode.
        pub ports: Vec<PortConfig>,
    }
}

/// A network and a task's addresses on it.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkAttachment {
    /// The network as it was when the task was made.
    #[serde(default)]
    pub network: Network,
    /// Address and prefix, such as `10.0.1.5/24`.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Names by which it is found, beside the service's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}
