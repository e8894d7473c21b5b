//! `service create` and `service update`: flags over a spec.

use anyhow::{Context, Result, bail};
use clap::Args;
use proto::ServiceSpec;
use proto::spec::{
    ContainerSpec, EndpointMode, EndpointSpec, HealthConfig, LogDriver, NetworkAttachmentConfig, Placement,
    PlacementPreference, PortConfig, PublishMode, RestartPolicy, ServiceMode, SpreadOver, UpdateConfig,
};
use serde_json::Value;

use super::client::{Client, escape};
use super::container::text;
use super::{converge, run, service};
use crate::compose;

/// `service create`
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Service name
    #[arg(long)]
    name: Option<String>,
    /// Service mode ("replicated", "global", "replicated-job", "global-job")
    #[arg(long, default_value = "replicated")]
    mode: String,
    /// Container labels
    #[arg(long)]
    container_label: Vec<String>,
    /// Service labels
    #[arg(short, long)]
    label: Vec<String>,
    /// Set environment variables
    #[arg(short, long)]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long)]
    env_file: Vec<String>,
    /// Attach a filesystem mount to the service
    #[arg(long)]
    mount: Vec<String>,
    /// Network attachments
    #[arg(long)]
    network: Vec<String>,
    /// Publish a port as a node port
    #[arg(short, long)]
    publish: Vec<String>,
    /// Placement constraints
    #[arg(long)]
    constraint: Vec<String>,
    /// Add a placement preference
    #[arg(long)]
    placement_pref: Vec<String>,
    /// Specify secrets to expose to the service
    #[arg(long)]
    secret: Vec<String>,
    /// Specify configurations to expose to the service
    #[arg(long)]
    config: Vec<String>,
    #[command(flatten)]
    common: Common,
    /// Image
    image: String,
    /// Command of the container
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// `service update`
#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Service image tag
    #[arg(long)]
    image: Option<String>,
    /// Service command args
    #[arg(long, allow_hyphen_values = true)]
    args: Option<String>,
    /// Force update even if no changes require it
    #[arg(long)]
    force: bool,
    /// Rollback to previous specification
    #[arg(long)]
    rollback: bool,
    /// Add or update an environment variable
    #[arg(long)]
    env_add: Vec<String>,
    /// Remove an environment variable
    #[arg(long)]
    env_rm: Vec<String>,
    /// Add or update a service label
    #[arg(long)]
    label_add: Vec<String>,
    /// Remove a label by its key
    #[arg(long)]
    label_rm: Vec<String>,
    /// Add or update a container label
    #[arg(long)]
    container_label_add: Vec<String>,
    /// Remove a container label by its key
    #[arg(long)]
    container_label_rm: Vec<String>,
    /// Add or update a mount on a service
    #[arg(long)]
    mount_add: Vec<String>,
    /// Remove a mount by its target path
    #[arg(long)]
    mount_rm: Vec<String>,
    /// Add or update a published port
    #[arg(long)]
    publish_add: Vec<String>,
    /// Remove a published port by its target port
    #[arg(long)]
    publish_rm: Vec<u16>,
    /// Add or update a placement constraint
    #[arg(long)]
    constraint_add: Vec<String>,
    /// Remove a constraint
    #[arg(long)]
    constraint_rm: Vec<String>,
    /// Add or update a secret on a service
    #[arg(long)]
    secret_add: Vec<String>,
    /// Remove a secret
    #[arg(long)]
    secret_rm: Vec<String>,
    /// Add or update a config file on a service
    #[arg(long)]
    config_add: Vec<String>,
    /// Remove a configuration file
    #[arg(long)]
    config_rm: Vec<String>,
    #[command(flatten)]
    common: Common,
    service: String,
}

/// Flags that create and update share: each that is given takes the place of what the spec says.
#[derive(Debug, Args)]
struct Common {
    /// Exit immediately instead of waiting for the service to converge
    #[arg(short, long)]
    detach: bool,
    /// Suppress progress output
    #[arg(short, long)]
    quiet: bool,
    /// Number of tasks
    #[arg(long)]
    replicas: Option<u64>,
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
    #[arg(long)]
    read_only: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    tty: bool,
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
    /// Command to run to check health
    #[arg(long)]
    health_cmd: Option<String>,
    /// Time between running the check (ms|s|m|h)
    #[arg(long)]
    health_interval: Option<String>,
    /// Maximum time to allow one check to run (ms|s|m|h)
    #[arg(long)]
    health_timeout: Option<String>,
    /// Consecutive failures needed to report unhealthy
    #[arg(long)]
    health_retries: Option<i64>,
    /// Start period for the container to initialize (ms|s|m|h)
    #[arg(long)]
    health_start_period: Option<String>,
    /// Disable any container-specified HEALTHCHECK
    #[arg(long)]
    no_healthcheck: bool,
    /// Logging driver for service
    #[arg(long)]
    log_driver: Option<String>,
    /// Logging driver options
    #[arg(long)]
    log_opt: Vec<String>,
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

impl Create {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let spec = self.spec(client).await?;
        let answer = client.post("/services/create", &spec).await?;
        service::warn(&answer);
        let id = text(&answer["ID"]);
        println!("{id}");
        if self.common.detach {
            Ok(())
        } else {
            converge::wait(client, &[id]).await
        }
    }

    async fn spec(&self, client: &Client) -> Result<ServiceSpec> {
        let mut container = ContainerSpec {
            image: self.image.clone(),
            args: self.command.clone(),
            labels: run::labels(&self.container_label),
            env: environment(&self.env, &self.env_file)?,
            mounts: self.mount.iter().map(|word| mount(word)).collect::<Result<_>>()?,
            ..ContainerSpec::default()
        };
        for word in &self.secret {
            container.secrets.push(secret(client, word).await?);
        }
        for word in &self.config {
            container.configs.push(config(client, word).await?);
        }
        let mut spec = ServiceSpec {
            name: self.name.clone().unwrap_or_default(),
            labels: run::labels(&self.label),
            mode: mode(&self.mode, self.common.replicas)?,
            ..ServiceSpec::default()
        };
        if spec.name.is_empty() {
            spec.name = format!("service-{}", &proto::ServiceId::random().as_str()[..8]);
        }
        spec.task_template.container_spec = Some(container);
        spec.task_template.networks = self.network.iter().map(|word| network(word)).collect();
        if !self.publish.is_empty() {
            let ports = self
                .publish
                .iter()
                .map(|word| publish(word))
                .collect::<Result<Vec<_>>>()?;
            spec.endpoint_spec = Some(EndpointSpec {
                ports: ports.concat(),
                ..EndpointSpec::default()
            });
        }
        if !self.constraint.is_empty() || !self.placement_pref.is_empty() {
            let preferences = self
                .placement_pref
                .iter()
                .map(|word| preference(word))
                .collect::<Result<_>>()?;
            let constraints = self.constraint.clone();
            spec.task_template.placement = Some(Placement {
                constraints,
                preferences,
                ..Placement::default()
            });
        }
        self.common.apply(&mut spec)?;
        Ok(spec)
    }
}

impl Update {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let found = client
            .get(&format!("/services/{}", escape(&self.service)))
            .await?;
        let id = text(&found["ID"]);
        let mut path = format!("/services/{id}/update?version={}", found["Version"]["Index"]);
        let mut spec: ServiceSpec =
            serde_json::from_value(found["Spec"].clone()).context("the service's spec")?;
        if self.rollback {
            path.push_str("&rollback=previous");
        } else {
            self.apply(client, &mut spec).await?;
        }
        let answer = client.post(&path, &spec).await?;
        service::warn(&answer);
        println!("{}", self.service);
        if self.common.detach {
            Ok(())
        } else {
            converge::wait(client, &[id]).await
        }
    }

    async fn apply(&self, client: &Client, spec: &mut ServiceSpec) -> Result<()> {
        if let Some(replicas) = self.common.replicas {
            if spec.mode.replicas().is_none() {
                bail!("replicas can only be used with replicated mode");
            }
            spec.mode = ServiceMode::replicated(replicas);
        }
        change_map(&mut spec.labels, &self.label_add, &self.label_rm);
        let task = &mut spec.task_template;
        task.force_update += u64::from(self.force);
        let constraints = &mut task.placement.get_or_insert_default().constraints;
        constraints.retain(|constraint| !self.constraint_rm.contains(constraint));
        constraints.extend(self.constraint_add.iter().cloned());
        if task.placement == Some(Placement::default()) {
            task.placement = None;
        }
        let container = task.container_spec.get_or_insert_default();
        self.apply_container(client, container).await?;
        self.apply_ports(spec)?;
        self.common.apply(spec)
    }

    async fn apply_container(&self, client: &Client, container: &mut ContainerSpec) -> Result<()> {
        set(&mut container.image, self.image.clone());
        if let Some(line) = &self.args {
            container.args = compose::split_words(line).map_err(anyhow::Error::msg)?;
        }
        change_map(
            &mut container.labels,
            &self.container_label_add,
            &self.container_label_rm,
        );
        let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
        let added = environment(&self.env_add, &[])?;
        container.env.retain(|old| {
            !self.env_rm.contains(&name(old)) && !added.iter().any(|new| name(new) == name(old))
        });
        container.env.extend(added);
        let mounts = self
            .mount_add
            .iter()
            .map(|word| mount(word))
            .collect::<Result<Vec<_>>>()?;
        container.mounts.retain(|old| {
            !self.mount_rm.contains(&old.target) && !mounts.iter().any(|new| new.target == old.target)
        });
        container.mounts.extend(mounts);
        container
            .secrets
            .retain(|used| !self.secret_rm.contains(&used.secret_name));
        for word in &self.secret_add {
            container.secrets.push(secret(client, word).await?);
        }
        container
            .configs
            .retain(|used| !self.config_rm.contains(&used.config_name));
        for word in &self.config_add {
            container.configs.push(config(client, word).await?);
        }
        Ok(())
    }

    fn apply_ports(&self, spec: &mut ServiceSpec) -> Result<()> {
        if self.publish_add.is_empty() && self.publish_rm.is_empty() {
            return Ok(());
        }
        let added = self
            .publish_add
            .iter()
            .map(|word| publish(word))
            .collect::<Result<Vec<_>>>()?
            .concat();
        let ports = &mut spec.endpoint_spec.get_or_insert_default().ports;
        ports.retain(|old| {
            !self.publish_rm.contains(&old.target_port)
                && !added
                    .iter()
                    .any(|new| (new.target_port, new.protocol) == (old.target_port, old.protocol))
        });
        ports.extend(added);
        Ok(())
    }
}

impl Common {
    fn apply(&self, spec: &mut ServiceSpec) -> Result<()> {
        if let Some(mode) = self.endpoint_mode {
            spec.endpoint_spec.get_or_insert_default().mode = mode;
        }
        self.update.apply(&mut spec.update_config)?;
        self.rollback.apply(&mut spec.rollback_config)?;
        let task = &mut spec.task_template;
        if let Some(most) = self.replicas_max_per_node {
            task.placement.get_or_insert_default().max_replicas = most;
        }
        if let Some(name) = &self.log_driver {
            task.log_driver = Some(LogDriver {
                name: name.clone(),
                options: run::labels(&self.log_opt),
            });
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
        container.read_only |= self.read_only;
        container.tty |= self.tty;
        if let Some(grace) = nanoseconds(self.stop_grace_period.as_deref())? {
            container.stop_grace_period = Some(grace);
        }
        container.capability_add.extend(self.cap_add.iter().cloned());
        container.capability_drop.extend(self.cap_drop.iter().cloned());
        let mut health = container.healthcheck.clone().unwrap_or_default();
        if self.no_healthcheck {
            health = HealthConfig {
                test: vec!["NONE".to_owned()],
                ..HealthConfig::default()
            };
        }
        set(
            &mut health.test,
            self.health_cmd
                .as_ref()
                .map(|line| vec!["CMD-SHELL".to_owned(), line.clone()]),
        );
        set(
            &mut health.interval,
            nanoseconds(self.health_interval.as_deref())?,
        );
        set(&mut health.timeout, nanoseconds(self.health_timeout.as_deref())?);
        set(
            &mut health.start_period,
            nanoseconds(self.health_start_period.as_deref())?,
        );
        set(&mut health.retries, self.health_retries);
        container.healthcheck = (health != HealthConfig::default()).then_some(health);
        Ok(())
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

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn nanoseconds(word: Option<&str>) -> Result<Option<i64>> {
    word.map(compose::duration)
        .transpose()
        .map_err(anyhow::Error::msg)
}

fn change_map(map: &mut proto::spec::Labels, add: &[String], remove: &[String]) {
    map.retain(|key, _| !remove.contains(key));
    map.extend(run::labels(add));
}

fn environment(words: &[String], files: &[String]) -> Result<Vec<String>> {
    let mut variables = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).with_context(|| format!("read the env file {file}"))?;
        let pairs =
            compose::env_file(&text).map_err(|problem| anyhow::anyhow!("env file {file}: {problem}"))?;
        variables.extend(pairs.into_iter().map(|(name, value)| format!("{name}={value}")));
    }
    for word in words {
        match std::env::var(word) {
            _ if word.contains('=') => variables.push(word.clone()),
            Ok(value) => variables.push(format!("{word}={value}")),
            Err(_) => {}
        }
    }
    Ok(variables)
}

fn mode(word: &str, replicas: Option<u64>) -> Result<ServiceMode> {
    match (word, replicas) {
        ("replicated", replicas) => Ok(ServiceMode::replicated(replicas.unwrap_or(1))),
        ("global", None) => Ok(ServiceMode::global()),
        ("replicated-job", replicas) => {
            let count = replicas.or(Some(1));
            let job = proto::spec::JobMode {
                max_concurrent: count,
                total_completions: count,
            };
            Ok(ServiceMode {
                replicated_job: Some(job),
                ..ServiceMode::default()
            })
        }
        ("global-job", None) => Ok(ServiceMode {
            global_job: Some(proto::spec::Empty {}),
            ..ServiceMode::default()
        }),
        ("global" | "global-job", Some(_)) => {
            bail!("replicas can only be used with replicated or replicated-job mode")
        }
        _ => bail!(
            "unknown mode {word:?}: only replicated, global, replicated-job and global-job are supported"
        ),
    }
}

fn mount(word: &str) -> Result<proto::spec::Mount> {
    Ok(serde_json::from_value(run::long_mount(word)?)?)
}

/// `name`, or `name=…,alias=…`.
fn network(word: &str) -> NetworkAttachmentConfig {
    let mut attachment = NetworkAttachmentConfig::default();
    for part in word.split(',') {
        match part.split_once('=') {
            Some(("name", name)) => name.clone_into(&mut attachment.target),
            Some(("alias", alias)) => attachment.aliases.push(alias.to_owned()),
            _ => part.clone_into(&mut attachment.target),
        }
    }
    attachment
}

/// `8080:80/tcp`, or `published=8080,target=80,protocol=tcp,mode=host`.
fn publish(word: &str) -> Result<Vec<PortConfig>> {
    if !word.contains('=') {
        return compose::ports(word).map_err(anyhow::Error::msg);
    }
    let mut port = PortConfig::default();
    for part in word.split(',') {
        let (key, value) = part
            .split_once('=')
            .with_context(|| format!("{part:?} is not key=value"))?;
        match key {
            "published" => port.published_port = value.parse().with_context(|| format!("port {value:?}"))?,
            "target" => port.target_port = value.parse().with_context(|| format!("port {value:?}"))?,
            "protocol" => port.protocol = value.parse()?,
            "mode" => port.publish_mode = value.parse::<PublishMode>()?,
            _ => bail!("{word:?}: the field {key:?} is not known"),
        }
    }
    if port.target_port == 0 {
        bail!("{word:?}: target is required");
    }
    Ok(vec![port])
}

fn preference(word: &str) -> Result<PlacementPreference> {
    let descriptor = word
        .strip_prefix("spread=")
        .with_context(|| format!("{word:?} is not spread=…"))?;
    Ok(PlacementPreference {
        spread: Some(SpreadOver {
            spread_descriptor: descriptor.to_owned(),
        }),
    })
}

/// `name`, or `source=name,target=…,uid=…,gid=…,mode=…`, as the name and where it lies.
fn reference(word: &str) -> Result<(String, proto::spec::FileTarget)> {
    let mut name = String::new();
    let mut file = proto::spec::FileTarget {
        uid: "0".to_owned(),
        gid: "0".to_owned(),
        mode: 0o444,
        ..Default::default()
    };
    for part in word.split(',') {
        match part.split_once('=') {
            None => part.clone_into(&mut name),
            Some(("source" | "src", value)) => value.clone_into(&mut name),
            Some(("target", value)) => value.clone_into(&mut file.name),
            Some(("uid", value)) => value.clone_into(&mut file.uid),
            Some(("gid", value)) => value.clone_into(&mut file.gid),
            Some(("mode", value)) => {
                file.mode = u32::from_str_radix(value, 8).with_context(|| format!("mode {value:?}"))?
            }
            Some((key, _)) => bail!("{word:?}: the field {key:?} is not known"),
        }
    }
    if file.name.is_empty() {
        file.name.clone_from(&name);
    }
    Ok((name, file))
}

async fn secret(client: &Client, word: &str) -> Result<proto::spec::SecretReference> {
    let (name, file) = reference(word)?;
    let id = identifier(client, "secrets", &name).await?;
    Ok(proto::spec::SecretReference {
        file: Some(file),
        secret_id: id.into(),
        secret_name: name,
    })
}

async fn config(client: &Client, word: &str) -> Result<proto::spec::ConfigReference> {
    let (name, file) = reference(word)?;
    let id = identifier(client, "configs", &name).await?;
    Ok(proto::spec::ConfigReference {
        file: Some(file),
        runtime: None,
        config_id: id.into(),
        config_name: name,
    })
}

async fn identifier(client: &Client, kind: &str, name: &str) -> Result<String> {
    let object: Value = client.get(&format!("/{kind}/{}", escape(name))).await?;
    Ok(text(&object["ID"]))
}
