//! How a service is reached: its virtual addresses, its published ports, and the tasks that answer.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use proto::object::{Backend, BackendAddress, ServiceNetwork};
use proto::spec::{PortConfig, PublishMode};
use proto::{NetworkId, Service, ServiceEndpoint, Task, TaskState};

/// The service's endpoint on the networks of which `known` holds, with the tasks that answer.
pub(super) fn of(
    service: &Service,
    answering: &[Arc<Task>],
    known: impl Fn(&NetworkId) -> bool,
) -> ServiceEndpoint {
    let backends = answering.iter().map(|task| backend(task, &known));
    ServiceEndpoint {
        id: service.id.clone(),
        name: service.spec.name.clone(),
        mode: service.endpoint.spec.mode,
        networks: networks(service)
            .filter(|network| known(&network.network_id))
            .collect(),
        ports: ports(service).cloned().collect(),
        backends: backends.collect(),
    }
}

/// Whether a node on these networks must be able to reach the service.
pub(super) fn matters(service: &Service, known: impl Fn(&NetworkId) -> bool) -> bool {
    ports(service).next().is_some() || networks(service).any(|network| known(&network.network_id))
}

/// Whether somebody may reach the task: it is on a network, or its service publishes ports.
pub(super) fn can_be_reached(task: &Task) -> bool {
    let ports = task.endpoint.as_ref().map_or(0, |endpoint| endpoint.ports.len());
    ports > 0 || !task.networks_attachments.is_empty()
}

/// Whether the task takes part in answering for its service: it runs, and is wanted to.
pub(super) fn is_backend(task: &Task) -> bool {
    task.status.state == TaskState::Running
        && task.desired_state == TaskState::Running
        && !task.status.withdrawn
}

/// The networks on which a service is found: those of its spec, and the one of its published ports.
pub(super) fn networks(service: &Service) -> impl Iterator<Item = ServiceNetwork> {
    let virtual_ips = &service.endpoint.virtual_ips;
    let asked = service.spec.task_template.networks.iter();
    let named = asked.clone().map(move |on| {
        let aliases = on.aliases.clone();
        network(service, NetworkId::from(on.target.as_str()), aliases)
    });
    let further: BTreeSet<_> = virtual_ips
        .iter()
        .map(|vip| &vip.network_id)
        .filter(move |id| asked.clone().all(|on| on.target != id.as_str()))
        .collect();
    named.chain(
        further
            .into_iter()
            .map(|id| network(service, id.clone(), Vec::new())),
    )
}

fn network(service: &Service, network_id: NetworkId, aliases: Vec<String>) -> ServiceNetwork {
    let mut found = ServiceNetwork {
        network_id,
        aliases,
        ..ServiceNetwork::default()
    };
    let all = service.endpoint.virtual_ips.iter();
    for vip in all.filter(|vip| vip.network_id == found.network_id) {
        match bare(&vip.addr) {
            Some(IpAddr::V4(address)) => found.virtual_ip = Some(address),
            Some(IpAddr::V6(address)) => found.virtual_ip6 = Some(address),
            None => {}
        }
    }
    found
}

/// An address without its prefix length.
fn bare(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

/// The ports that every node publishes.
fn ports(service: &Service) -> impl Iterator<Item = &PortConfig> {
    let ports = service.endpoint.ports.iter();
    ports.filter(|port| port.publish_mode == PublishMode::Ingress)
}

fn backend(task: &Task, known: impl Fn(&NetworkId) -> bool) -> Backend {
    let attachments = task
        .networks_attachments
        .iter()
        .filter(|on| known(&on.network.id));
    let addresses = attachments.flat_map(|on| {
        on.addresses.iter().filter_map(|address| {
            let address = bare(address)?;
            Some(BackendAddress {
                network_id: on.network.id.clone(),
                address,
            })
        })
    });
    Backend {
        task_id: task.id.clone(),
        name: task.name(),
        node_id: task.node_id.clone(),
        addresses: addresses.collect(),
    }
}
