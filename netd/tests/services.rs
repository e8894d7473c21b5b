//! Services: virtual IPs, names, ports published for a service.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::io;
use std::net::Ipv4Addr;

use common::{Box, HOST, OUTSIDE, Server, World, both, call, tables, tally};
use netd::{Backend, ErrorKind, IngressPort, Netd, Protocol, ServiceEndpoint, ServiceNetwork};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 200);

struct Tasks {
    boxes: Vec<Box>,
    _servers: Vec<Server>,
}

fn network(w: &World, netd: &Netd) {
    let config = netd::NetworkConfig {
        id: "front".into(),
        name: "front".into(),
        subnet: Some("10.0.1.0/24".parse().unwrap()),
        ..netd::NetworkConfig::default()
    };
    w.wait(netd.ensure_network(&config)).unwrap();
}

fn tasks(w: &World, netd: &Netd, count: usize) -> Tasks {
    let boxes: Vec<_> = (0..count)
        .map(|n| w.attach(netd, &format!("task{n}"), &["front"]))
        .collect();
    let servers = boxes
        .iter()
        .enumerate()
        .map(|(n, b)| b.serve(80, &format!("task{n}")))
        .collect();
    Tasks {
        boxes,
        _servers: servers,
    }
}

/// The service with the given tasks as backends.
fn service(tasks: &Tasks, which: &[usize], vip: Option<Ipv4Addr>, port: Option<u16>) -> ServiceEndpoint {
    let backend = |n: &usize| Backend {
        task: format!("id{n}"),
        name: format!("web.{n}.id{n}"),
        addresses: vec![("front".into(), tasks.boxes[*n].address())],
        sandbox: Some(format!("task{n}")),
        ..Backend::default()
    };
    ServiceEndpoint {
        id: "svc".into(),
        name: "web".into(),
        networks: vec![ServiceNetwork {
            network: "front".into(),
            vip,
            aliases: vec!["www".into()],
            ..ServiceNetwork::default()
        }],
        ports: port
            .map(|published| IngressPort {
                published,
                target: 80,
                protocol: Protocol::Tcp,
            })
            .into_iter()
            .collect(),
        backends: which.iter().map(backend).collect(),
    }
}

#[test]
fn a_virtual_ip_spreads_over_the_ready_tasks_only() {
    both(|w| {
        let netd = w.open();
        network(w, &netd);
        let client = w.attach(&netd, "client", &["front"]);
        let tasks = tasks(w, &netd, 3);
        assert_eq!(
            tables(&client.netns),
            ["shoal_dns"],
            "no service, no connection tracking"
        );
        w.wait(netd.set_service(service(&tasks, &[0, 1, 2], Some(VIP), None)))
            .unwrap();
        assert_eq!(client.resolve("web"), [VIP]);
        assert_eq!(client.resolve("www.front"), [VIP]);
        let mut all: Vec<_> = tasks.boxes.iter().map(Box::address).collect();
        all.sort_unstable();
        assert_eq!(client.resolve("tasks.web"), all);
        assert_eq!(client.resolve("web.1.id1"), [tasks.boxes[1].address()]);
        let seen = tally(90, || client.call(VIP, 80).unwrap());
        assert_eq!(seen.len(), 3);
        assert!(seen.values().all(|n| *n >= 12), "each about a third: {seen:?}");
        assert!(
            common::call_udp(&client.netns, VIP, 80)
                .unwrap()
                .starts_with("task")
        );

        w.wait(netd.set_service(service(&tasks, &[0, 2], Some(VIP), None)))
            .unwrap();
        let seen = tally(60, || client.call(VIP, 80).unwrap());
        assert_eq!(seen.keys().collect::<Vec<_>>(), ["task0", "task2"]);

        let late = w.attach(&netd, "late", &["front"]);
        assert!(
            late.call(VIP, 80).unwrap().starts_with("task"),
            "a sandbox that came later sees it too"
        );
        assert!(
            tally(60, || tasks.boxes[0].call(VIP, 80).unwrap()).contains_key("task0"),
            "a task reaches itself"
        );

        w.wait(netd.set_service(service(&tasks, &[], Some(VIP), None)))
            .unwrap();
        let refused = client.call(VIP, 80).unwrap_err();
        assert_eq!(
            refused.kind(),
            io::ErrorKind::ConnectionRefused,
            "no backend: refused, no timeout"
        );
        assert_eq!(client.resolve("web"), [VIP]);
        w.wait(netd.remove_service("svc")).unwrap();
        assert!(client.resolve("web").is_empty());
        assert_eq!(tables(&client.netns), ["shoal_dns"]);
    });
}

#[test]
fn without_a_virtual_ip_the_name_is_the_tasks() {
    both(|w| {
        let netd = w.open();
        network(w, &netd);
        let client = w.attach(&netd, "client", &["front"]);
        let tasks = tasks(w, &netd, 2);
        w.wait(netd.set_service(service(&tasks, &[0, 1], None, None)))
            .unwrap();
        let mut all: Vec<_> = tasks.boxes.iter().map(Box::address).collect();
        all.sort_unstable();
        assert_eq!(client.resolve("web"), all);
        assert_eq!(client.resolve("www"), all);
        w.wait(netd.set_service(service(&tasks, &[1], None, None)))
            .unwrap();
        assert_eq!(client.resolve("web"), [tasks.boxes[1].address()]);
        assert_eq!(tables(&client.netns), ["shoal_dns"]);
    });
}

#[test]
fn a_published_port_of_a_service_balances_and_keeps_the_clients_address() {
    both(|w| {
        let netd = w.open();
        network(w, &netd);
        let tasks = tasks(w, &netd, 3);
        w.wait(netd.set_service(service(&tasks, &[0, 1, 2], Some(VIP), Some(8080))))
            .unwrap();
        assert!(
            call(&w.outside, HOST, 8080)
                .unwrap()
                .ends_with(&OUTSIDE.to_string())
        );
        for (client, to) in [(&w.outside, HOST), (&w.host, Ipv4Addr::LOCALHOST)] {
            let seen = tally(60, || call(client, to, 8080).unwrap());
            assert!(seen.len() == 3 && seen.values().all(|n| *n >= 6), "{seen:?}");
        }
        w.wait(netd.set_service(service(&tasks, &[1], Some(VIP), Some(8080))))
            .unwrap();
        assert_eq!(tally(20, || call(&w.outside, HOST, 8080).unwrap()).len(), 1);
        w.wait(netd.set_service(service(&tasks, &[], Some(VIP), Some(8080))))
            .unwrap();
        assert_eq!(
            call(&w.outside, HOST, 8080).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        // Another port, then none.
        w.wait(netd.set_service(service(&tasks, &[1], Some(VIP), Some(9090))))
            .unwrap();
        assert!(call(&w.outside, HOST, 9090).is_ok());
        assert_eq!(
            call(&w.outside, HOST, 8080).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert_eq!(netd.publish_conflict(8080, Protocol::Tcp), None);
        w.wait(netd.remove_service("svc")).unwrap();
        assert!(call(&w.outside, HOST, 9090).is_err());
    });
}

#[test]
fn a_udp_client_that_never_stops_is_led_away_from_a_lost_backend() {
    both(|w| {
        let netd = w.open();
        network(w, &netd);
        let client = w.attach(&netd, "client", &["front"]);
        let tasks = tasks(w, &netd, 2);
        let port = IngressPort {
            published: 5000,
            target: 80,
            protocol: Protocol::Udp,
        };
        let with = |which: &[usize]| ServiceEndpoint {
            ports: vec![port],
            ..service(&tasks, which, Some(VIP), None)
        };
        w.wait(netd.set_service(with(&[0]))).unwrap();
        let socket = |netns, to: (Ipv4Addr, u16)| {
            sys::netns::run_in(netns, || {
                let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.connect(to).unwrap();
                socket
                    .set_read_timeout(Some(std::time::Duration::from_secs(3)))
                    .unwrap();
                socket
            })
            .unwrap()
        };
        let say = |socket: &std::net::UdpSocket| {
            let mut buffer = [0; 64];
            socket.send(b"?").unwrap();
            let n = socket.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..n])
                .split(' ')
                .next()
                .unwrap()
                .to_owned()
        };
        let inside = socket(&client.netns, (VIP, 80));
        let outside = socket(&w.outside, (HOST, 5000));
        assert_eq!(
            (say(&inside), say(&outside)),
            ("task0".to_owned(), "task0".to_owned())
        );
        w.wait(netd.set_service(with(&[1]))).unwrap();
        assert_eq!(
            (say(&inside), say(&outside)),
            ("task1".to_owned(), "task1".to_owned())
        );
    });
}

#[test]
fn a_taken_port_does_not_keep_the_service_from_working_inside() {
    both(|w| {
        let netd = w.open();
        network(w, &netd);
        let client = w.attach(&netd, "client", &["front"]);
        let tasks = tasks(w, &netd, 1);
        let foreign = std::net::TcpListener::bind("0.0.0.0:8080").unwrap();
        let port = |published| IngressPort {
            published,
            target: 80,
            protocol: Protocol::Tcp,
        };
        let wanted = ServiceEndpoint {
            ports: vec![port(8080), port(9090)],
            ..service(&tasks, &[0], Some(VIP), None)
        };
        for _ in 0..2 {
            let error = w.wait(netd.set_service(wanted.clone())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict);
            assert!(error.to_string().contains("8080"));
        }
        let told = netd.warnings().join("\n");
        let holder = format!("pid {}", std::process::id());
        assert!(told.contains("port 8080/tcp") && told.contains(&holder), "{told}");
        assert!(!told.contains("9090"), "{told}");
        assert!(client.call(VIP, 80).is_ok());
        assert!(
            call(&w.outside, HOST, 9090).is_ok(),
            "the other port is published"
        );
        drop(foreign);
        w.wait(netd.set_service(wanted)).unwrap();
        assert!(call(&w.outside, HOST, 8080).is_ok(), "the next attempt succeeds");
        assert!(!netd.warnings().join("").contains("8080"));
    });
}
