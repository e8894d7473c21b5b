//! `network connect` and `disconnect` of a container, running or not.

use std::collections::BTreeMap;

use super::{NetworkMode, check_endpoint, describe, endpoint_request, find};
use crate::api::types::network_settings::EndpointSettings;
use crate::engine::Engine;
use crate::engine::container::Container;
use crate::engine::error::{EngineError, Result};
use crate::engine::state::Status;

impl Engine {
    /// Connects a container to a network; takes effect at once if it runs.
    ///
    /// # Errors
    /// No such container or network, a mode without networks, connected already, or netd's refusal.
    pub async fn connect_network(&self, name: &str, network: &str, wanted: EndpointSettings) -> Result<()> {
        let container = self.registry.find(name)?;
        let network = find(&self.known_networks(), network)?;
        check_endpoint(&wanted)?;
        let _lifecycle = container.lifecycle.lock().await;
        let record = container.record();
        if !matches!(
            NetworkMode::of(&record.config, &record.host_config),
            NetworkMode::Network(_) | NetworkMode::None
        ) {
            return Err(EngineError::Conflict(format!(
                "container {} cannot be connected to a network: its network mode is {}",
                record.name, record.host_config.network_mode
            )));
        }
        if self.name_used(&container, &network.id).is_some() {
            return Err(EngineError::Conflict(format!(
                "endpoint with name {} already exists in network {}",
                record.name, network.name
            )));
        }
        let attached = if record.state.status == Status::Running {
            let request = endpoint_request(&record, &wanted, &network)?;
            let connected = self.config.netd.connect(record.id.as_str(), request).await;
            let endpoint = connected.map_err(EngineError::network(format!(
                "connect to network {}",
                network.name
            )))?;
            Some(describe(&record, &wanted, &endpoint))
        } else {
            None
        };
        container
            .update(|record| {
                record.networks.insert(network.name.clone(), wanted);
                record
                    .attached
                    .extend(attached.map(|endpoint| (network.name.clone(), endpoint)));
            })
            .await?;
        self.announce_network("connect", &network.name, &network.id, container.id.as_str());
        Ok(())
    }

    /// Disconnects a container from a network. With `force` a network that is already gone is no error.
    ///
    /// # Errors
    /// No such container or network, or not connected.
    pub async fn disconnect_network(&self, name: &str, network: &str, force: bool) -> Result<()> {
        let container = self.registry.find(name)?;
        let network = find(&self.known_networks(), network)?;
        let _lifecycle = container.lifecycle.lock().await;
        let Some(used) = self.name_used(&container, &network.id) else {
            return match force {
                true => Ok(()),
                false => Err(EngineError::Conflict(format!(
                    "container {} is not connected to network {}",
                    container.id, network.name
                ))),
            };
        };
        if container.state().status == Status::Running {
            let gone = self
                .config
                .netd
                .disconnect(container.id.as_str(), &network.id)
                .await;
            gone.map_err(EngineError::network(format!(
                "disconnect from network {}",
                network.name
            )))?;
        }
        container
            .update(|record| {
                record.networks.remove(&used);
                record.attached.remove(&used);
            })
            .await?;
        self.announce_network("disconnect", &network.name, &network.id, container.id.as_str());
        Ok(())
    }

    /// The name under which a container knows a network, if it is connected to it.
    fn name_used(&self, container: &Container, network_id: &str) -> Option<String> {
        let known = self.known_networks();
        let record = container.record();
        record
            .networks
            .keys()
            .find(|name| find(&known, name).is_ok_and(|n| n.id == network_id))
            .cloned()
    }

    pub(crate) fn announce_network(&self, action: &str, name: &str, id: &str, container: &str) {
        let attributes = BTreeMap::from([
            ("container".to_owned(), container.to_owned()),
            ("name".to_owned(), name.to_owned()),
            ("type".to_owned(), "bridge".to_owned()),
        ]);
        self.publish_event("local", "network", action, id, attributes);
    }
}
