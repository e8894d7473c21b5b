//! Under which keys each kind of object is found.

use proto::{Cluster, Config, Network, Node, Secret, Service, Task, TaskSpec};

use super::index::KeyRef;

/// The index keys of an object.
pub(super) trait Keys {
    fn keys(&self) -> Vec<KeyRef<'_>>;
}

macro_rules! keys_by_name {
    ($($kind:ident)*) => {$(
        impl Keys for $kind {
            fn keys(&self) -> Vec<KeyRef<'_>> {
                vec![KeyRef::Name(&self.spec.name)]
            }
        }
    )*};
}

keys_by_name!(Cluster Network Secret Config);

impl Keys for Node {
    fn keys(&self) -> Vec<KeyRef<'_>> {
        vec![KeyRef::Name(&self.description.hostname)]
    }
}

impl Keys for Service {
    fn keys(&self) -> Vec<KeyRef<'_>> {
        let mut keys = vec![KeyRef::Name(&self.spec.name)];
        let before_1_25 = self.spec.networks.iter().map(|network| network.target.as_str());
        keys.extend(before_1_25.map(KeyRef::Network));
        keys.extend(references(&self.spec.task_template));
        let virtual_ips = self.endpoint.virtual_ips.iter();
        keys.extend(virtual_ips.map(|vip| KeyRef::Network(vip.network_id.as_str())));
        keys.dedup();
        keys
    }
}

impl Keys for Task {
    fn keys(&self) -> Vec<KeyRef<'_>> {
        let mut keys = Vec::with_capacity(8);
        if !self.service_id.is_empty() {
            let service = self.service_id.as_str();
            keys.extend([KeyRef::Slot(service, self.slot), KeyRef::Service(service)]);
        }
        if !self.node_id.is_empty() {
            keys.push(KeyRef::Node(self.node_id.as_str()));
        }
        let attached = self.networks_attachments.iter();
        keys.extend(attached.map(|attachment| KeyRef::Network(attachment.network.id.as_str())));
        keys.extend(references(&self.spec));
        keys
    }
}

/// The networks, secrets and configs that a task's spec names.
fn references(spec: &TaskSpec) -> impl Iterator<Item = KeyRef<'_>> {
    let container = spec.container_spec.iter();
    let secrets = container.clone().flat_map(|container| &container.secrets);
    let configs = container.flat_map(|container| &container.configs);
    let networks = spec
        .networks
        .iter()
        .map(|network| KeyRef::Network(&network.target));
    networks
        .chain(secrets.map(|secret| KeyRef::Secret(secret.secret_id.as_str())))
        .chain(configs.map(|config| KeyRef::Config(config.config_id.as_str())))
}
