//! Places of containers on the cluster's networks. The managers give them, so that no two nodes use one address; the worker
//! speaks to them for the engine, through [`ClusterNetworks`]. A task's container has its place from its task.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use futures::future::BoxFuture;
use netd::NetworkConfig;

use super::{address, address6, dns_names, find, mac};
use crate::api::types::network_settings::EndpointSettings;
use crate::engine::Engine;
use crate::engine::error::{Cause, EngineError, Result};
use crate::engine::record::ContainerRecord;
use crate::engine::state::Status;
use crate::worker::networks::is_swarm;

/// The managers, as far as the engine needs them.
pub trait ClusterNetworks: fmt::Debug + Send + Sync {
    /// Gives a container a place on a network; the network is there on this node when this returns.
    fn attach(&self, request: PlaceRequest) -> BoxFuture<'_, std::result::Result<Place, PlaceError>>;

    /// The container has left a network, or all. Managers that cannot be reached learn of it later.
    fn detach(&self, container: String, network: Option<String>) -> BoxFuture<'_, ()>;

    /// Returns when a manager can be spoken to.
    fn reachable(&self) -> BoxFuture<'_, ()>;
}

/// A place that is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlaceRequest {
    /// Identifier of the container.
    pub container: String,
    /// Identifier or name of the network.
    pub network: String,
    /// This address or none.
    pub address: Option<Ipv4Addr>,
    /// This IPv6 address or none.
    pub address6: Option<Ipv6Addr>,
    /// This address if it is free.
    pub preferred: Option<Ipv4Addr>,
    /// Names by which it is found; the first is its own.
    pub names: Vec<String>,
    /// Hardware address, if it was said.
    pub mac: String,
}

/// A place that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Identifier of the network.
    pub network: String,
    /// The address.
    pub address: Ipv4Addr,
    /// The one that goes with it, on a network that has IPv6.
    pub address6: Option<Ipv6Addr>,
}

impl Place {
    /// The endpoint gets these addresses.
    pub(super) fn enter(&self, request: &mut netd::EndpointRequest) {
        request.ipv4 = Some(self.address);
        request.ipv6 = self.address6;
    }
}

/// A place that a running container has.
#[derive(Debug, Clone)]
pub struct Occupied {
    /// How it would be asked for again; the preferred address is the one that it has.
    pub request: PlaceRequest,
    /// The container's first process.
    pub pid: i32,
}

/// Why there is no place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// A manager said no; in the words of Docker, whose managers are asked by gRPC too.
    #[error("rpc error: code = {code:?} desc = {message}")]
    Refused {
        /// What kind of no.
        code: tonic::Code,
        /// Why.
        message: String,
    },
    /// No manager answered.
    #[error("no manager of the cluster can be reached: {0}")]
    Unreachable(String),
    /// A manager answered what this node does not understand.
    #[error("the manager's answer makes no sense")]
    Answer(#[source] Cause),
    /// The place was given, but the network cannot be made on this node.
    #[error("make the network on this node")]
    Network(#[source] Cause),
}

/// Places by the names that the container uses for their networks.
pub(crate) type Places = BTreeMap<String, Place>;

impl Engine {
    /// From now on places are asked for here.
    pub fn set_cluster_networks(&self, cluster: Arc<dyn ClusterNetworks>) {
        self.cluster_networks.send_replace(Some(cluster));
    }

    /// Nobody is asked for places any more, unless another has taken the place of this one.
    pub fn unset_cluster_networks<T>(&self, cluster: &Arc<T>) {
        let own = Arc::as_ptr(cluster).cast::<()>();
        self.cluster_networks.send_if_modified(|current| {
            let is_own = current
                .as_ref()
                .is_some_and(|current| std::ptr::addr_eq(Arc::as_ptr(current), own));
            if is_own {
                *current = None;
            }
            is_own
        });
    }

    /// Returns when the managers of this node's cluster can be spoken to.
    pub(crate) async fn cluster_reachable(&self) {
        let mut cluster = self.cluster_networks.subscribe();
        loop {
            let current = cluster.borrow_and_update().clone();
            let reachable = async {
                match &current {
                    Some(current) => current.reachable().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = reachable => return,
                Ok(()) = cluster.changed() => {}
            }
        }
    }

    /// Whether the container is to be on a network that this node alone cannot give it a place on.
    pub(crate) fn needs_places(&self, record: &ContainerRecord) -> bool {
        let known = self.known_networks();
        record.task.is_none() && record.networks.keys().any(|name| is_of_cluster(&known, name))
    }

    /// Waits, before a container starts again by itself, until somebody can be asked for its places. A network that is not known
    /// here is not waited for.
    pub(crate) async fn await_places(&self, record: &ContainerRecord) {
        let known = self.known_networks();
        let is_known = |name: &String| find(&known, name).is_ok_and(|network| is_swarm(&network));
        if record.task.is_none() && record.networks.keys().any(is_known) {
            self.cluster_reachable().await;
        }
    }

    /// Asks for every place that a container needs. What was given before an error is still to be given back.
    pub(crate) async fn take_places(&self, record: &ContainerRecord) -> Result<Places> {
        let mut places = Places::new();
        if record.task.is_some() {
            return Ok(places);
        }
        let known = self.known_networks();
        for (name, wanted) in &record.networks {
            if is_of_cluster(&known, name) {
                places.insert(name.clone(), self.take_place(record, name, wanted).await?);
            }
        }
        Ok(places)
    }

    /// Asks for one place.
    pub(crate) async fn take_place(
        &self,
        record: &ContainerRecord,
        name: &str,
        wanted: &EndpointSettings,
    ) -> Result<Place> {
        let Some(cluster) = self.cluster() else {
            return Err(EngineError::NoSuchNetwork(name.to_owned()));
        };
        let request = place_request(record, name, wanted)?;
        let placed = cluster.attach(request).await;
        placed.map_err(|source| EngineError::Place {
            network: name.to_owned(),
            source,
        })
    }

    /// Gives back what the container has.
    pub(crate) async fn leave_places(&self, record: &ContainerRecord) {
        if let Some(cluster) = self.cluster()
            && self.needs_places(record)
        {
            cluster.detach(record.id.to_string(), None).await;
        }
    }

    /// Gives back one place.
    pub(crate) async fn leave_place(&self, record: &ContainerRecord, network: &str) {
        if let Some(cluster) = self.cluster().filter(|_| record.task.is_none()) {
            let network = Some(network.to_owned());
            cluster.detach(record.id.to_string(), network).await;
        }
    }

    /// The places that containers have which no task has made.
    pub fn places(&self) -> Vec<Occupied> {
        let known = self.known_networks();
        let containers = self.registry.all().into_iter();
        let lone = containers
            .map(|container| container.record())
            .filter(|record| record.task.is_none() && record.state.status == Status::Running);
        lone.flat_map(|record| occupied(&record, &known)).collect()
    }

    /// The managers have given a running container another address than it has: it gets that one.
    ///
    /// # Errors
    /// It does not run there any more, or netd's refusal; then it is not on the network.
    pub async fn change_address(&self, container: &str, place: &Place) -> Result<()> {
        let container = self.registry.find(container)?;
        let _lifecycle = container.lifecycle.lock().await;
        let record = container.record();
        let network = find(&self.known_networks(), &place.network)?;
        let on = record.attached.iter().find(|(_, on)| on.network_id == network.id);
        let Some((name, _)) = on else {
            return Err(EngineError::NoSuchNetwork(network.name));
        };
        let failed = |action: &str| EngineError::network(format!("{action} network {}", network.name));
        let netd = &self.config.netd;
        let left = netd.disconnect(record.id.as_str(), &network.id).await;
        left.map_err(failed("disconnect from"))?;
        let wanted = record.networks.get(name).cloned().unwrap_or_default();
        let mut request = super::endpoint_request(&record, &wanted, &network)?;
        place.enter(&mut request);
        let endpoint = netd.connect(record.id.as_str(), request).await;
        let endpoint = endpoint.map_err(failed("connect to"))?;
        let described = super::describe(&record, &wanted, &endpoint);
        container
            .update(|record| drop(record.attached.insert(name.clone(), described)))
            .await
    }

    /// This node has left its cluster: what was started here by hand goes on without the cluster's networks.
    pub async fn leave_cluster_networks(&self) {
        for place in self.places() {
            let PlaceRequest {
                container, network, ..
            } = place.request;
            if let Err(error) = self.disconnect_network(&container, &network, true).await {
                let error = crate::api::error::chain(&error);
                tracing::warn!(container.id = %container, network.id = %network, "cannot be disconnected: {error}");
            }
        }
    }

    /// What a container had last, to be asked for when it starts again.
    pub(crate) fn remember_addresses(record: &mut ContainerRecord) {
        let had = record.attached.iter();
        let had = had.filter_map(|(name, on)| Some((name.clone(), on.ip_address.parse().ok()?)));
        record.last_addresses = had.collect();
    }

    fn cluster(&self) -> Option<Arc<dyn ClusterNetworks>> {
        self.cluster_networks.borrow().clone()
    }
}

/// Whether the name means no network of this node alone.
pub(crate) fn is_of_cluster(known: &[NetworkConfig], name: &str) -> bool {
    find(known, name).map_or(true, |network| is_swarm(&network))
}

fn place_request(record: &ContainerRecord, name: &str, wanted: &EndpointSettings) -> Result<PlaceRequest> {
    Ok(PlaceRequest {
        container: record.id.to_string(),
        network: name.to_owned(),
        address: address(wanted)?,
        address6: address6(wanted)?,
        preferred: record.last_addresses.get(name).copied(),
        names: dns_names(record, wanted),
        mac: mac(wanted)?.map(|mac| mac.to_string()).unwrap_or_default(),
    })
}

fn occupied(record: &ContainerRecord, known: &[NetworkConfig]) -> Vec<Occupied> {
    let place = |(name, on): (&String, &EndpointSettings)| {
        let network = find(known, &on.network_id).ok().filter(is_swarm)?;
        let wanted = record.networks.get(name)?;
        let request = place_request(record, &network.id, wanted).ok()?;
        Some(Occupied {
            request: PlaceRequest {
                preferred: on.ip_address.parse().ok(),
                ..request
            },
            pid: record.state.pid,
        })
    };
    record.attached.iter().filter_map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::record::tests::sample;
    use crate::worker::networks::{SWARM_LABEL, SWARM_SCOPE};

    fn known() -> [NetworkConfig; 2] {
        let network = |id: &str, swarm: bool| NetworkConfig {
            id: id.into(),
            name: format!("name-{id}"),
            labels: swarm
                .then(|| (SWARM_LABEL.into(), SWARM_SCOPE.into()))
                .into_iter()
                .collect(),
            ..NetworkConfig::default()
        };
        [network("here", false), network("there", true)]
    }

    #[test]
    fn what_this_node_does_not_know_may_be_the_clusters() {
        let known = known();
        assert!(!is_of_cluster(&known, "name-here") && !is_of_cluster(&known, "here"));
        assert!(is_of_cluster(&known, "name-there") && is_of_cluster(&known, "nosuch"));
    }

    #[test]
    fn a_place_is_asked_for_again_as_it_is() {
        let mut record = sample();
        record.networks = ["name-here", "name-there"]
            .map(|name| (name.to_owned(), EndpointSettings::default()))
            .into();
        for (name, id) in [("name-here", "here"), ("name-there", "there")] {
            let on = EndpointSettings {
                network_id: id.into(),
                ip_address: "10.0.0.5".into(),
                ..EndpointSettings::default()
            };
            record.attached.insert(name.into(), on);
        }
        let places = occupied(&record, &known());
        let [place] = places.as_slice() else {
            panic!("{places:?}")
        };
        assert_eq!(place.request.network, "there");
        assert_eq!(place.request.address, None);
        assert_eq!(place.request.preferred, Some(Ipv4Addr::new(10, 0, 0, 5)));
        assert_eq!(place.request.names, ["web", record.id.short()]);
        Engine::remember_addresses(&mut record);
        record.attached.clear();
        let request = place_request(&record, "name-there", &EndpointSettings::default()).unwrap();
        assert_eq!(request.preferred, Some(Ipv4Addr::new(10, 0, 0, 5)));
    }
}
