//! What the kernel must know of the members of one network: forwarding entries that lead to their nodes, and neighbours, so
//! that nobody has to be asked for them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use crate::netlink::{Forwarding, Neighbour, Place, Request, Socket};
use crate::types::{Mac, Member, MemberAttachment};

/// Where each other node is to be sent to.
pub(crate) type Nodes = BTreeMap<String, IpAddr>;

/// Links of one network, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) bridge: u32,
    pub(crate) vxlan: u32,
}

/// All entries of one network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    forwarding: BTreeSet<Forwarding>,
    neighbours: BTreeSet<Neighbour>,
}

impl Entries {
    /// What is wanted. An address of this node's own containers is nobody else's, whatever is said; of two members with the
    /// same address one is as good as the other. Who is `unasked`, because the fabric answers itself for those who are reached
    /// directly, is no neighbour; the way to him stays, for whoever has been told of it before.
    pub(crate) fn wanted<'a>(
        network: &str,
        members: impl Iterator<Item = &'a Member>,
        nodes: &Nodes,
        own: &BTreeSet<IpAddr>,
        unasked: impl Fn(IpAddr) -> bool,
        ports: Ports,
    ) -> Self {
        let mut places = BTreeMap::new();
        let mut neighbours = BTreeMap::new();
        for member in members {
            let Some(node) = nodes.get(&member.node) else {
                continue;
            };
            for on in member.attachments.iter().filter(|on| on.network == network) {
                let Some(mac) =
                    hardware_address(on).filter(|_| !on.addresses.iter().any(|a| own.contains(a)))
                else {
                    continue;
                };
                places.insert(mac, *node);
                let asked = on.addresses.iter().filter(|address| !unasked(**address));
                neighbours.extend(asked.map(|address| (*address, mac)));
            }
        }
        let both = |(mac, node)| {
            let link = ports.vxlan;
            [Place::Bridge, Place::Node(node)].map(|place| Forwarding { link, mac, place })
        };
        let link = ports.bridge;
        let neighbours = neighbours.into_iter();
        Self {
            forwarding: places.into_iter().flat_map(both).collect(),
            neighbours: neighbours
                .map(|(address, mac)| Neighbour { link, address, mac })
                .collect(),
        }
    }

    /// What the kernel has.
    pub(crate) fn present(socket: &mut Socket, ports: Ports) -> io::Result<Self> {
        Ok(Self {
            forwarding: Forwarding::list(socket, ports.vxlan)?.into_iter().collect(),
            neighbours: Neighbour::list(socket, ports.bridge)?.into_iter().collect(),
        })
    }

    /// What turns `present` into this: nobody is announced before there is a way to him, and nobody's way is taken before he
    /// has been withdrawn.
    pub(crate) fn changes(&self, present: &Self) -> Vec<Request> {
        // What is replaced is not deleted first.
        let kept = |old: &&Forwarding| {
            let mut same = self.about(old.link, old.mac);
            same.any(|new| kind(new) == kind(old))
        };
        let mut requests = Vec::new();
        let gone = present.neighbours.difference(&self.neighbours);
        let gone = gone.filter(|old| !self.knows(old.link, old.address));
        requests.extend(gone.map(Neighbour::delete));
        let gone = present.forwarding.difference(&self.forwarding);
        requests.extend(gone.filter(|old| !kept(old)).map(Forwarding::delete));
        let new = self.forwarding.difference(&present.forwarding);
        requests.extend(new.map(Forwarding::set));
        let new = self.neighbours.difference(&present.neighbours);
        requests.extend(new.map(Neighbour::set));
        requests
    }

    /// The entries about one hardware address.
    fn about(&self, link: u32, mac: Mac) -> impl Iterator<Item = &Forwarding> {
        let place = Place::Bridge;
        let from = self.forwarding.range(Forwarding { link, mac, place }..);
        from.take_while(move |entry| (entry.link, entry.mac) == (link, mac))
    }

    /// Only what is not gone with the device.
    pub(crate) fn without_forwarding(self) -> Self {
        Self {
            forwarding: BTreeSet::new(),
            ..self
        }
    }

    /// Whether the device of this index is told of this hardware address.
    pub(crate) fn forwards(&self, link: u32, mac: Mac) -> bool {
        self.about(link, mac).next().is_some()
    }

    /// Whether the bridge of this index is told of this address.
    pub(crate) fn knows(&self, link: u32, address: IpAddr) -> bool {
        let mac = Mac([0; 6]);
        let mut from = self.neighbours.range(Neighbour { link, address, mac }..);
        from.next()
            .is_some_and(|n| (n.link, n.address) == (link, address))
    }
}

/// Which table an entry is in.
fn kind(entry: &Forwarding) -> bool {
    entry.place == Place::Bridge
}

/// That of the interface: given, or following from its IPv4 address.
pub(crate) fn hardware_address(on: &MemberAttachment) -> Option<Mac> {
    let derived = on.addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(Mac::from_ipv4(*address)),
        IpAddr::V6(_) => None,
    });
    on.mac.or(derived)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports { bridge: 3, vxlan: 4 };

    fn member(id: &str, node: &str, address: &str) -> Member {
        Member {
            id: id.into(),
            node: node.into(),
            attachments: vec![MemberAttachment {
                network: "net".into(),
                addresses: vec![address.parse().unwrap()],
                ..MemberAttachment::default()
            }],
        }
    }

    fn wanted(members: &[Member], own: &[&str]) -> Entries {
        let nodes = [("b", "192.0.2.2"), ("c", "192.0.2.3")];
        let nodes = nodes.map(|(node, address)| (node.to_owned(), address.parse().unwrap()));
        let own = own.iter().map(|address| address.parse().unwrap()).collect();
        let direct = |address: IpAddr| address.to_string() == "10.0.0.77";
        Entries::wanted("net", members.iter(), &nodes.into(), &own, direct, PORTS)
    }

    fn kinds(requests: &[Request]) -> Vec<(u16, u8)> {
        // Families: 7 is the bridge's.
        requests.iter().map(|r| (r.kind, r.body[0])).collect()
    }

    const SET: u16 = 28;
    const DELETE: u16 = 29;

    #[test]
    fn a_member_is_three_entries_and_one_whose_node_is_unknown_is_none() {
        let entries = wanted(&[member("1", "b", "10.0.0.5"), member("2", "z", "10.0.0.6")], &[]);
        let changes = entries.changes(&Entries::default());
        assert_eq!(kinds(&changes), [(SET, 7), (SET, 7), (SET, 2)], "the way first");
        let back = Entries::default().changes(&entries);
        assert_eq!(
            kinds(&back),
            [(DELETE, 2), (DELETE, 7), (DELETE, 7)],
            "the way last"
        );
        assert_eq!(entries.changes(&entries), []);
    }

    #[test]
    fn who_is_reached_directly_is_no_neighbour() {
        let requests = wanted(&[member("1", "b", "10.0.0.77")], &[]).changes(&Entries::default());
        assert_eq!(kinds(&requests), [(SET, 7), (SET, 7)]);
    }

    #[test]
    fn a_member_that_moves_is_replaced_in_one_step() {
        let before = wanted(&[member("1", "b", "10.0.0.5")], &[]);
        let after = wanted(&[member("2", "c", "10.0.0.5")], &[]);
        assert_eq!(
            kinds(&after.changes(&before)),
            [(SET, 7)],
            "nothing is deleted meanwhile"
        );
    }

    #[test]
    fn an_address_of_this_node_is_nobody_elses() {
        let members = [member("1", "b", "10.0.0.5")];
        assert_eq!(wanted(&members, &["10.0.0.5"]), Entries::default());
        let entries = wanted(&members, &["10.0.0.6"]);
        let knows = |link, address: &str| entries.knows(link, address.parse().unwrap());
        assert!(knows(PORTS.bridge, "10.0.0.5"));
        assert!(!knows(PORTS.bridge, "10.0.0.4") && !knows(PORTS.vxlan, "10.0.0.5"));
        let mac = Mac([2, 0x42, 10, 0, 0, 5]);
        assert!(entries.forwards(PORTS.vxlan, mac) && !entries.forwards(PORTS.bridge, mac));
    }

    #[test]
    fn both_families_of_a_member_have_its_one_hardware_address() {
        let mut both = member("1", "b", "10.0.0.5");
        both.attachments[0].addresses.push("fd00::5".parse().unwrap());
        let requests = wanted(&[both], &[]).changes(&Entries::default());
        assert_eq!(kinds(&requests), [(SET, 7), (SET, 7), (SET, 2), (SET, 10)]);
    }
}
