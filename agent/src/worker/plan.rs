//! A task as a container to be made: pure translation, so that every rule is a unit test.
//!
//! Input: the task and what its placeholders may name. Output: the engine's create request without the content of
//! secrets and configs, which [`super::files`] adds.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proto::Task;
use proto::object::NetworkAttachment;
use proto::spec::{ContainerSpec, PublishMode, TaskSpec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::template::{TemplateContext, TemplateError};
use crate::api::types::config::{ContainerConfig, HealthConfig};
use crate::api::types::host_config::{HostConfig, LogConfig, PortBinding, Ulimit};
use crate::api::types::network_settings::{EndpointIpamConfig, EndpointSettings, NetworkingConfig};
use crate::engine::{CreateContainer, TaskRef};

/// Nanoseconds per second, the unit of periods in specs.
const SECOND: i64 = 1_000_000_000;
/// The network of a task that names none.
const DEFAULT_NETWORK: &str = "bridge";

/// Why a task cannot become a container on any node.
#[derive(Debug, Error)]
pub enum PlanError {
    /// The spec runs no container.
    #[error("the task has no container spec")]
    NoContainer,
    /// A placeholder that cannot be expanded.
    #[error("{field}")]
    Template {
        /// Where it stands.
        field: &'static str,
        /// What is wrong with it.
        #[source]
        source: TemplateError,
    },
    /// A part of the spec that is not built.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// An address of the allocator that is none.
    #[error("address {0:?} of the task is not an IPv4 address")]
    Address(String),
    /// A line of hosts that names none.
    #[error("host {0:?} is not an address and a name")]
    Host(String),
    /// A mount that the engine does not understand.
    #[error("mount at {target:?}")]
    Mount {
        /// Where in the container.
        target: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// What the placeholders of `task` may name on this node.
pub fn template_context(task: &Task, node_hostname: &str) -> TemplateContext {
    TemplateContext {
        service_id: task.service_id.to_string(),
        service_name: task.service_name.clone(),
        service_labels: task.labels.clone(),
        node_id: task.node_id.to_string(),
        node_hostname: node_hostname.to_owned(),
        platform_os: "linux".into(),
        platform_architecture: std::env::consts::ARCH.into(),
        task_id: task.id.to_string(),
        task_name: task.name(),
        task_slot: if task.slot == 0 {
            task.node_id.to_string()
        } else {
            task.slot.to_string()
        },
    }
}

/// The container of `task`.
pub fn container(task: &Task, node_hostname: &str) -> Result<CreateContainer, PlanError> {
    let spec = task.spec.container_spec.as_ref().ok_or(PlanError::NoContainer)?;
    refuse_unsupported(spec)?;
    let words = template_context(task, node_hostname);
    Ok(CreateContainer {
        name: Some(task.name()),
        config: config(task, spec, &words)?,
        host_config: host_config(task, spec, &words)?,
        networking: networking(task)?,
        task: Some(TaskRef {
            task_id: task.id.to_string(),
            service_id: task.service_id.to_string(),
            node_id: task.node_id.to_string(),
            lease: lease(task),
        }),
        files: Vec::new(),
    })
}

/// Nanoseconds that the task may run without word from the managers.
fn lease(task: &Task) -> Option<u64> {
    let lease = proto::upkeep::fencing(&task.labels)?;
    u64::try_from(lease.as_nanos()).ok()
}

/// Seconds between the stop signal and the kill; `None` is the engine's default. Rounded up: a grace is a promise.
pub fn stop_timeout(spec: &TaskSpec) -> Option<i64> {
    let grace = spec.container_spec.as_ref()?.stop_grace_period?;
    Some((grace + SECOND - 1).div_euclid(SECOND))
}

fn refuse_unsupported(spec: &ContainerSpec) -> Result<(), PlanError> {
    let no = |what: &str| Err(PlanError::Unsupported(what.to_owned()));
    if !matches!(spec.isolation.as_str(), "" | "default") {
        return no("isolation of containers (a Windows setting)");
    }
    let Some(privileges) = &spec.privileges else {
        return Ok(());
    };
    if privileges.credential_spec.is_some() {
        return no("a credential spec (a Windows setting)");
    }
    match &privileges.selinux_context {
        Some(context) if !context.disable => no("an SELinux context"),
        _ => Ok(()),
    }
}

fn config(task: &Task, spec: &ContainerSpec, words: &TemplateContext) -> Result<ContainerConfig, PlanError> {
    let expand = |field| {
        move |text: &String| {
            words
                .expand(text)
                .map_err(|source| PlanError::Template { field, source })
        }
    };
    let mut env = spec
        .env
        .iter()
        .map(expand("environment"))
        .collect::<Result<Vec<_>, _>>()?;
    env.extend(generic_resources(task));
    Ok(ContainerConfig {
        hostname: expand("hostname")(&spec.hostname)?,
        user: spec.user.clone(),
        env,
        cmd: filled(&spec.args),
        entrypoint: filled(&spec.command),
        image: spec.image.clone(),
        working_dir: spec.dir.clone(),
        tty: spec.tty,
        open_stdin: spec.open_stdin,
        labels: labels(task, spec),
        stop_signal: spec.stop_signal.clone(),
        stop_timeout: stop_timeout(&task.spec),
        healthcheck: spec.healthcheck.as_ref().map(|health| HealthConfig {
            test: health.test.clone(),
            interval: health.interval,
            timeout: health.timeout,
            start_period: health.start_period,
            start_interval: health.start_interval,
            retries: health.retries,
        }),
        ..ContainerConfig::default()
    })
}

/// Docker's labels of a task's container; users' labels cannot displace them.
fn labels(task: &Task, spec: &ContainerSpec) -> BTreeMap<String, String> {
    let mut labels = spec.labels.clone();
    let ours = [
        ("com.docker.swarm.node.id", task.node_id.to_string()),
        ("com.docker.swarm.service.id", task.service_id.to_string()),
        ("com.docker.swarm.service.name", task.service_name.clone()),
        ("com.docker.swarm.task", String::new()),
        ("com.docker.swarm.task.id", task.id.to_string()),
        ("com.docker.swarm.task.name", task.name()),
    ];
    labels.extend(ours.map(|(name, value)| (name.to_owned(), value)));
    labels
}

/// What the scheduler gave the task, as SwarmKit tells the process: `DOCKER_RESOURCE_<KIND>=<values>`.
fn generic_resources(task: &Task) -> Vec<String> {
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for resource in &task.generic_resources {
        if let Some(named) = &resource.named_resource_spec {
            values
                .entry(named.kind.to_uppercase())
                .or_default()
                .push(named.value.clone());
        }
        if let Some(discrete) = &resource.discrete_resource_spec {
            values
                .entry(discrete.kind.to_uppercase())
                .or_default()
                .push(discrete.value.to_string());
        }
    }
    values
        .into_iter()
        .map(|(kind, values)| format!("DOCKER_RESOURCE_{kind}={}", values.join(",")))
        .collect()
}

fn host_config(task: &Task, spec: &ContainerSpec, words: &TemplateContext) -> Result<HostConfig, PlanError> {
    let dns = spec.dns_config.clone().unwrap_or_default();
    let mut host = HostConfig {
        network_mode: primary_network(task),
        cap_add: spec.capability_add.clone(),
        cap_drop: spec.capability_drop.clone(),
        dns: dns.nameservers,
        dns_search: dns.search,
        dns_options: dns.options,
        extra_hosts: extra_hosts(&spec.hosts)?,
        group_add: spec.groups.clone(),
        readonly_rootfs: spec.read_only,
        security_opt: security_opt(spec)?,
        sysctls: spec.sysctls.clone(),
        init: spec.init,
        oom_score_adj: spec.oom_score_adj,
        ulimits: spec.ulimits.iter().map(ulimit).collect(),
        mounts: mounts(spec, words)?,
        ..HostConfig::default()
    };
    if let Some(driver) = &task.spec.log_driver {
        host.log_config = LogConfig {
            driver: driver.name.clone(),
            config: driver.options.clone(),
        };
    }
    limit(&mut host, &task.spec);
    publish(&mut host, task);
    Ok(host)
}

/// `IP name [name …]` of the API becomes `name:IP` of the engine.
fn extra_hosts(lines: &[String]) -> Result<Vec<String>, PlanError> {
    let mut entries = Vec::new();
    for line in lines {
        let mut words = line.split_whitespace();
        let address = words.next().unwrap_or_default();
        let before = entries.len();
        entries.extend(words.map(|name| format!("{name}:{address}")));
        if entries.len() == before {
            return Err(PlanError::Host(line.clone()));
        }
    }
    Ok(entries)
}

fn security_opt(spec: &ContainerSpec) -> Result<Vec<String>, PlanError> {
    let Some(privileges) = &spec.privileges else {
        return Ok(Vec::new());
    };
    let mut options = Vec::new();
    if privileges.no_new_privileges {
        options.push("no-new-privileges".to_owned());
    }
    match privileges.seccomp.as_ref().map(|seccomp| seccomp.mode.as_str()) {
        None | Some("" | "default") => {}
        Some("unconfined") => options.push("seccomp=unconfined".to_owned()),
        Some(other) => {
            return Err(PlanError::Unsupported(format!(
                "the seccomp mode {other:?} of a service"
            )));
        }
    }
    match privileges.app_armor.as_ref().map(|profile| profile.mode.as_str()) {
        None | Some("" | "default") => {}
        Some("disabled") => options.push("apparmor=unconfined".to_owned()),
        Some(other) => return Err(PlanError::Unsupported(format!("the AppArmor mode {other:?}"))),
    }
    Ok(options)
}

fn ulimit(limit: &proto::spec::Ulimit) -> Ulimit {
    Ulimit {
        name: limit.name.clone(),
        hard: limit.hard,
        soft: limit.soft,
    }
}

/// Both sides spell the API's JSON, so a mount travels as such.
fn mounts<T: DeserializeOwned>(spec: &ContainerSpec, words: &TemplateContext) -> Result<Vec<T>, PlanError> {
    let translate = |mount: &proto::spec::Mount| {
        let mut mount = mount.clone();
        let expand = |text: &str| {
            words.expand(text).map_err(|source| PlanError::Template {
                field: "mounts",
                source,
            })
        };
        mount.source = expand(&mount.source)?;
        mount.target = expand(&mount.target)?;
        let error = |source| PlanError::Mount {
            target: mount.target.clone(),
            source,
        };
        let json = to_json(&mount).map_err(error)?;
        serde_json::from_value(json).map_err(error)
    };
    spec.mounts.iter().map(translate).collect()
}

fn to_json(value: &impl Serialize) -> Result<serde_json::Value, serde_json::Error> {
    serde_json::to_value(value)
}

fn limit(host: &mut HostConfig, spec: &TaskSpec) {
    let Some(resources) = &spec.resources else { return };
    if let Some(limits) = &resources.limits {
        host.nano_cpus = limits.nano_cpus;
        host.memory = limits.memory_bytes;
        host.pids_limit = (limits.pids > 0).then_some(limits.pids);
    }
    if let Some(reservations) = &resources.reservations {
        host.memory_reservation = reservations.memory_bytes;
    }
}

/// Ports of mode `host` are the container's own; those of mode `ingress` are the service's.
fn publish(host: &mut HostConfig, task: &Task) {
    let ports = task.endpoint.iter().flat_map(|endpoint| &endpoint.ports);
    for port in ports.filter(|port| port.publish_mode == PublishMode::Host) {
        let host_port = if port.published_port == 0 {
            String::new()
        } else {
            port.published_port.to_string()
        };
        let key = format!("{}/{}", port.target_port, port.protocol);
        let bindings = host.port_bindings.entry(key).or_default().get_or_insert_default();
        bindings.push(PortBinding {
            host_ip: port
                .host_ip
                .map(|address| address.to_string())
                .unwrap_or_default(),
            host_port,
        });
    }
}

fn primary_network(task: &Task) -> String {
    let first = task.networks_attachments.first();
    first.map_or_else(
        || DEFAULT_NETWORK.to_owned(),
        |attachment| attachment.network.id.to_string(),
    )
}

fn networking(task: &Task) -> Result<NetworkingConfig, PlanError> {
    let endpoint = |attachment: &NetworkAttachment| {
        let mut ipam = EndpointIpamConfig::default();
        for address in addresses(attachment)? {
            match address {
                IpAddr::V4(address) => ipam.ipv4_address = address.to_string(),
                IpAddr::V6(address) => ipam.ipv6_address = address.to_string(),
            }
        }
        let ipam = (ipam != EndpointIpamConfig::default()).then_some(ipam);
        // The service's names are the directory's business: a virtual address hides the tasks behind it.
        let settings = EndpointSettings {
            ipam_config: ipam,
            ..EndpointSettings::default()
        };
        Ok((attachment.network.id.to_string(), Some(settings)))
    };
    let endpoints_config = task
        .networks_attachments
        .iter()
        .map(endpoint)
        .collect::<Result<_, PlanError>>()?;
    Ok(NetworkingConfig { endpoints_config })
}

/// The task's addresses on a network that the allocator gave it: at most one of each IP version.
pub fn addresses(attachment: &NetworkAttachment) -> Result<Vec<IpAddr>, PlanError> {
    let parse = |text: &String| {
        let address = text.split('/').next().unwrap_or_default();
        address.parse().map_err(|_| PlanError::Address(text.clone()))
    };
    attachment.addresses.iter().map(parse).collect()
}

fn filled(words: &[String]) -> Option<Vec<String>> {
    (!words.is_empty()).then(|| words.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Network;
    use proto::spec::{EndpointSpec, Limits, Mount, PortConfig, ResourceRequirements};

    fn task(spec: ContainerSpec) -> Task {
        Task {
            id: "t1".into(),
            service_id: "s1".into(),
            service_name: "web".into(),
            node_id: "n1".into(),
            slot: 2,
            spec: std::sync::Arc::new(TaskSpec {
                container_spec: Some(spec),
                ..TaskSpec::default()
            }),
            ..Task::default()
        }
    }

    #[test]
    fn names_labels_and_templates() {
        let spec = ContainerSpec {
            image: "bb".into(),
            hostname: "{{.Service.Name}}-{{.Task.Slot}}".into(),
            env: vec!["NODE={{.Node.Hostname}}".into()],
            labels: BTreeMap::from([("com.docker.swarm.task.id".into(), "forged".into())]),
            args: vec!["sleep".into(), "1".into()],
            ..ContainerSpec::default()
        };
        let made = container(&task(spec), "box").unwrap();
        assert_eq!(made.name.as_deref(), Some("web.2.t1"));
        assert_eq!(made.config.hostname, "web-2");
        assert_eq!(made.config.env, ["NODE=box"]);
        assert_eq!(made.config.labels["com.docker.swarm.task.id"], "t1");
        assert_eq!(made.config.cmd.unwrap(), ["sleep", "1"]);
        assert_eq!(made.config.entrypoint, None);
        assert_eq!(made.host_config.network_mode, "bridge");
    }

    #[test]
    fn a_global_task_is_named_after_its_node() {
        let mut task = task(ContainerSpec {
            hostname: "{{.Task.Slot}}".into(),
            ..ContainerSpec::default()
        });
        task.slot = 0;
        let made = container(&task, "box").unwrap();
        assert_eq!(made.name.as_deref(), Some("web.n1.t1"));
        assert_eq!(made.config.hostname, "n1");
    }

    #[test]
    fn networks_carry_the_allocators_addresses() {
        let mut task = task(ContainerSpec::default());
        task.networks_attachments = vec![NetworkAttachment {
            network: Network {
                id: "net1".into(),
                ..Network::default()
            },
            addresses: vec!["10.0.1.5/24".into()],
            aliases: vec!["db".into()],
        }];
        let made = container(&task, "box").unwrap();
        let endpoint = made.networking.endpoints_config["net1"].as_ref().unwrap();
        assert_eq!(endpoint.ipam_config.as_ref().unwrap().ipv4_address, "10.0.1.5");
        assert!(endpoint.aliases.is_empty());
        assert_eq!(made.host_config.network_mode, "net1");
        task.networks_attachments[0].addresses = vec!["nonsense".into()];
        assert!(container(&task, "box").is_err());
    }

    #[test]
    fn limits_mounts_and_host_ports() {
        let spec = ContainerSpec {
            mounts: vec![Mount {
                source: "data-{{.Task.Slot}}".into(),
                target: "/data".into(),
                ..Mount::default()
            }],
            stop_grace_period: Some(1_500_000_000),
            hosts: vec!["10.1.1.1 a b".into()],
            ..ContainerSpec::default()
        };
        let mut task = task(spec);
        std::sync::Arc::make_mut(&mut task.spec).resources = Some(ResourceRequirements {
            limits: Some(Limits {
                memory_bytes: 1 << 20,
                ..Limits::default()
            }),
            reservations: None,
        });
        let port = PortConfig {
            target_port: 80,
            publish_mode: PublishMode::Host,
            host_ip: Some(std::net::Ipv4Addr::LOCALHOST.into()),
            ..PortConfig::default()
        };
        let ingress = PortConfig {
            target_port: 81,
            published_port: 8081,
            ..PortConfig::default()
        };
        task.endpoint = Some(EndpointSpec {
            ports: vec![port, ingress],
            ..EndpointSpec::default()
        });
        let made = container(&task, "box").unwrap();
        let host = made.host_config;
        assert_eq!(serde_json::to_value(&host.mounts[0]).unwrap()["Type"], "volume");
        assert_eq!(host.mounts[0].source, "data-2");
        assert_eq!(host.memory, 1 << 20);
        assert_eq!(host.pids_limit, None);
        assert_eq!(host.extra_hosts, ["a:10.1.1.1", "b:10.1.1.1"]);
        assert_eq!(made.config.stop_timeout, Some(2));
        assert_eq!(host.port_bindings.keys().collect::<Vec<_>>(), ["80/tcp"]);
        let binding = &host.port_bindings["80/tcp"].as_ref().unwrap()[0];
        assert_eq!(binding.host_ip, "127.0.0.1");
    }
}
