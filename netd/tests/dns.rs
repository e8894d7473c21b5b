//! Names as containers see them: over real sockets, while networks and services change.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{ANSWER, World, dns_outside, query, world};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use netd::{
    Backend, IngressPort, Member, MemberAttachment, Netd, NetworkState, ServiceEndpoint, ServiceNetwork,
};

/// The n-th address of a network.
fn address(network: &NetworkState, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(network.subnet.network()) + n)
}

/// Service `name` on `front`, with tasks at these addresses.
fn service(name: &str, vip: Option<Ipv4Addr>, tasks: &[Ipv4Addr]) -> ServiceEndpoint {
    let backend = |(n, address): (usize, &Ipv4Addr)| Backend {
        task: format!("{name}{n}"),
        name: format!("{name}.{n}.{name}{n}"),
        addresses: vec![("front".into(), *address)],
        node: Some("elsewhere".into()),
        ..Backend::default()
    };
    ServiceEndpoint {
        id: name.into(),
        name: name.into(),
        networks: vec![ServiceNetwork {
            network: "front".into(),
            vip,
            aliases: vec![format!("{name}-alias")],
            ..ServiceNetwork::default()
        }],
        backends: tasks.iter().enumerate().map(backend).collect(),
        ..ServiceEndpoint::default()
    }
}

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

#[test]
fn services_answer_to_every_name_they_have() {
    world(|w| {
        let netd = w.open();
        let state = w.network(&netd, "front", true);
        let a = w.attach(&netd, "alpha", &["front"]);
        let ask = |name: &str, kind| query(&a.netns, a.sandbox.nameserver, name, kind).unwrap();
        let (vip, one, two) = (address(&state, 50), address(&state, 60), address(&state, 61));
        let mut web = service("web", Some(vip), &[one, two]);
        web.ports = vec![IngressPort {
            published: 8080,
            target: 80,
            ..IngressPort::default()
        }];
        w.wait(netd.set_service(web)).unwrap();
        let mut robin = service("robin", None, &[two]);
        robin.ports = vec![IngressPort {
            published: 8081,
            target: 53,
            protocol: netd::Protocol::Udp,
        }];
        w.wait(netd.set_service(robin)).unwrap();
        let mut both = service("both", Some(address(&state, 51)), &[one]);
        both.networks[0].vip6 = Some("fd00::51".parse().unwrap());
        both.backends[0].addresses6 = vec![("front".into(), "fd00::60".parse().unwrap())];
        w.wait(netd.set_service(both)).unwrap();
        for (name, expected) in [("both-alias.", "fd00::51"), ("tasks.both.", "fd00::60")] {
            let answer = ask(name, RecordType::AAAA);
            let found = answer.answers.iter().map(|r| r.data.to_string());
            assert_eq!(found.collect::<Vec<_>>(), [expected], "{name}");
        }
        for name in ["web.", "WEB-alias.", "web.front.", "web-alias.Front."] {
            assert_eq!(a.resolve(name), [vip], "{name}");
        }
        for name in ["tasks.web.", "tasks.web-alias.front."] {
            assert_eq!(a.resolve(name), [one, two], "{name}");
        }
        assert_eq!(a.resolve("robin."), [two]);
        assert_eq!(a.resolve("web.1.web1."), [two]);
        let targets = |name: &str| -> Vec<String> {
            let answer = ask(name, RecordType::SRV);
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{name}");
            let mut found: Vec<_> = answer
                .answers
                .iter()
                .filter_map(|r| match &r.data {
                    RData::SRV(srv) => Some(format!("{} {}", srv.port, srv.target)),
                    _ => None,
                })
                .collect();
            assert_eq!(answer.additionals.len(), found.len(), "with addresses");
            found.sort();
            found
        };
        assert_eq!(targets("_80._tcp.web."), ["80 web.front."]);
        assert_eq!(targets("_http._tcp.web.front."), ["80 web.front."]);
        let tasks = ["80 web.0.web0.front.", "80 web.1.web1.front."];
        assert_eq!(targets("_80._tcp.tasks.web."), tasks);
        assert_eq!(targets("_domain._udp.robin."), ["53 robin.0.robin0.front."]);
        for nothing in ["_81._tcp.web.", "_80._udp.web.", "_x._tcp.web."] {
            assert_eq!(targets(nothing), [""; 0], "{nothing}");
        }
        let [x, y, z, q] = vip.octets();
        let pointer = ask(&format!("{q}.{z}.{y}.{x}.in-addr.arpa."), RecordType::PTR);
        assert_eq!(pointer.answers[0].data.to_string(), "web.front.");
        for kind in [
            RecordType::AAAA,
            RecordType::MX,
            RecordType::TXT,
            RecordType::HTTPS,
        ] {
            let empty = ask("web.", kind);
            assert_eq!(
                (empty.metadata.response_code, empty.answers.len()),
                (ResponseCode::NoError, 0),
                "{kind}"
            );
        }
    });
}

/// Ask for names that exist until told to stop: how often there was an answer, and which were wrong.
fn watch(netns: &OwnedFd, server: IpAddr, stop: &AtomicBool) -> (usize, Vec<String>) {
    let (mut asked, mut wrong) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        for (name, kind) in [
            ("web.", RecordType::A),
            ("tasks.web.", RecordType::A),
            ("web-alias.front.", RecordType::AAAA),
            ("alpha.", RecordType::A),
        ] {
            // While nobody listens there is no answer; a client asks again.
            let Ok(answer) = query(netns, server, name, kind) else {
                continue;
            };
            asked += 1;
            if answer.metadata.response_code != ResponseCode::NoError {
                wrong.push(format!("{name} {}", answer.metadata.response_code));
            }
        }
    }
    (asked, wrong)
}

/// What happens in a cluster while clients go on asking.
fn upheaval(w: &World, netd: &Netd, state: &NetworkState) {
    let (vip, one, two) = (address(state, 50), address(state, 60), address(state, 61));
    for round in 0..20 {
        let member = Member {
            id: "far".into(),
            node: "elsewhere".into(),
            attachments: vec![MemberAttachment {
                network: "front".into(),
                addresses: vec![one.into()],
                names: vec!["far".into()],
                ..MemberAttachment::default()
            }],
        };
        w.wait(netd.set_members(vec![member])).unwrap();
        w.wait(netd.set_service(service("other", None, &[two]))).unwrap();
        // The other node is lost, with all tasks; then it returns.
        w.wait(netd.set_service(service("web", Some(vip), &[]))).unwrap();
        w.wait(netd.remove_members(["far".to_owned()].into())).unwrap();
        w.wait(netd.set_service(service("web", Some(vip), &[one, two])))
            .unwrap();
        w.wait(netd.remove_service("other")).unwrap();
        w.attach(netd, &format!("passing{round}"), &["front"]);
        w.wait(netd.detach(&format!("passing{round}"))).unwrap();
    }
}

/// Docker: "NXDOMAIN after a node returns". Nor is it denied when the agent returns.
#[test]
fn a_name_that_exists_throughout_is_never_denied() {
    world(|w| {
        let asked_outside = dns_outside(w);
        let netd = w.open();
        let state = w.network(&netd, "front", false);
        let a = w.attach(&netd, "alpha", &["front"]);
        w.wait(netd.set_service(service("web", Some(address(&state, 50)), &[])))
            .unwrap();
        let stop = AtomicBool::new(false);
        let heard = std::thread::scope(|scope| {
            let servers = [a.sandbox.nameserver, a.gateway().into()];
            let watching = servers.map(|server| {
                scope.spawn({
                    let (netns, stop) = (&a.netns, &stop);
                    move || watch(netns, server, stop)
                })
            });
            upheaval(w, &netd, &state);
            w.wait(netd.shutdown(false)).unwrap();
            drop(netd);
            let again = w.open();
            upheaval(w, &again, &state);
            stop.store(true, Ordering::Relaxed);
            watching.map(|watching| watching.join().unwrap())
        });
        for (asked, wrong) in heard {
            assert!(asked > 100, "{asked}");
            assert_eq!(wrong, Vec::<String>::new());
        }
        assert_eq!(asked_outside.load(Ordering::Relaxed), 0, "own names stay here");
    });
}

#[test]
fn the_world_outside_is_asked_once_and_not_about_names_of_ours() {
    world(|w| {
        let asked = dns_outside(w);
        let netd = w.open();
        w.network(&netd, "my_net", false);
        w.network(&netd, "dev", false);
        let a = w.attach(&netd, "alpha", &["my_net", "dev"]);
        let b = w.attach(&netd, "beta", &["dev"]);
        for boxed in [&a, &b, &a] {
            assert_eq!(boxed.resolve("example.com."), [ANSWER]);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1, "the answer is kept");
        let code = |name| {
            let answer = query(&a.netns, a.sandbox.nameserver, name, RecordType::A).unwrap();
            answer.metadata.response_code
        };
        assert_eq!(code("gone.my_net."), ResponseCode::NXDomain);
        let before = asked.load(Ordering::Relaxed);
        let answer = query(&a.netns, a.sandbox.nameserver, "web.dev.", RecordType::A).unwrap();
        assert_eq!(
            common::addresses(&answer),
            [ANSWER],
            "the Internet has a dev of its own"
        );
        assert!(answer.answers[0].ttl <= 1, "it may be ours the next moment");
        assert_eq!(asked.load(Ordering::Relaxed), before + 1);
    });
}

fn framed(name: &str, id: u16) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let packet = message.to_vec().unwrap();
    [&(packet.len() as u16).to_be_bytes()[..], &packet].concat()
}

#[test]
fn many_questions_go_over_one_connection_and_one_client_does_not_use_up_all() {
    world(|w| {
        let _outside = dns_outside(w);
        let netd = w.open();
        w.network(&netd, "front", false);
        let (a, b) = (
            w.attach(&netd, "alpha", &["front"]),
            w.attach(&netd, "beta", &["front"]),
        );
        let gateway: IpAddr = a.gateway().into();
        let connect = || {
            let stream = TcpStream::connect((gateway, 53)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            stream
        };
        sys::netns::run_in(&a.netns, || {
            let mut stream = connect();
            let names = (0..40).map(|n| {
                if n % 2 == 0 {
                    "beta.".to_owned()
                } else {
                    format!("n{n}.example.com.")
                }
            });
            let packets: Vec<u8> = names
                .enumerate()
                .flat_map(|(n, name)| framed(&name, n as u16))
                .collect();
            stream.write_all(&packets).unwrap();
            let mut answered = std::collections::BTreeSet::new();
            for _ in 0..40 {
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut packet = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut packet).unwrap();
                let answer = Message::from_vec(&packet).unwrap();
                assert_eq!(answer.answers.len(), 1);
                answered.insert(answer.metadata.id);
            }
            assert_eq!(answered.len(), 40);
        })
        .unwrap();
        // Connections that say one byte and no more.
        let lorises = sys::netns::run_in(&a.netns, || {
            let slow = || {
                let mut stream = connect();
                let _ = stream.write_all(&[0]);
                stream
            };
            (0..300).map(|_| slow()).collect::<Vec<_>>()
        })
        .unwrap();
        let answer = common::query_tcp(&b.netns, gateway, "alpha.", RecordType::A).unwrap();
        assert_eq!(common::addresses(&answer), [a.address()]);
        drop(lorises);
    });
}
