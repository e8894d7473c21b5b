//! What `network inspect` shows of a network that spans nodes: on which nodes it is, and which services are found on it.
//! As a node knows it, manager or not; of a network that is not here a node knows nothing.

use std::collections::BTreeSet;

use netd::{Backend, ServiceEndpoint};
use proto::NodeId;
use proto::object::Peer;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::state::App;
use crate::cluster::Part;

/// Docker shows as many digits of a node.
const DIGITS: usize = 12;

/// The nodes that have containers on the network.
pub(super) fn peers(app: &App, network: &str) -> Vec<Value> {
    if app.netd.endpoints(network).is_empty() {
        return Vec::new();
    }
    let others = app.netd.members_on(network).into_iter();
    let mut nodes: BTreeSet<NodeId> = others.map(|member| member.node.into()).collect();
    nodes.extend(own(app));
    let known = app.cluster.peers().members();
    let nodes = nodes.iter().filter_map(|node| known.get(node));
    nodes.map(|node| peer(&node)).collect()
}

fn peer(node: &Peer) -> Value {
    let id = node.node_id.as_str();
    let id = id.get(..DIGITS).unwrap_or(id);
    json!({ "Name": format!("{}-{id}", node.hostname), "IP": node.data_path.addr })
}

fn own(app: &App) -> Option<NodeId> {
    match app.cluster.part() {
        Part::Manager(manager) => Some(manager.node_id().clone()),
        Part::Worker(worker) => Some(worker.node().clone()),
        Part::None | Part::Locked => None,
    }
}

/// The services that are found on the network, by name.
pub(super) fn services(app: &App, network: &str) -> Map<String, Value> {
    let known = app.cluster.peers().members();
    let address = |node: &str| known.get(&node.into()).map(|node| node.data_path.addr);
    let own = own(app).and_then(|node| address(node.as_str()));
    let host = |backend: &Backend| match &backend.node {
        Some(node) => address(node),
        None => own.clone(),
    };
    let services = app.netd.services_on(network).into_iter();
    services
        .map(|service| (service.name.clone(), self::service(&service, network, host)))
        .collect()
}

fn service(service: &ServiceEndpoint, network: &str, host: impl Fn(&Backend) -> Option<String>) -> Value {
    let on = service.networks.iter().find(|on| on.network == network);
    let vip = on.and_then(|on| on.vip).map(|vip| vip.to_string());
    let ports = service.ports.iter();
    let ports: Vec<_> = ports
        .map(|port| format!("Target: {}, Publish: {}", port.target, port.published))
        .collect();
    let tasks = service.backends.iter().filter_map(|backend| {
        let (_, address) = backend.addresses.iter().find(|(on, _)| on == network)?;
        let id = Sha256::new_with_prefix(network)
            .chain_update(&backend.task)
            .finalize();
        Some(json!({
            "Name": backend.name,
            "EndpointID": hex::encode(id),
            "EndpointIP": address,
            "Info": { "Host IP": host(backend) },
        }))
    });
    let tasks: Vec<Value> = tasks.collect();
    // Docker's number of its balancer has no counterpart.
    json!({ "VIP": vip.unwrap_or_default(), "Ports": ports, "LocalLBIndex": 0, "Tasks": tasks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use netd::ServiceNetwork;

    #[test]
    fn a_service_is_shown_with_those_of_its_tasks_that_are_on_the_network() {
        let backend = |task: &str, network: &str| Backend {
            task: task.into(),
            name: format!("web.1.{task}"),
            addresses: vec![(network.into(), "10.0.1.7".parse().unwrap())],
            ..Backend::default()
        };
        let web = ServiceEndpoint {
            name: "web".into(),
            networks: vec![ServiceNetwork {
                network: "net".into(),
                vip: Some("10.0.1.2".parse().unwrap()),
                ..ServiceNetwork::default()
            }],
            backends: vec![backend("a", "net"), backend("b", "other")],
            ..ServiceEndpoint::default()
        };
        let shown = service(&web, "net", |_| Some("192.0.2.1".into()));
        assert_eq!(shown["VIP"], "10.0.1.2");
        assert_eq!(shown["Tasks"].as_array().unwrap().len(), 1, "{shown}");
        assert_eq!(shown["Tasks"][0]["Info"]["Host IP"], "192.0.2.1");
        assert_eq!(shown["Tasks"][0]["EndpointIP"], "10.0.1.7");
    }
}
