//! Services and the tasks that they are made of.

use super::{ContainerSpec, EndpointSpec, Labels};
use crate::json::{api_struct, api_word};

api_struct! {
    /// What a service shall be.
    pub struct ServiceSpec {
        /// Unique among services.
        pub name: String,
        /// Labels of the service, not of its containers.
        pub labels: Labels,
        /// What each task runs.
        pub task_template: TaskSpec,
        /// How many tasks, and where.
        pub mode: ServiceMode,
        /// How a new spec is rolled out.
        pub update_config: Option<UpdateConfig>,
        /// How the spec before is rolled back to.
        pub rollback_config: Option<UpdateConfig>,
        /// Networks in the place where API versions before 1.25 had them.
        pub networks: Vec<NetworkAttachmentConfig>,
        /// How the service is reached.
        pub endpoint_spec: Option<EndpointSpec>,
    }
}

api_struct! {
    /// What one task runs, and under which conditions.
    pub struct TaskSpec {
        /// The container.
        pub container_spec: Option<ContainerSpec>,
        /// Limits, and what must be free on a node.
        pub resources: Option<ResourceRequirements>,
        /// Whether and when an ended task is replaced.
        pub restart_policy: Option<RestartPolicy>,
        /// On which nodes it may run.
        pub placement: Option<Placement>,
        /// The networks of its container; the first has the default route.
        pub networks: Vec<NetworkAttachmentConfig>,
        /// Where its output goes.
        pub log_driver: Option<LogDriver>,
        /// Counted up to roll tasks whose spec has not changed.
        pub force_update: u64,
        /// `container`, or empty for the same; `attachment` for a container that is no service's.
        pub runtime: String,
        /// The container that somebody started by hand and that is on a network of the cluster.
        pub network_attachment_spec: Option<NetworkAttachmentSpec>,
    }
}

impl TaskSpec {
    /// Whether it asks for addresses of its own: two tasks of it cannot be there at once.
    pub fn has_fixed_address(&self) -> bool {
        self.networks.iter().any(|on| !on.addresses.is_empty())
    }
}

/// The runtime of tasks that only hold a place on a network, as Docker names it.
pub const ATTACHMENT_RUNTIME: &str = "attachment";

api_struct! {
    /// A container that no service asked for, on a network of the cluster.
    pub struct NetworkAttachmentSpec {
        /// Identifier of the container on its node.
        #[serde(rename = "ContainerID")]
        pub container_id: String,
        /// The address that it had before: given again if it is free.
        pub preferred_address: String,
        /// Its hardware address, if that does not follow from its address.
        pub mac_address: String,
    }
}

/// How many tasks a service has. Exactly one field is set; none means one replica.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ServiceMode {
    /// A number of tasks, anywhere.
    #[serde(rename = "Replicated", default, skip_serializing_if = "Option::is_none")]
    pub replicated: Option<ReplicatedMode>,
    /// One task on each node that fits.
    #[serde(rename = "Global", default, skip_serializing_if = "Option::is_none")]
    pub global: Option<Empty>,
    /// A number of tasks that run to their end.
    #[serde(rename = "ReplicatedJob", default, skip_serializing_if = "Option::is_none")]
    pub replicated_job: Option<JobMode>,
    /// One task on each node that runs to its end.
    #[serde(rename = "GlobalJob", default, skip_serializing_if = "Option::is_none")]
    pub global_job: Option<Empty>,
}

crate::json::omit_default!(ServiceMode);

impl ServiceMode {
    /// A number of tasks, anywhere.
    pub fn replicated(replicas: u64) -> Self {
        Self {
            replicated: Some(ReplicatedMode {
                replicas: Some(replicas),
            }),
            ..Self::default()
        }
    }

    /// One task on each node that fits.
    pub fn global() -> Self {
        Self {
            global: Some(Empty {}),
            ..Self::default()
        }
    }

    /// How many tasks a replicated service wants; `None` for the other modes.
    pub fn replicas(&self) -> Option<u64> {
        if self.global.is_some() || self.replicated_job.is_some() || self.global_job.is_some() {
            return None;
        }
        Some(
            self.replicated
                .as_ref()
                .and_then(|mode| mode.replicas)
                .unwrap_or(1),
        )
    }

    /// Whether the service has one task on each node.
    pub fn is_global(&self) -> bool {
        self.global.is_some()
    }

    /// Whether the tasks run to their end and are not replaced.
    pub fn is_job(&self) -> bool {
        self.replicated_job.is_some() || self.global_job.is_some()
    }

    /// Whether both are of one kind, whatever their numbers: the kind of a service never changes.
    pub fn same_kind(&self, other: &Self) -> bool {
        let kind = |mode: &Self| {
            (
                mode.is_global(),
                mode.replicated_job.is_some(),
                mode.global_job.is_some(),
            )
        };
        kind(self) == kind(other)
    }
}

/// An object without fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Empty {}

/// A number of tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ReplicatedMode {
    /// 1 where it is not said.
    #[serde(rename = "Replicas", default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u64>,
}

/// A number of runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct JobMode {
    /// How many at a time; as many as there are in all where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u64>,
    /// How many in all; 1 where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_completions: Option<u64>,
}

api_word! {
    /// What happens when an update fails.
    pub enum FailureAction {
        /// Stop where it is and wait for the user.
        #[default]
        Pause = "pause",
        /// Go on.
        Continue = "continue",
        /// Go back to the spec before.
        Rollback = "rollback",
    }
}

api_word! {
    /// In which order a task and its replacement change places.
    pub enum UpdateOrder {
        /// The old one ends before the new one starts.
        #[default]
        StopFirst = "stop-first",
        /// The new one runs before the old one ends.
        StartFirst = "start-first",
    }
}

/// How a new spec is rolled out.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UpdateConfig {
    /// Tasks updated at a time; 0 is all at once.
    #[serde(default)]
    pub parallelism: u64,
    /// Nanoseconds between one group and the next.
    #[serde(default, skip_serializing_if = "crate::json::is_default")]
    pub delay: i64,
    /// What happens when too many fail.
    #[serde(default)]
    pub failure_action: FailureAction,
    /// Nanoseconds for which a failure of a new task counts against the update; 0 is the default of 5 s.
    #[serde(default, skip_serializing_if = "crate::json::is_default")]
    pub monitor: i64,
    /// Share of tasks, 0 to 1, that may fail.
    #[serde(default)]
    pub max_failure_ratio: f32,
    /// Old first or new first.
    #[serde(default)]
    pub order: UpdateOrder,
}

impl Default for UpdateConfig {
    /// SwarmKit's defaults: one at a time, no delay, pause on failure, 5 s of watching.
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay: 0,
            failure_action: FailureAction::Pause,
            monitor: 5_000_000_000,
            max_failure_ratio: 0.0,
            order: UpdateOrder::StopFirst,
        }
    }
}

api_word! {
    /// After which end a task is replaced.
    pub enum RestartCondition {
        /// Never.
        None = "none",
        /// After a failure.
        OnFailure = "on-failure",
        /// After any end.
        #[default]
        Any = "any",
    }
}

api_struct! {
    /// Whether and when an ended task is replaced.
    pub struct RestartPolicy {
        /// After which end.
        pub condition: RestartCondition,
        /// Nanoseconds before the replacement starts; 5 s where it is not said.
        pub delay: Option<i64>,
        /// How often within the window; without limit where it is 0 or not said.
        pub max_attempts: Option<u64>,
        /// Nanoseconds over which attempts are counted; for ever where it is 0 or not said.
        pub window: Option<i64>,
    }
}

api_struct! {
    /// Limits, and what must be free on a node.
    pub struct ResourceRequirements {
        /// What the container may use at most.
        pub limits: Option<Limits>,
        /// What the scheduler sets aside.
        pub reservations: Option<Reservations>,
    }
}

api_struct! {
    /// What a container may use at most; 0 is no limit.
    pub struct Limits {
        /// Billionths of a processor.
        #[serde(rename = "NanoCPUs")]
        pub nano_cpus: i64,
        /// Bytes of memory.
        pub memory_bytes: i64,
        /// Number of processes.
        pub pids: i64,
    }
}

api_struct! {
    /// What the scheduler sets aside on a node; also what a node has.
    pub struct Reservations {
        /// Billionths of a processor.
        #[serde(rename = "NanoCPUs")]
        pub nano_cpus: i64,
        /// Bytes of memory.
        pub memory_bytes: i64,
        /// Things that a node's operator counts or names.
        pub generic_resources: Vec<GenericResource>,
    }
}

api_struct! {
    /// A thing that a node's operator counts or names.
    pub struct GenericResource {
        /// One of a set of names.
        pub named_resource_spec: Option<NamedResource>,
        /// A number of equal things.
        pub discrete_resource_spec: Option<DiscreteResource>,
    }
}

api_struct! {
    /// A named thing, such as `gpu=UUID1`.
    pub struct NamedResource {
        /// What kind of thing.
        pub kind: String,
        /// Which one.
        pub value: String,
    }
}

api_struct! {
    /// A number of equal things, such as `ssd=3`.
    pub struct DiscreteResource {
        /// What kind of thing.
        pub kind: String,
        /// How many.
        pub value: i64,
    }
}

api_struct! {
    /// On which nodes a task may run.
    pub struct Placement {
        /// Expressions such as `node.labels.zone==a`; all must hold.
        pub constraints: Vec<String>,
        /// Over what to spread evenly, outermost first.
        pub preferences: Vec<PlacementPreference>,
        /// Tasks of the service per node at most; 0 is no limit.
        pub max_replicas: u64,
        /// Platforms that the image runs on; none is any.
        pub platforms: Vec<Platform>,
    }
}

api_struct! {
    /// Over what to spread evenly.
    pub struct PlacementPreference {
        /// The only kind that there is.
        pub spread: Option<SpreadOver>,
    }
}

api_struct! {
    /// A label by which nodes are grouped.
    pub struct SpreadOver {
        /// Such as `node.labels.zone`.
        pub spread_descriptor: String,
    }
}

api_struct! {
    /// A processor architecture and an operating system.
    pub struct Platform {
        /// Such as `x86_64`.
        pub architecture: String,
        /// Such as `linux`.
        #[serde(rename = "OS")]
        pub os: String,
    }
}

api_struct! {
    /// A network that a task shall be on.
    pub struct NetworkAttachmentConfig {
        /// The network's identifier or name.
        pub target: String,
        /// Names by which the service's tasks are found on it, beside the service's name.
        pub aliases: Vec<String>,
        /// Options for the driver.
        pub driver_opts: Labels,
        /// Addresses that it shall have there, and no others; one task only can have them.
        pub addresses: Vec<String>,
    }
}

api_struct! {
    /// A driver by name with options: of logs, secrets or templates.
    pub struct LogDriver {
        /// The driver.
        pub name: String,
        /// Its options.
        pub options: Labels,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_of_the_docker_cli_is_read_with_its_nulls() {
        let text = r#"{"Name":"web","Labels":null,"TaskTemplate":{"ContainerSpec":{"Image":"bb","Mounts":null,
            "TTY":true,"StopGracePeriod":10000000000},"Resources":{"Limits":{"NanoCPUs":5}},
            "RestartPolicy":{"Condition":"on-failure","Delay":0,"MaxAttempts":3},"ForceUpdate":2},
            "Mode":{"Replicated":{"Replicas":0}},"UpdateConfig":{"Parallelism":2,"Order":"start-first"},
            "EndpointSpec":{"Mode":"vip","Ports":[{"Protocol":"tcp","TargetPort":80,"PublishedPort":8080}]}}"#;
        let spec: ServiceSpec = serde_json::from_str(text).unwrap();
        let container = spec.task_template.container_spec.as_ref().unwrap();
        assert!(container.tty && container.stop_grace_period == Some(10_000_000_000));
        assert_eq!(spec.mode.replicas(), Some(0));
        assert_eq!(
            spec.update_config.as_ref().unwrap().order,
            UpdateOrder::StartFirst
        );
        let back: ServiceSpec = serde_json::from_value(serde_json::to_value(&spec).unwrap()).unwrap();
        assert_eq!(back, spec);
    }

    #[test]
    fn words_are_written_also_when_they_are_the_default() {
        let node = serde_json::to_value(crate::NodeSpec::default()).unwrap();
        assert_eq!(
            (&node["Availability"], &node["Role"]),
            (&"active".into(), &"worker".into())
        );
        let endpoint = serde_json::to_value(EndpointSpec::default()).unwrap();
        assert_eq!(endpoint["Mode"], "vip");
        assert_eq!(serde_json::to_string(&TaskSpec::default()).unwrap(), "{}");
    }

    #[test]
    fn no_mode_is_one_replica() {
        assert_eq!(ServiceMode::default().replicas(), Some(1));
        assert_eq!(ServiceMode::global().replicas(), None);
        assert!(!ServiceMode::global().same_kind(&ServiceMode::replicated(3)));
        assert_eq!(
            serde_json::to_string(&ServiceMode::global()).unwrap(),
            r#"{"Global":{}}"#
        );
    }

    #[test]
    fn an_unknown_word_is_refused_with_the_known_ones() {
        let error = "sometimes".parse::<RestartCondition>().unwrap_err();
        assert!(error.to_string().contains("none, on-failure, any"), "{error}");
        assert!(serde_json::from_str::<RestartPolicy>(r#"{"Condition":"sometimes"}"#).is_err());
    }

    #[test]
    fn an_empty_word_is_the_default() {
        let policy: RestartPolicy = serde_json::from_str(r#"{"Condition":""}"#).unwrap();
        assert_eq!(policy.condition, RestartCondition::Any);
    }
}
