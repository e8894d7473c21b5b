//! How a service is reached: its virtual addresses, its published ports, and the tasks that answer.

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
        let network_id = NetworkId::from(on.target.as_str());
        let vip = virtual_ips.iter().find(|vip| vip.network_id == network_id);
        let virtual_ip = vip.and_then(|vip| vip.addr.split('/').next()?.parse().ok());
        ServiceNetwork {
            network_id,
            virtual_ip,
            aliases: on.aliases.clone(),
        }
    });
    let further = virtual_ips
        .iter()
        .filter(move |vip| asked.clone().all(|on| on.target != vip.network_id.as_str()));
    named.chain(further.map(|vip| {
        ServiceNetwork {
            network_id: vip.network_id.clone(),
            virtual_ip: vip
                .addr
                .split('/')
                .next()
                .and_then(|address| address.parse().ok()),
            aliases: Vec::new(),
        }
    }))
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
            let address = address.split('/').next()?.parse().ok()?;
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
