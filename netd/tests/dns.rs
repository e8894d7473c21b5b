//! Names as containers see them: over real sockets, while networks and services change.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::net::IpAddr;

use common::{query, world};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use netd::{Member, MemberAttachment};

#[test]
fn containers_of_other_nodes_are_named_as_long_as_they_are_there() {
    world(|w| {
        let netd = w.open();
        let state = w.network(&netd, "front", true);
        let a = w.attach(&netd, "alpha", &["front"]);
        let far = std::net::Ipv4Addr::from(u32::from(state.subnet.network()) + 99);
        let far6: IpAddr = "fd00::99".parse().unwrap();
        let attachment = MemberAttachment {
            network: "front".into(),
            addresses: vec![far.into(), far6],
            names: vec!["far".into(), "alias".into()],
            ..MemberAttachment::default()
        };
        let member = |attachments| Member {
            id: "t1".into(),
            node: "n2".into(),
            attachments,
        };
        w.wait(netd.set_members(vec![member(vec![attachment])])).unwrap();
        assert_eq!(a.resolve("far."), [far]);
        assert_eq!(a.resolve("alias.front."), [far]);
        let v6 = query(&a.netns, a.sandbox.nameserver, "far.", RecordType::AAAA).unwrap();
        assert_eq!(v6.answers[0].data.ip_addr(), Some(far6));
        let [x, y, z, q] = far.octets();
        let reverse = format!("{q}.{z}.{y}.{x}.in-addr.arpa.");
        let pointer = || query(&a.netns, a.sandbox.nameserver, &reverse, RecordType::PTR).unwrap();
        assert_eq!(pointer().answers[0].data.to_string(), "far.front.");
        w.wait(netd.set_members(vec![member(vec![])])).unwrap();
        assert_eq!(pointer().metadata.response_code, ResponseCode::NXDomain);
        assert!(a.resolve("far.").is_empty());
    });
}
