//! Flags that `service create` and `service update` share.

use anyhow::{Result, bail};
use clap::Args;
use proto::ServiceSpec;
use proto::spec::{ContainerSpec, EndpointMode, LogDriver, RestartPolicy, UpdateConfig};

use super::upkeep::UpkeepFlags;
use super::words::{nanoseconds, set};
use crate::cli::converge::WaitFlags;
use crate::cli::health::HealthFlags;
use crate::cli::run;
use crate::compose;

/// Flags that create and update share: each that is given takes the place of what the spec says.
#[derive(Debug, Args)]
pub(super) struct Common {
    #[command(flatten)]
    pub(super) wait: WaitFlags,
    /// Suppress progress output
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Number of tasks
    #[arg(long)]
    pub(super) replicas: Option<u64>,
    /// Maximum number of tasks per node (default 0 = unlimited)
    #[arg(long)]
    replicas_max_per_node: Option<u64>,
    /// Overwrite the default ENTRYPOINT of the image
    #[arg(long)]
    entrypoint: Option<String>,
    /// Container hostname
    #[arg(long)]
    hostname: Option<String>,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short, long)]
    user: Option<String>,
    /// Working directory inside the container
    #[arg(short, long)]
    workdir: Option<String>,
    /// Mount the container's root filesystem as read only
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    read_only: Option<bool>,
    /// Allocate a pseudo-TTY
    #[arg(short, long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tty: Option<bool>,
    /// Signal to stop the container
    #[arg(long)]
    stop_signal: Option<String>,
    /// Time to wait before force killing a container (ns|us|ms|s|m|h)
    #[arg(long)]
    stop_grace_period: Option<String>,
    /// Endpoint mode (vip or dnsrr)
    #[arg(long)]
    endpoint_mode: Option<EndpointMode>,
    /// Limit CPUs
    #[arg(long)]
    limit_cpu: Option<String>,
    /// Limit Memory
    #[arg(long)]
    limit_memory: Option<String>,
    /// Limit maximum number of processes
    #[arg(long)]
    limit_pids: Option<i64>,
    /// Reserve CPUs
    #[arg(long)]
    reserve_cpu: Option<String>,
    /// Reserve Memory
    #[arg(long)]
    reserve_memory: Option<String>,
    /// Restart when condition is met ("none", "on-failure", "any")
    #[arg(long)]
    restart_condition: Option<proto::spec::RestartCondition>,
    /// Delay between restart attempts (ns|us|ms|s|m|h)
    #[arg(long)]
    restart_delay: Option<String>,
    /// Maximum number of restarts before giving up
    #[arg(long)]
    restart_max_attempts: Option<u64>,
    /// Window used to evaluate the restart policy (ns|us|ms|s|m|h)
    #[arg(long)]
    restart_window: Option<String>,
    #[command(flatten)]
    update: UpdateFlags,
    #[command(flatten)]
    rollback: RollbackFlags,
    #[command(flatten)]
    upkeep: UpkeepFlags,
    #[command(flatten)]
    health: HealthFlags,
    /// Logging driver for service
    #[arg(long)]
    log_driver: Option<String>,
    /// Logging driver options
    #[arg(long)]
    log_opt: Vec<String>,
    /// Use an init inside each service container to forward signals and reap processes
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    init: Option<bool>,
    /// Number of job tasks to run concurrently (default equal to --replicas)
    #[arg(long)]
    pub(super) max_concurrent: Option<u64>,
    /// Tune host's OOM preferences (-1000 to 1000)
    #[arg(long, allow_hyphen_values = true)]
    oom_score_adj: Option<i64>,
    /// Add Linux capabilities
    #[arg(long)]
    cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long)]
    cap_drop: Vec<String>,
}

macro_rules! rollout {
    ($name:ident, $parallelism:literal, $delay:literal, $action:literal, $monitor:literal, $ratio:literal, $order:literal) => {
        #[derive(Debug, Args)]
        struct $name {
            /// Maximum number of tasks at a time (0 for all at once)
            #[arg(id = $parallelism, long = $parallelism)]
            parallelism: Option<u64>,
            /// Delay between tasks (ns|us|ms|s|m|h)
            #[arg(id = $delay, long = $delay)]
            delay: Option<String>,
            /// Action on failure
            #[arg(id = $action, long = $action)]
            failure_action: Option<proto::spec::FailureAction>,
            /// Duration after each task to monitor for failure (ns|us|ms|s|m|h)
            #[arg(id = $monitor, long = $monitor)]
            monitor: Option<String>,
            /// Failure rate to tolerate
            #[arg(id = $ratio, long = $ratio)]
            max_failure_ratio: Option<f32>,
            /// Order ("start-first", "stop-first")
            #[arg(id = $order, long = $order)]
            order: Option<proto::spec::UpdateOrder>,
        }

        impl $name {
            fn apply(&self, config: &mut Option<UpdateConfig>) -> Result<()> {
                let mut changed = config.clone().unwrap_or_default();
                set(&mut changed.parallelism, self.parallelism);
                set(&mut changed.delay, nanoseconds(self.delay.as_deref())?);
                set(&mut changed.failure_action, self.failure_action);
                set(&mut changed.monitor, nanoseconds(self.monitor.as_deref())?);
                set(&mut changed.max_failure_ratio, self.max_failure_ratio);
                set(&mut changed.order, self.order);
                if config.is_some() || changed != UpdateConfig::default() {
                    *config = Some(changed);
                }
                Ok(())
            }
        }
    };
}

rollout!(
    UpdateFlags,
    "update-parallelism",
    "update-delay",
    "update-failure-action",
    "update-monitor",
    "update-max-failure-ratio",
    "update-order"
);
rollout!(
    RollbackFlags,
    "rollback-parallelism",
    "rollback-delay",
    "rollback-failure-action",
    "rollback-monitor",
    "rollback-max-failure-ratio",
    "rollback-order"
);

impl Common {
    /// Writes the flags into `spec`.
    pub(super) fn apply(&self, spec: &mut ServiceSpec) -> Result<()> {
        if let Some(mode) = self.endpoint_mode {
            spec.endpoint_spec.get_or_insert_default().mode = mode;
        }
        self.update.apply(&mut spec.update_config)?;
        self.rollback.apply(&mut spec.rollback_config)?;
        self.upkeep.apply(&mut spec.labels)?;
        let task = &mut spec.task_template;
        if let Some(most) = self.replicas_max_per_node {
            task.placement.get_or_insert_default().max_replicas = most;
        }
        if let Some(name) = &self.log_driver {
            task.log_driver = Some(LogDriver {
                name: name.clone(),
                options: run::labels(&self.log_opt),
            });
        } else if !self.log_opt.is_empty() {
            bail!("--log-opt needs --log-driver");
        }
        self.restart(&mut task.restart_policy)?;
        self.resources(task)?;
        self.container(task.container_spec.get_or_insert_default())
    }

    fn container(&self, container: &mut ContainerSpec) -> Result<()> {
        if let Some(line) = &self.entrypoint {
            container.command = compose::split_words(line).map_err(anyhow::Error::msg)?;
        }
        set(&mut container.hostname, self.hostname.clone());
        set(&mut container.user, self.user.clone());
        set(&mut container.dir, self.workdir.clone());
        set(&mut container.stop_signal, self.stop_signal.clone());
        set(&mut container.read_only, self.read_only);
        set(&mut container.tty, self.tty);
        container.init = self.init.or(container.init);
        set(&mut container.oom_score_adj, self.oom_score_adj);
        if let Some(grace) = nanoseconds(self.stop_grace_period.as_deref())? {
            container.stop_grace_period = Some(grace);
        }
        capabilities(
            &self.cap_add,
            &mut container.capability_add,
            &mut container.capability_drop,
        );
        capabilities(
            &self.cap_drop,
            &mut container.capability_drop,
            &mut container.capability_add,
        );
        self.health.apply(&mut container.healthcheck)
    }

    fn restart(&self, policy: &mut Option<RestartPolicy>) -> Result<()> {
        let mut changed = policy.clone().unwrap_or_default();
        set(&mut changed.condition, self.restart_condition);
        changed.delay = nanoseconds(self.restart_delay.as_deref())?.or(changed.delay);
        changed.max_attempts = self.restart_max_attempts.or(changed.max_attempts);
        changed.window = nanoseconds(self.restart_window.as_deref())?.or(changed.window);
        if policy.is_some() || changed != RestartPolicy::default() {
            *policy = Some(changed);
        }
        Ok(())
    }

    fn resources(&self, task: &mut proto::TaskSpec) -> Result<()> {
        let cpus = |word: &Option<String>| {
            word.as_deref()
                .map(compose::nano_cpus)
                .transpose()
                .map_err(anyhow::Error::msg)
        };
        let bytes = |word: &Option<String>| {
            word.as_deref()
                .map(compose::bytes)
                .transpose()
                .map_err(anyhow::Error::msg)
        };
        let mut resources = task.resources.clone().unwrap_or_default();
        let mut limits = resources.limits.clone().unwrap_or_default();
        set(&mut limits.nano_cpus, cpus(&self.limit_cpu)?);
        set(&mut limits.memory_bytes, bytes(&self.limit_memory)?);
        set(&mut limits.pids, self.limit_pids);
        resources.limits = (limits != Default::default()).then_some(limits);
        let mut reservations = resources.reservations.clone().unwrap_or_default();
        set(&mut reservations.nano_cpus, cpus(&self.reserve_cpu)?);
        set(&mut reservations.memory_bytes, bytes(&self.reserve_memory)?);
        resources.reservations = (reservations != Default::default()).then_some(reservations);
        task.resources = (resources != Default::default()).then_some(resources);
        Ok(())
    }
}

/// Adds to one list; what is added to it is no longer in the other.
fn capabilities(words: &[String], to: &mut Vec<String>, from: &mut Vec<String>) {
    let name = |word: &str| {
        let upper = word.to_ascii_uppercase();
        match upper.strip_prefix("CAP_") {
            Some(_) => upper,
            None if upper == "ALL" => upper,
            None => format!("CAP_{upper}"),
        }
    };
    for word in words.iter().map(|word| name(word)) {
        from.retain(|known| name(known) != word);
        if !to.iter().any(|known| name(known) == word) {
            to.push(word);
        }
    }
}
