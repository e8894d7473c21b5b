//! Who is called what, on which network; and who may see it.

use std::collections::HashMap;
use std::net::IpAddr;

use super::zone::{Entry, Names, Source, Zone};

/// Who is asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Somebody on this network, to be told apart by the address.
    Network(String),
    /// This sandbox.
    Sandbox(String),
}

/// What all the node's DNS sockets answer from.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    zones: HashMap<String, Zone>,
    sandboxes: HashMap<String, Vec<String>>,
}

/// The networks that one client sees, in the order of its interfaces.
#[derive(Debug)]
pub(crate) struct View<'a> {
    zones: Vec<&'a Zone>,
}

impl Directory {
    pub(crate) fn set_zone(&mut self, network: &str, zone: Zone) {
        self.zones.insert(network.to_owned(), zone);
    }

    /// These are the names of one who has some on the network, if the network is known.
    pub(crate) fn set_names(&mut self, network: &str, source: &Source, names: Names) {
        if let Some(zone) = self.zones.get_mut(network) {
            zone.set(source, names);
        }
    }

    pub(crate) fn remove_zone(&mut self, network: &str) {
        self.zones.remove(network);
    }

    pub(crate) fn set_sandbox(&mut self, sandbox: &str, networks: Vec<String>) {
        self.sandboxes.insert(sandbox.to_owned(), networks);
    }

    pub(crate) fn remove_sandbox(&mut self, sandbox: &str) {
        self.sandboxes.remove(sandbox);
    }

    /// What this client sees. `None`: it is nobody to be answered, because its address is none of the network whose gateway
    /// it asks. Who can make up the address it asks from could otherwise have the answer sent to somebody else.
    pub(crate) fn view(&self, scope: &Scope, client: IpAddr) -> Option<View<'_>> {
        let (sandbox, own) = match scope {
            Scope::Sandbox(id) => (Some(id.as_str()), None),
            Scope::Network(id) => {
                let zone = self
                    .zones
                    .get(id)
                    .filter(|z| z.contains(client) || on_link(client))?;
                (zone.sandbox_at(client), Some(zone))
            }
        };
        let networks = sandbox.and_then(|id| self.sandboxes.get(id));
        let zones = match networks {
            Some(networks) => networks.iter().filter_map(|n| self.zones.get(n)).collect(),
            None => own.into_iter().collect(),
        };
        Some(View { zones })
    }
}

/// IPv6 link-local: not routed, so from the network itself.
fn on_link(client: IpAddr) -> bool {
    matches!(client, IpAddr::V6(address) if address.is_unicast_link_local())
}

impl<'a> View<'a> {
    /// What is known of a name in lower case: on the first network that has addresses for it, or on the network named at its
    /// end (`web.backend`). `None`: nobody knows the name.
    pub(crate) fn find(&self, name: &str) -> Option<(&'a Zone, &'a Entry)> {
        self.first(|_| Some(name))
            .or_else(|| self.first(|zone| name.strip_suffix(zone.name.as_str())?.strip_suffix('.')))
    }

    fn first<'n>(&self, name: impl Fn(&Zone) -> Option<&'n str>) -> Option<(&'a Zone, &'a Entry)> {
        let mut known = None;
        for zone in &self.zones {
            match name(zone).and_then(|name| zone.find(name)) {
                Some(entry) if !entry.addresses.is_empty() => return Some((zone, entry)),
                Some(entry) => known = known.or(Some((*zone, entry))),
                None => {}
            }
        }
        known
    }

    /// `name.network` of an address.
    pub(crate) fn pointer(&self, address: IpAddr) -> Option<String> {
        self.zones
            .iter()
            .find_map(|zone| Some(format!("{}.{}", zone.pointer(address)?, zone.name)))
    }

    /// The address lies on one of the client's networks: the world outside knows nothing about it.
    pub(crate) fn is_ours(&self, address: IpAddr) -> bool {
        self.zones.iter().any(|zone| zone.contains(address))
    }

    /// An unknown name that ends in the name of one of the client's networks.
    pub(crate) fn of_network(&self, name: &str) -> Option<&str> {
        let is_below = |zone: &&&Zone| {
            name.strip_suffix(zone.name.as_str())
                .is_some_and(|rest| rest.ends_with('.'))
        };
        self.zones.iter().find(is_below).map(|zone| zone.name.as_str())
    }

    /// May the client ask the world outside?
    pub(crate) fn reaches_out(&self) -> bool {
        self.zones.iter().any(|zone| !zone.internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<'a>(view: &View<'a>, name: &str) -> Option<&'a [IpAddr]> {
        view.find(name).map(|(_, entry)| entry.addresses.as_slice())
    }

    #[test]
    fn a_client_sees_its_networks_in_order_and_no_others() {
        let mut directory = Directory::default();
        for (id, subnet, last) in [
            ("n1", "10.0.1.0/24", 1),
            ("n2", "10.0.2.0/24", 2),
            ("n3", "10.0.3.0/24", 3),
        ] {
            let mut zone = Zone::new(&format!("Net{last}"), last == 1, [subnet.parse().unwrap()]);
            let mut names = Names::default();
            names.add("Web", [IpAddr::from([10, 0, last, 9])]);
            names.add("half", (last == 1).then_some(IpAddr::from([10, 0, last, 8])));
            names.add("empty", None::<IpAddr>);
            names.member(IpAddr::from([10, 0, last, 5]), "box");
            zone.set(&Source::Sandbox("box".into()), names);
            directory.set_zone(id, zone);
        }
        directory.set_sandbox("box", vec!["n2".into(), "n1".into()]);
        let network = Scope::Network("n1".into());
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let by_address = directory.view(&network, ip("10.0.1.5")).unwrap();
        assert_eq!(found(&by_address, "web"), Some(&[ip("10.0.2.9")][..]));
        assert_eq!(found(&by_address, "web.net1"), Some(&[ip("10.0.1.9")][..]));
        assert_eq!(found(&by_address, "half"), Some(&[ip("10.0.1.8")][..]));
        assert_eq!(found(&by_address, "empty"), Some(&[][..]));
        assert_eq!(found(&by_address, "web.net3"), None);
        assert!(by_address.reaches_out());
        let stranger = directory.view(&network, ip("10.0.1.77")).unwrap();
        assert_eq!(found(&stranger, "web"), Some(&[ip("10.0.1.9")][..]));
        assert!(!stranger.reaches_out());
        assert!(directory.view(&network, ip("10.0.2.5")).is_none());
        assert!(directory.view(&network, ip("fe80::1")).is_some());
        let gone = directory.view(&Scope::Sandbox("gone".into()), ip("127.0.0.1"));
        assert_eq!(found(&gone.unwrap(), "web"), None);
    }
}
