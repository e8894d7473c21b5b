//! What we say to rtnetlink about networks that span nodes, and what the kernel makes of it.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;

use common::netlink::{
    Forwarding, Link, LinkChange, Neighbour, Place, PortSettings, Socket, Vxlan, VxlanSettings, errno,
};
use common::{HOST, HOST6, world};
use netd::Mac;

const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));

fn settings(local: impl Into<IpAddr>) -> VxlanSettings {
    VxlanSettings {
        vni: 4097,
        port: 4789,
        local: local.into(),
        learning: false,
    }
}

fn up<'a>() -> LinkChange<'a> {
    LinkChange {
        up: true,
        ..LinkChange::default()
    }
}

#[test]
fn a_vxlan_device_is_born_in_another_namespace_as_it_was_asked_for() {
    world(|w| {
        let mut host = Socket::route().unwrap();
        let (fabric, mut inside) = sys::netns::create(|| Socket::route().unwrap()).unwrap();
        let bridge = Mac([2, 0x42, 10, 0, 0, 1]);
        inside
            .request(Link::create_bridge("br-test", bridge, 1450))
            .unwrap();
        let index = Link::find(&mut inside, "br-test").unwrap().unwrap().index;
        let v6: IpAddr = "::1".parse().unwrap();
        for local in [HOST.into(), IpAddr::from(Ipv4Addr::UNSPECIFIED), v6] {
            let device = Vxlan {
                name: "vx-test",
                settings: settings(local),
                mtu: 1450,
                mac: Some(Mac([2, 0, 0, 0, 0, 9])),
                netns: fabric.as_fd(),
            };
            host.request(device.create()).unwrap();
            let again = host.request(device.create()).unwrap_err();
            assert_eq!(
                errno(&again),
                Some(libc::EEXIST),
                "one VNI, one device per namespace"
            );
            let master = LinkChange {
                master: Some(index),
                ..up()
            };
            inside
                .batch(vec![
                    Link::change("vx-test", &master),
                    PortSettings::STATIC.set("vx-test"),
                ])
                .unwrap();
            let made = Link::find(&mut inside, "vx-test").unwrap().unwrap();
            assert_eq!(made.vxlan, Some(settings(local)));
            assert_eq!(made.port, Some(PortSettings::STATIC));
            assert_eq!((made.master, made.mtu, made.up), (Some(index), 1450, true));
            inside.request(Link::delete("vx-test")).unwrap();
        }
        assert!(!w.host_links().contains(&"vx-test".into()));
    });
}

#[test]
fn static_entries_are_set_listed_replaced_and_deleted_by_the_thousand() {
    world(|_| {
        let mut host = Socket::route().unwrap();
        let (fabric, mut inside) = sys::netns::create(|| Socket::route().unwrap()).unwrap();
        let device = Vxlan {
            name: "vx-test",
            settings: settings(HOST),
            mtu: 1450,
            mac: None,
            netns: fabric.as_fd(),
        };
        host.request(device.create()).unwrap();
        inside
            .request(Link::create_bridge("br-test", Mac([2, 0x42, 10, 0, 0, 1]), 1450))
            .unwrap();
        let bridge = Link::find(&mut inside, "br-test").unwrap().unwrap().index;
        let master = LinkChange {
            master: Some(bridge),
            ..up()
        };
        inside.request(Link::change("vx-test", &master)).unwrap();
        let port = Link::find(&mut inside, "vx-test").unwrap().unwrap().index;
        assert_eq!(Forwarding::list(&mut inside, port).unwrap(), []);
        let (mut neighbours, mut forwarding) = (Vec::new(), Vec::new());
        for n in 0..1000u32 {
            let v4 = Ipv4Addr::from(0x0a00_0100 + n);
            let mac = Mac::from_ipv4(v4);
            for address in [IpAddr::from(v4), v4.to_ipv6_mapped().into()] {
                let link = bridge;
                neighbours.push(Neighbour { link, address, mac });
            }
            for place in [Place::Bridge, Place::Node(HOST.into())] {
                let link = port;
                forwarding.push(Forwarding { link, mac, place });
            }
        }
        let add: Vec<_> = forwarding
            .iter()
            .map(Forwarding::set)
            .chain(neighbours.iter().map(Neighbour::set))
            .collect();
        for _ in 0..2 {
            assert_eq!(inside.bulk(&add).unwrap().len(), 0, "repeating is fine");
        }
        let moved = Forwarding {
            place: Place::Node(NODE),
            ..forwarding[1]
        };
        inside.request(moved.set()).unwrap();
        forwarding[1] = moved;
        let sorted = |mut all: Vec<Forwarding>| {
            all.sort_unstable();
            all
        };
        neighbours.sort_unstable();
        let mut listed = Neighbour::list(&mut inside, bridge).unwrap();
        listed.sort_unstable();
        assert_eq!(listed, neighbours);
        assert_eq!(
            sorted(Forwarding::list(&mut inside, port).unwrap()),
            sorted(forwarding.clone())
        );
        let remove: Vec<_> = neighbours
            .iter()
            .map(Neighbour::delete)
            .chain(forwarding.iter().map(Forwarding::delete))
            .collect();
        assert_eq!(inside.bulk(&remove).unwrap().len(), 0);
        let refused = inside.bulk(&remove).unwrap();
        assert_eq!(refused.len(), remove.len(), "each refusal is heard");
        assert!(
            refused
                .iter()
                .enumerate()
                .all(|(n, r)| n == r.index && r.errno == libc::ENOENT)
        );
        assert_eq!(Forwarding::list(&mut inside, port).unwrap(), []);
        assert_eq!(Neighbour::list(&mut inside, bridge).unwrap(), []);
    });
}

#[test]
fn the_agent_learns_what_its_data_path_is_like() {
    world(|w| {
        let netd = w.open();
        let facts = |address: &str| w.wait(netd.underlay_facts(address.parse().unwrap())).unwrap();
        let of_host = facts("192.0.2.2").unwrap();
        assert_eq!((of_host.mtu, of_host.forwards), (1500, true));
        assert_eq!(facts("127.0.0.1").map(|facts| facts.mtu), Some(65536));
        assert_eq!(facts("::1").map(|facts| facts.mtu), Some(65536));
        assert_eq!(facts("192.0.2.3"), None, "another's address");
        assert_eq!(
            w.wait(netd.interface_addresses("eth0")).unwrap(),
            Some(vec![IpAddr::from(HOST), HOST6.into()]),
            "of both versions, without link-local ones"
        );
        let claimed = w.wait(netd.claimed_subnets()).unwrap();
        let claims = |text: &str| claimed.contains(&text.parse().unwrap());
        assert!(claims("192.0.2.0/24") && claims("2001:db8::/64"), "{claimed:?}");
    });
}
