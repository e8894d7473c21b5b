//! Checks of a service's spec.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proto::spec::placement_labels::AFFINITY;
use proto::spec::{
    ContainerSpec, EndpointMode, EndpointSpec, FailureAction, MountType, NetworkAttachmentConfig, Placement,
    PlacementLabels, PortProtocol, PublishMode, ResourceRequirements, ServiceMode, ServiceSpec, TaskSpec,
    UpdateConfig, UpdateOrder,
};
use proto::upkeep::{self, DrainOrder, Upkeep};

use super::{ControlError, Result, settings};
use crate::scheduler::constraint::{self, Fact};
use crate::scheduler::gate;

/// The least processor time that can be asked for, in billionths.
const MIN_NANO_CPUS: i64 = 1_000_000;
/// The least memory that can be asked for, in bytes.
const MIN_MEMORY: i64 = 4 << 20;

pub(in crate::control) fn service(spec: &ServiceSpec) -> Result<()> {
    name(&spec.name)?;
    task(&spec.task_template)?;
    one_mode(&spec.mode)?;
    spec.networks.iter().try_for_each(attachment)?;
    if spec.mode.is_job() && (spec.update_config.is_some() || spec.rollback_config.is_some()) {
        return Err(ControlError::invalid(
            "update and rollback options make no sense for a job",
        ));
    }
    for (update, flag) in [
        (&spec.update_config, "update"),
        (&spec.rollback_config, "rollback"),
    ] {
        update
            .as_ref()
            .map_or(Ok(()), |config| update_config(config, flag))?;
    }
    let rollback = spec.rollback_config.as_ref();
    if rollback.is_some_and(|config| config.failure_action == FailureAction::Rollback) {
        return Err(ControlError::invalid(
            "TaskSpec: a rollback cannot be rolled back: rollback-failure-action is pause or continue",
        ));
    }
    settings::refuse_unknown(&spec.labels)?;
    if let Err(error) = gate::conditions(&spec.labels) {
        return Err(ControlError::invalid(format!(
            "label {}: {error}",
            gate::DEPENDS_ON
        )));
    }
    let upkeep = Upkeep::read(&spec.labels).map_err(|error| ControlError::invalid(error.to_string()))?;
    fencing(spec, &upkeep)?;
    placement_labels(spec)?;
    fixed_addresses(spec)?;
    spec.endpoint_spec.as_ref().map_or(Ok(()), endpoint)
}

/// A service that asks never to have two tasks at once does not ask for two at once.
fn fencing(spec: &ServiceSpec, upkeep: &Upkeep) -> Result<()> {
    if upkeep.fencing.is_none() {
        return Ok(());
    }
    let start_first = |config: &Option<UpdateConfig>| {
        let config = config.as_ref();
        config.is_some_and(|config| config.order == UpdateOrder::StartFirst)
    };
    let other = if start_first(&spec.update_config) {
        "an update that starts first"
    } else if start_first(&spec.rollback_config) {
        "a rollback that starts first"
    } else if upkeep.drain_order == Some(DrainOrder::StartFirst) {
        "a drain that starts first"
    } else {
        return Ok(());
    };
    Err(ControlError::invalid(format!(
        "label {}: fencing and {other} exclude each other: one never has two tasks at once, the other does",
        upkeep::FENCING
    )))
}

/// What the labels say of placement can be read and can be satisfied.
fn placement_labels(spec: &ServiceSpec) -> Result<()> {
    let read = PlacementLabels::parse(&spec.labels);
    let read = read.map_err(|error| ControlError::invalid(crate::files::chain(&error)))?;
    let stack = spec.labels.get("com.docker.stack.namespace");
    let full = |name: &str| stack.map(|stack| format!("{stack}_{name}"));
    let itself = |name: &&String| **name == spec.name || full(name).as_ref() == Some(&spec.name);
    match read.affinity.iter().find(itself) {
        // The first task would wait for itself.
        Some(name) => Err(ControlError::invalid(format!(
            "label {AFFINITY}: {name} is the service itself"
        ))),
        None => Ok(()),
    }
}

/// A service's name is a DNS name.
fn name(name: &str) -> Result<()> {
    if name.len() > 63 {
        return Err(ControlError::invalid("name must be 63 characters or fewer"));
    }
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let inner = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if !inner || !edge(name.bytes().next()) || !edge(name.bytes().last()) {
        return Err(ControlError::invalid(format!(
            "name {name:?} must be valid as a DNS name component"
        )));
    }
    Ok(())
}

fn one_mode(mode: &ServiceMode) -> Result<()> {
    let given = [
        mode.replicated.is_some(),
        mode.global.is_some(),
        mode.replicated_job.is_some(),
        mode.global_job.is_some(),
    ];
    if given.into_iter().filter(|given| *given).count() > 1 {
        return Err(ControlError::invalid("must specify only one service mode"));
    }
    Ok(())
}

/// An address belongs to one task.
fn fixed_addresses(spec: &ServiceSpec) -> Result<()> {
    let networks = &spec.task_template.networks;
    let asked = networks.iter().find_map(|on| Some((on, on.addresses.first()?)));
    let Some((on, address)) = asked else {
        return Ok(());
    };
    match spec.mode.replicas() {
        Some(0 | 1) => Ok(()),
        count => Err(ControlError::invalid(format!(
            "service {} asks for address {address} on network {} and for {} tasks: an address belongs to one task; \
             set replicas to 1, or leave the address out",
            spec.name,
            on.target,
            count.map_or_else(|| "several".to_owned(), |count| count.to_string()),
        ))),
    }
}

fn attachment(network: &NetworkAttachmentConfig) -> Result<()> {
    let mut versions = BTreeSet::new();
    for text in &network.addresses {
        let Ok(address) = text.parse::<IpAddr>() else {
            let message = format!("network {}: {text:?} is not an IP address", network.target);
            return Err(ControlError::invalid(message));
        };
        if !versions.insert(address.is_ipv4()) {
            let message = format!(
                "network {}: more than one address of an IP version is not built yet",
                network.target
            );
            return Err(ControlError::invalid(message));
        }
    }
    match network.driver_opts.keys().next() {
        None => Ok(()),
        Some(option) => Err(ControlError::invalid(format!(
            "network {}: driver option {option:?} of an attachment is not built yet",
            network.target
        ))),
    }
}

fn task(spec: &TaskSpec) -> Result<()> {
    if !["", "container"].contains(&spec.runtime.as_str()) {
        return Err(ControlError::invalid(format!(
            "TaskSpec: runtime {:?} is not known",
            spec.runtime
        )));
    }
    let Some(container_spec) = &spec.container_spec else {
        return Err(ControlError::invalid("TaskSpec: missing runtime"));
    };
    container(container_spec)?;
    spec.networks.iter().try_for_each(attachment)?;
    spec.resources.as_ref().map_or(Ok(()), resources)?;
    if let Some(policy) = &spec.restart_policy {
        refuse_negative("TaskSpec: restart-delay", policy.delay)?;
        refuse_negative("TaskSpec: restart-window", policy.window)?;
    }
    spec.placement.as_ref().map_or(Ok(()), placement)
}

fn container(spec: &ContainerSpec) -> Result<()> {
    if spec.image.is_empty() {
        return Err(ControlError::invalid(
            "ContainerSpec: image reference must be provided",
        ));
    }
    refuse_negative("ContainerSpec: stop-grace-period", spec.stop_grace_period)?;
    let mut targets = BTreeSet::new();
    for mount in &spec.mounts {
        if !mount.target.starts_with('/') {
            let message = format!(
                "ContainerSpec: mount target {:?} must be an absolute path",
                mount.target
            );
            return Err(ControlError::invalid(message));
        }
        if matches!(
            mount.kind,
            MountType::Npipe | MountType::Cluster | MountType::Image
        ) {
            let message = format!("ContainerSpec: mounts of type {} are not built yet", mount.kind);
            return Err(ControlError::invalid(message));
        }
        if !targets.insert(mount.target.trim_end_matches('/')) {
            return Err(ControlError::invalid(format!(
                "ContainerSpec: duplicate mount point: {}",
                mount.target
            )));
        }
    }
    let secrets = spec
        .secrets
        .iter()
        .map(|secret| (&secret.secret_name, &secret.file));
    distinct_files("secret", secrets)?;
    let configs = spec
        .configs
        .iter()
        .map(|config| (&config.config_name, &config.file));
    distinct_files("config", configs)
}

/// Two references may not write the same file.
fn distinct_files<'a>(
    kind: &str,
    references: impl Iterator<Item = (&'a String, &'a Option<proto::spec::FileTarget>)>,
) -> Result<()> {
    let mut seen = std::collections::BTreeMap::new();
    for (name, file) in references {
        let Some(target) = file
            .as_ref()
            .map(|file| file.name.as_str())
            .filter(|target| !target.is_empty())
        else {
            return Err(ControlError::invalid(format!(
                "malformed {kind} reference {name:?}: no target provided"
            )));
        };
        if let Some(other) = seen.insert(target, name) {
            return Err(ControlError::invalid(format!(
                "{kind} references '{other}' and '{name}' have a conflicting target: '{target}'"
            )));
        }
    }
    Ok(())
}

fn resources(resources: &ResourceRequirements) -> Result<()> {
    let limits = resources
        .limits
        .iter()
        .map(|limits| (limits.nano_cpus, limits.memory_bytes));
    let reservations = resources
        .reservations
        .iter()
        .map(|wanted| (wanted.nano_cpus, wanted.memory_bytes));
    if resources.limits.as_ref().is_some_and(|limits| limits.pids < 0) {
        return Err(ControlError::invalid("invalid pids limit: it cannot be negative"));
    }
    let things = resources.reservations.iter();
    for thing in things.flat_map(|wanted| &wanted.generic_resources) {
        // Which of the things that have names a task gets is for the scheduler to say.
        let counted = thing.discrete_resource_spec.as_ref();
        if counted.is_none_or(|counted| counted.value < 0 || counted.kind.is_empty()) {
            let named = thing.named_resource_spec.as_ref().map(|named| &named.kind);
            let kind = counted.map(|counted| &counted.kind).or(named);
            return Err(ControlError::invalid(format!(
                "invalid argument for resource {}",
                kind.map_or("", String::as_str)
            )));
        }
    }
    for (nano_cpus, memory) in limits.chain(reservations) {
        if nano_cpus != 0 && nano_cpus < MIN_NANO_CPUS {
            let cpus = nano_cpus as f64 / 1e9;
            return Err(ControlError::invalid(format!(
                "invalid cpu value {cpus}: Must be at least 0.001"
            )));
        }
        if memory != 0 && memory < MIN_MEMORY {
            return Err(ControlError::invalid(format!(
                "invalid memory value {memory}: Must be at least 4MiB"
            )));
        }
    }
    Ok(())
}

fn placement(placement: &Placement) -> Result<()> {
    let constraints = constraint::parse(&placement.constraints);
    constraints.map_err(|error| ControlError::invalid(error.to_string()))?;
    for preference in &placement.preferences {
        let over = preference
            .spread
            .as_ref()
            .map_or("", |spread| &spread.spread_descriptor);
        if Fact::parse(over).is_none() {
            return Err(ControlError::invalid(format!(
                "Placement: a preference cannot spread over {over:?}: name a fact of nodes, such as node.labels.zone"
            )));
        }
    }
    Ok(())
}

fn update_config(config: &UpdateConfig, flag: &str) -> Result<()> {
    refuse_negative(&format!("TaskSpec: {flag}-delay"), Some(config.delay))?;
    refuse_negative(&format!("TaskSpec: {flag}-monitor"), Some(config.monitor))?;
    if !(0.0..=1.0).contains(&config.max_failure_ratio) {
        let message = format!("TaskSpec: {flag}-maxfailureratio cannot be less than 0 or bigger than 1");
        return Err(ControlError::invalid(message));
    }
    Ok(())
}

fn refuse_negative(what: &str, nanoseconds: Option<i64>) -> Result<()> {
    if nanoseconds.unwrap_or_default() < 0 {
        return Err(ControlError::invalid(format!("{what} cannot be negative")));
    }
    Ok(())
}

fn endpoint(endpoint: &EndpointSpec) -> Result<()> {
    let mut published = BTreeSet::new();
    for port in &endpoint.ports {
        if port.target_port == 0 {
            return Err(ControlError::invalid(
                "EndpointSpec: a published port must name the port of the container",
            ));
        }
        if port.host_ip.is_some() && port.publish_mode == PublishMode::Ingress {
            return Err(ControlError::invalid(
                "EndpointSpec: a port published with ingress mode answers on every node: leave its address out, or publish \
                 it with host mode",
            ));
        }
        if port.protocol == PortProtocol::Sctp {
            return Err(ControlError::invalid(
                "EndpointSpec: publishing SCTP ports is not built yet",
            ));
        }
        if endpoint.mode == EndpointMode::Dnsrr && port.publish_mode == PublishMode::Ingress {
            return Err(ControlError::invalid(
                "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
            ));
        }
        let number = (port.published_port, port.protocol);
        if port.published_port != 0 && !published.insert(number) {
            return Err(ControlError::invalid(
                "EndpointSpec: duplicate published ports provided",
            ));
        }
    }
    Ok(())
}
