//! How services are reached from this node: what the manager says of them, corrected by what this node knows first.
//!
//! Of its own tasks the node knows at once when one may receive traffic and when it must not any more; the manager hears
//! of both later. So backends on other nodes are taken from the manager's endpoint, those on this node from the task
//! controllers. A task is withdrawn *before* its stop signal is sent, and [`Directory::withdraw`] returns only when DNS,
//! virtual addresses and published ports have forgotten it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use netd::{Backend, IngressPort, Netd, Protocol, ServiceEndpoint, ServiceNetwork};
use proto::spec::{PortConfig, PortProtocol, PublishMode};
use proto::{NodeId, ServiceId, TaskId};
use tokio::sync::Mutex as AsyncMutex;

/// All services that this node has heard of.
#[derive(Debug)]
pub struct Directory {
    netd: Arc<Netd>,
    node: NodeId,
    services: Mutex<HashMap<ServiceId, Arc<AsyncMutex<Entry>>>>,
}

#[derive(Debug, Default)]
struct Entry {
    /// What the manager says; `None` until it has.
    endpoint: Option<proto::ServiceEndpoint>,
    /// Ready tasks of this node.
    local: BTreeMap<TaskId, Backend>,
}

impl Directory {
    /// An empty directory for this node.
    pub fn new(netd: Arc<Netd>, node: NodeId) -> Self {
        Self {
            netd,
            node,
            services: Mutex::default(),
        }
    }

    /// Takes the manager's word about a service.
    pub async fn set_endpoint(&self, endpoint: proto::ServiceEndpoint) -> netd::Result<()> {
        let entry = self.entry(&endpoint.id);
        let mut entry = entry.lock().await;
        entry.endpoint = Some(endpoint);
        self.apply(&entry).await
    }

    /// Forgets a service; its ready tasks stay known in case the manager speaks of it again.
    pub async fn remove_endpoint(&self, id: &str) -> netd::Result<()> {
        let entry = self.entry(&id.into());
        let mut entry = entry.lock().await;
        entry.endpoint = None;
        if entry.local.is_empty() {
            self.lock().remove(id);
        }
        self.netd.remove_service(id).await
    }

    /// Identifiers of the services that the manager has spoken of, or that an earlier process of this agent has set.
    pub fn known(&self) -> HashSet<ServiceId> {
        let mut known: HashSet<ServiceId> = self.lock().keys().cloned().collect();
        known.extend(self.netd.services().into_iter().map(ServiceId::from));
        known
    }

    /// Lets a task of this node receive traffic.
    pub async fn add(&self, service: &ServiceId, backend: Backend) -> netd::Result<()> {
        let entry = self.entry(service);
        let mut entry = entry.lock().await;
        entry.local.insert(backend.task.as_str().into(), backend);
        self.apply(&entry).await
    }

    /// Takes a task of this node out of its service; whether it was in.
    pub async fn withdraw(&self, service: &ServiceId, task: &TaskId) -> netd::Result<bool> {
        let entry = self.entry(service);
        let mut entry = entry.lock().await;
        if entry.local.remove(task).is_none() {
            return Ok(false);
        }
        self.apply(&entry).await.map(|()| true)
    }

    async fn apply(&self, entry: &Entry) -> netd::Result<()> {
        match &entry.endpoint {
            Some(endpoint) => {
                self.netd
                    .set_service(effective(endpoint, &entry.local, &self.node))
                    .await
            }
            None => Ok(()),
        }
    }

    fn entry(&self, id: &ServiceId) -> Arc<AsyncMutex<Entry>> {
        self.lock().entry(id.clone()).or_default().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ServiceId, Arc<AsyncMutex<Entry>>>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The service as this node's network shall know it.
fn effective(
    endpoint: &proto::ServiceEndpoint,
    local: &BTreeMap<TaskId, Backend>,
    node: &NodeId,
) -> ServiceEndpoint {
    let networks = endpoint.networks.iter().map(|network| ServiceNetwork {
        network: network.network_id.to_string(),
        vip: network.virtual_ip,
        vip6: network.virtual_ip6,
        aliases: network.aliases.clone(),
    });
    let remote = endpoint
        .backends
        .iter()
        .filter(|backend| backend.node_id != *node)
        .map(elsewhere);
    ServiceEndpoint {
        id: endpoint.id.to_string(),
        name: endpoint.name.clone(),
        networks: networks.collect(),
        ports: endpoint.ports.iter().filter_map(ingress_port).collect(),
        backends: remote.chain(local.values().cloned()).collect(),
    }
}

fn elsewhere(backend: &proto::object::Backend) -> Backend {
    let mut found = Backend {
        task: backend.task_id.to_string(),
        name: backend.name.clone(),
        node: Some(backend.node_id.to_string()),
        ..Backend::default()
    };
    for on in &backend.addresses {
        locate(&mut found, on.network_id.as_str(), on.address);
    }
    found
}

/// The task has this address on this network.
pub(super) fn locate(backend: &mut Backend, network: &str, address: IpAddr) {
    match address {
        IpAddr::V4(address) => backend.addresses.push((network.to_owned(), address)),
        IpAddr::V6(address) => backend.addresses6.push((network.to_owned(), address)),
    }
}

fn ingress_port(port: &PortConfig) -> Option<IngressPort> {
    let protocol = match port.protocol {
        PortProtocol::Tcp => Protocol::Tcp,
        PortProtocol::Udp => Protocol::Udp,
        // Refused when the service is created; an older manager's word is not worth failing a task for.
        PortProtocol::Sctp => return None,
    };
    let ingress = port.publish_mode == PublishMode::Ingress && port.published_port != 0;
    ingress.then_some(IngressPort {
        published: port.published_port,
        target: port.target_port,
        protocol,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::object::{Backend as Told, BackendAddress};

    fn told(task: &str, node: &str) -> Told {
        let address = BackendAddress {
            network_id: "net".into(),
            address: "10.0.0.9".parse().unwrap(),
        };
        Told {
            task_id: task.into(),
            name: task.into(),
            node_id: node.into(),
            addresses: vec![address],
        }
    }

    #[test]
    fn this_node_knows_its_own_tasks_better_than_the_manager() {
        let endpoint = proto::ServiceEndpoint {
            id: "s".into(),
            backends: vec![told("stopping-here", "me"), told("there", "other")],
            ..proto::ServiceEndpoint::default()
        };
        let ready = Backend {
            task: "ready-here".into(),
            ..Backend::default()
        };
        let local = BTreeMap::from([("ready-here".into(), ready)]);
        let names: Vec<_> = effective(&endpoint, &local, &"me".into()).backends;
        let names: Vec<_> = names.iter().map(|backend| backend.task.as_str()).collect();
        assert_eq!(names, ["there", "ready-here"]);
    }

    #[test]
    fn only_ingress_ports_belong_to_the_service() {
        let ingress = PortConfig {
            target_port: 80,
            published_port: 8080,
            ..PortConfig::default()
        };
        let host = PortConfig {
            publish_mode: PublishMode::Host,
            ..ingress.clone()
        };
        assert_eq!(ingress_port(&ingress).unwrap().published, 8080);
        assert_eq!(ingress_port(&host), None);
        assert_eq!(
            ingress_port(&PortConfig {
                protocol: PortProtocol::Sctp,
                ..ingress
            }),
            None
        );
    }
}
