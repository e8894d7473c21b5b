//! Who is called what, on which network; and who may see it.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// Who is asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Somebody on this network, to be told apart by the address.
    Network(String),
    /// This sandbox.
    Sandbox(String),
}

/// The names of one network, in lower case and without a final dot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Zone {
    pub(crate) name: String,
    pub(crate) internal: bool,
    subnets: Vec<IpNet>,
    names: HashMap<String, Vec<IpAddr>>,
    pointers: HashMap<IpAddr, String>,
    members: HashMap<IpAddr, String>,
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

impl Zone {
    pub(crate) fn new(name: &str, internal: bool, subnets: impl IntoIterator<Item = IpNet>) -> Self {
        Self {
            name: name.to_ascii_lowercase(),
            internal,
            subnets: subnets.into_iter().collect(),
            ..Self::default()
        }
    }

    /// One more address for a name. A name without an address is known, but answers with nothing.
    pub(crate) fn add(&mut self, name: &str, addresses: impl IntoIterator<Item = impl Into<IpAddr>>) {
        let known = self
            .names
            .entry(name.trim_end_matches('.').to_ascii_lowercase())
            .or_default();
        for address in addresses.into_iter().map(Into::into) {
            if !known.contains(&address) {
                known.push(address);
            }
        }
    }

    /// The answer to a reverse question; the first one given stays.
    pub(crate) fn point(&mut self, address: impl Into<IpAddr>, name: &str) {
        self.pointers
            .entry(address.into())
            .or_insert_with(|| name.to_owned());
    }

    /// The address belongs to this sandbox.
    pub(crate) fn member(&mut self, address: impl Into<IpAddr>, sandbox: &str) {
        self.members.insert(address.into(), sandbox.to_owned());
    }
}

impl Directory {
    pub(crate) fn set_zone(&mut self, network: &str, zone: Zone) {
        self.zones.insert(network.to_owned(), zone);
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

    pub(crate) fn view(&self, scope: &Scope, client: IpAddr) -> View<'_> {
        let sandbox = match scope {
            Scope::Sandbox(id) => Some(id),
            Scope::Network(id) => self.zones.get(id).and_then(|zone| zone.members.get(&client)),
        };
        let zones = match (sandbox.and_then(|id| self.sandboxes.get(id)), scope) {
            (Some(networks), _) => networks.iter().filter_map(|n| self.zones.get(n)).collect(),
            (None, Scope::Network(id)) => self.zones.get(id).into_iter().collect(),
            (None, Scope::Sandbox(_)) => Vec::new(),
        };
        View { zones }
    }
}

impl View<'_> {
    /// The addresses of a name in lower case: on the first network that knows it, or on the network named at its end
    /// (`web.backend`). `None`: nobody knows the name.
    pub(crate) fn lookup(&self, name: &str) -> Option<&[IpAddr]> {
        let plain = self.zones.iter().find_map(|zone| zone.names.get(name));
        let qualified = || {
            self.zones.iter().find_map(|zone| {
                let rest = name.strip_suffix(zone.name.as_str())?.strip_suffix('.')?;
                zone.names.get(rest)
            })
        };
        plain.or_else(qualified).map(Vec::as_slice)
    }

    /// `name.network` of an address.
    pub(crate) fn pointer(&self, address: IpAddr) -> Option<String> {
        self.zones
            .iter()
            .find_map(|zone| Some(format!("{}.{}", zone.pointers.get(&address)?, zone.name)))
    }

    /// The address lies on one of the client's networks: the world outside knows nothing about it.
    pub(crate) fn is_ours(&self, address: IpAddr) -> bool {
        self.zones
            .iter()
            .any(|zone| zone.subnets.iter().any(|net| net.contains(&address)))
    }

    /// May the client ask the world outside?
    pub(crate) fn reaches_out(&self) -> bool {
        self.zones.iter().any(|zone| !zone.internal)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_client_sees_its_networks_in_order_and_no_others() {
        let mut directory = Directory::default();
        for (id, subnet, last) in [
            ("n1", "10.0.1.0/24", 1),
            ("n2", "10.0.2.0/24", 2),
            ("n3", "10.0.3.0/24", 3),
        ] {
            let mut zone = Zone::new(&format!("Net{last}"), last == 1, [subnet.parse().unwrap()]);
            zone.add("Web", [Ipv4Addr::new(10, 0, last, 9)]);
            zone.member(Ipv4Addr::new(10, 0, last, 5), "box");
            directory.set_zone(id, zone);
        }
        directory.set_sandbox("box", vec!["n2".into(), "n1".into()]);
        let by_address = directory.view(&Scope::Network("n1".into()), "10.0.1.5".parse().unwrap());
        assert_eq!(by_address.lookup("web"), Some(&[IpAddr::from([10, 0, 2, 9])][..]));
        assert_eq!(
            by_address.lookup("web.net1"),
            Some(&[IpAddr::from([10, 0, 1, 9])][..])
        );
        assert_eq!(by_address.lookup("web.net3"), None);
        assert!(by_address.reaches_out());
        let stranger = directory.view(&Scope::Network("n1".into()), "10.0.1.77".parse().unwrap());
        assert_eq!(stranger.lookup("web"), Some(&[IpAddr::from([10, 0, 1, 9])][..]));
        assert!(!stranger.reaches_out());
        assert_eq!(
            directory
                .view(&Scope::Sandbox("gone".into()), "127.0.0.1".parse().unwrap())
                .lookup("web"),
            None
        );
    }
}
