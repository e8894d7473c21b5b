//! Under which keys each kind of object is found.

use proto::{Cluster, Config, Network, Node, Secret, Service, Task, TaskSpec};

use super::index::Key;

/// The index keys of an object.
pub(super) trait Keys {
    fn keys(&self) -> Vec<Key>;
}

macro_rules! keys_by_name {
    ($($kind:ident)*) => {$(
        impl Keys for $kind {
            fn keys(&self) -> Vec<Key> {
                vec![Key::Name(self.spec.name.clone())]
            }
        }
    )*};
}

keys_by_name!(Cluster Network Secret Config);

impl Keys for Node {
    fn keys(&self) -> Vec<Key> {
        vec![Key::Name(self.description.hostname.clone())]
    }
}

impl Keys for Service {
    fn keys(&self) -> Vec<Key> {
        let mut keys = vec![Key::Name(self.spec.name.clone())];
        let before_1_25 = self.spec.networks.iter().map(|network| network.target.clone());
        keys.extend(before_1_25.map(Key::Network));
        keys.extend(references(&self.spec.task_template));
        keys.extend(
            self.endpoint
                .virtual_ips
                .iter()
                .map(|vip| Key::Network(vip.network_id.as_str().to_owned())),
        );
        keys.dedup();
        keys
    }
}

impl Keys for Task {
    fn keys(&self) -> Vec<Key> {
        let mut keys = vec![
            Key::DesiredState(self.desired_state),
            Key::State(self.status.state),
        ];
        if !self.service_id.is_empty() {
            let service = self.service_id.as_str().to_owned();
            keys.push(Key::Slot(service.clone(), self.slot));
            keys.push(Key::Service(service));
        }
        if !self.node_id.is_empty() {
            keys.push(Key::Node(self.node_id.as_str().to_owned()));
        }
        let attached = self.networks_attachments.iter();
        keys.extend(attached.map(|attachment| Key::Network(attachment.network.id.as_str().to_owned())));
        keys.extend(references(&self.spec));
        keys
    }
}

/// The networks, secrets and configs that a task's spec names.
fn references(spec: &TaskSpec) -> impl Iterator<Item = Key> + '_ {
    let container = spec.container_spec.iter();
    let secrets = container.clone().flat_map(|container| &container.secrets);
    let configs = container.flat_map(|container| &container.configs);
    let networks = spec
        .networks
        .iter()
        .map(|network| Key::Network(network.target.clone()));
    networks
        .chain(secrets.map(|secret| Key::Secret(secret.secret_id.as_str().to_owned())))
        .chain(configs.map(|config| Key::Config(config.config_id.as_str().to_owned())))
}
