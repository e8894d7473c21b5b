//! `network connect` and `disconnect` of a container, running or not.

use std::collections::BTreeMap;

use netd::NetworkConfig;

use super::places::{Place, is_of_cluster};
use super::{NetworkMode, check_endpoint, describe, endpoint_request, find};
use crate::api::types::network_settings::EndpointSettings;
use crate::engine::Engine;
use crate::engine::container::Container;
use crate::engine::error::{EngineError, Result};
use crate::engine::inspect::network_name;
use crate::engine::record::ContainerRecord;
use crate::engine::state::Status;

impl Engine {
    /// Connects a container to a network, by identifier or name; takes effect at once if it runs.
    ///
    /// # Errors
    /// No such container or network, a mode without networks, connected already, a refusal of the managers, or netd's.
    pub async fn connect_network(&self, name: &str, network: &str, wanted: EndpointSettings) -> Result<()> {
        let container = self.registry.find(name)?;
        check_endpoint(&wanted)?;
        let _lifecycle = container.lifecycle.lock().await;
        let record = container.record();
        check_connectable(&record)?;
        let known = self.known_networks();
        let of_cluster = is_of_cluster(&known, network);
        if of_cluster && record.task.is_some() {
            return Err(EngineError::Conflict(format!(
                "container {} runs a task: the networks of its service say where it is",
                record.name
            )));
        }
        if self.name_used(&record, network).is_some() {
            return Err(EngineError::Conflict(format!(
                "endpoint with name {} already exists in network {network}",
                record.name
            )));
        }
        if record.state.status == Status::Running {
            return match of_cluster {
                true => self.connect_to_cluster(&container, network, wanted).await,
                false => {
                    let network = find(&known, network)?;
                    self.connect_running(&container, &network, wanted, None).await
                }
            };
        }
        // Where only the managers know the network, they are asked when the container starts.
        let (key, id) = match find(&known, network) {
            Ok(found) => (found.name, found.id),
            Err(_) => (network.to_owned(), network.to_owned()),
        };
        container
            .update(|record| drop(record.networks.insert(key.clone(), wanted)))
            .await?;
        self.announce_network("connect", &key, &id, container.id.as_str());
        Ok(())
    }

    async fn connect_to_cluster(
        &self,
        container: &Container,
        network: &str,
        wanted: EndpointSettings,
    ) -> Result<()> {
        let record = container.record();
        let place = self.take_place(&record, network, &wanted).await?;
        let connected = match find(&self.known_networks(), &place.network) {
            Ok(network) => {
                self.connect_running(container, &network, wanted, Some(&place))
                    .await
            }
            Err(error) => Err(error),
        };
        if connected.is_err() {
            self.leave_place(&record, &place.network).await;
        }
        connected
    }

    async fn connect_running(
        &self,
        container: &Container,
        network: &NetworkConfig,
        wanted: EndpointSettings,
        place: Option<&Place>,
    ) -> Result<()> {
        let record = container.record();
        let mut request = endpoint_request(&record, &wanted, network)?;
        if let Some(place) = place {
            place.enter(&mut request);
        }
        let connected = self.config.netd.connect(record.id.as_str(), request).await;
        let endpoint = connected.map_err(EngineError::network(format!(
            "connect to network {}",
            network.name
        )))?;
        let attached = describe(&record, &wanted, &endpoint);
        container
            .update(|record| {
                record.networks.insert(network.name.clone(), wanted);
                record.attached.insert(network.name.clone(), attached);
            })
            .await?;
        self.announce_network("connect", &network.name, &network.id, container.id.as_str());
        Ok(())
    }

    /// Disconnects a container from a network, by identifier or name. With `force` a network that it is not on is no error.
    ///
    /// # Errors
    /// No such container, or not connected.
    pub async fn disconnect_network(&self, name: &str, network: &str, force: bool) -> Result<()> {
        let container = self.registry.find(name)?;
        let _lifecycle = container.lifecycle.lock().await;
        let record = container.record();
        let Some(used) = self.name_used(&record, network) else {
            return match force {
                true => Ok(()),
                false => Err(EngineError::Conflict(format!(
                    "container {} is not connected to network {network}",
                    container.id
                ))),
            };
        };
        let id = self.id_of(&record, &used);
        if record.state.status == Status::Running {
            let gone = self.config.netd.disconnect(container.id.as_str(), &id).await;
            gone.map_err(EngineError::network(format!("disconnect from network {used}")))?;
            if is_of_cluster(&self.known_networks(), &id) {
                self.leave_place(&record, &id).await;
            }
        }
        container
            .update(|record| {
                record.networks.remove(&used);
                record.attached.remove(&used);
                record.last_addresses.remove(&used);
            })
            .await?;
        self.announce_network("disconnect", &used, &id, container.id.as_str());
        Ok(())
    }

    /// The name under which a container knows a network, if it is connected to it.
    fn name_used(&self, record: &ContainerRecord, network: &str) -> Option<String> {
        let id = find(&self.known_networks(), network).map_or_else(|_| network.to_owned(), |found| found.id);
        let is = |name: &&String| *name == network || self.id_of(record, name) == id;
        record.networks.keys().find(is).cloned()
    }

    /// The identifier of the network that a container knows under a name; the name, if nobody here knows it.
    fn id_of(&self, record: &ContainerRecord, name: &str) -> String {
        match record.attached.get(name) {
            Some(on) => on.network_id.clone(),
            None => find(&self.known_networks(), name).map_or_else(|_| name.to_owned(), |found| found.id),
        }
    }

    /// The container is on all its networks now, or was until now.
    pub(crate) fn announce_networks(&self, action: &str, record: &ContainerRecord) {
        for (key, endpoint) in &record.attached {
            self.announce_network(action, key, &endpoint.network_id, record.id.as_str());
        }
    }

    /// `key`: the network as the container's record knows it, by name or identifier.
    fn announce_network(&self, action: &str, key: &str, id: &str, container: &str) {
        let known = self.known_networks();
        let network = known.iter().find(|network| network.id == id);
        let spans = network.is_some_and(|network| network.overlay.is_some());
        let driver = if spans { "overlay" } else { "bridge" };
        let attributes = BTreeMap::from([
            ("container".to_owned(), container.to_owned()),
            ("name".to_owned(), network_name(key, &known).to_owned()),
            ("type".to_owned(), driver.to_owned()),
        ]);
        self.publish_event("local", "network", action, id, attributes);
    }
}

fn check_connectable(record: &ContainerRecord) -> Result<()> {
    match NetworkMode::of(&record.config, &record.host_config) {
        NetworkMode::Network(_) | NetworkMode::None => Ok(()),
        NetworkMode::Host | NetworkMode::Container(_) => Err(EngineError::Conflict(format!(
            "container {} cannot be connected to a network: its network mode is {}",
            record.name, record.host_config.network_mode
        ))),
    }
}
