//! Virtual IPs by socket hooks and by packet filters: the same behaviour, and the way from one to the other.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::netlink::{LinkAddress, Socket};
use common::{Box, Server, World, both, call, tables, tally, world, world_of_hooks};
use netd::{
    Backend, BalancerChoice, BalancerKind, Netd, NetdConfig, NetworkConfig, ServiceEndpoint, ServiceNetwork,
};
use sys::bpf::program::{Hook, Program};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 200);
const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 201);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x200);
const PATIENCE: Duration = Duration::from_secs(3);
const HOOKS: [Hook; 8] = [
    Hook::Connect4,
    Hook::Connect6,
    Hook::SendMsg4,
    Hook::SendMsg6,
    Hook::RecvMsg4,
    Hook::RecvMsg6,
    Hook::GetPeerName4,
    Hook::GetPeerName6,
];

fn network(w: &World, netd: &Netd, id: &str, subnet: &str) {
    let config = NetworkConfig {
        id: id.into(),
        name: id.into(),
        subnet: Some(subnet.parse().unwrap()),
        ..NetworkConfig::default()
    };
    w.wait(netd.ensure_network(&config)).unwrap();
}

struct Tasks {
    boxes: Vec<Box>,
    _servers: Vec<Server>,
}

fn tasks(w: &World, netd: &Netd, count: usize) -> Tasks {
    let boxes: Vec<_> = (0..count)
        .map(|n| w.attach(netd, &format!("task{n}"), &["front"]))
        .collect();
    let serve = |(n, b): (usize, &Box)| b.serve(80, &format!("task{n}"));
    let servers = boxes.iter().enumerate().map(serve).collect();
    Tasks {
        boxes,
        _servers: servers,
    }
}

fn service(name: &str, vip: Ipv4Addr, backends: impl Iterator<Item = Ipv4Addr>) -> ServiceEndpoint {
    let backend = |(n, address): (usize, Ipv4Addr)| Backend {
        task: format!("{name}{n}"),
        name: format!("{name}.{n}"),
        addresses: vec![("front".into(), address)],
        ..Backend::default()
    };
    ServiceEndpoint {
        id: name.into(),
        name: name.into(),
        networks: vec![ServiceNetwork {
            network: "front".into(),
            vip: Some(vip),
            ..ServiceNetwork::default()
        }],
        backends: backends.enumerate().map(backend).collect(),
        ..ServiceEndpoint::default()
    }
}

/// The service `web` at [`VIP`] with the tasks of these numbers.
fn lead(w: &World, netd: &Netd, tasks: &Tasks, which: &[usize]) {
    let backends = which.iter().map(|n| tasks.boxes[*n].address());
    w.wait(netd.set_service(service("web", VIP, backends))).unwrap();
}

fn datagrams(client: &Box, any: IpAddr) -> UdpSocket {
    let socket = sys::netns::run_in(&client.netns, || UdpSocket::bind((any, 0)).unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Who answers, and where the answer seems to come from.
fn ask(socket: &UdpSocket, to: SocketAddr) -> io::Result<(String, SocketAddr)> {
    socket.send_to(b"?", to)?;
    let mut buffer = [0; 64];
    let (n, from) = socket.recv_from(&mut buffer)?;
    Ok((word(&buffer[..n]), from))
}

/// The same over a connected socket.
fn say(socket: &UdpSocket) -> io::Result<String> {
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let n = socket.recv(&mut buffer)?;
    Ok(word(&buffer[..n]))
}

fn word(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Identifiers of what is attached to the world's cgroup.
fn attached(w: &World) -> Vec<u32> {
    let cgroup = File::open(w.cgroup.as_ref().unwrap()).unwrap();
    let ids = |hook| {
        Program::attached(&cgroup, hook)
            .unwrap()
            .into_iter()
            .map(|p| p.id)
    };
    HOOKS.into_iter().flat_map(ids).collect()
}

#[test]
fn a_socket_never_sees_another_address_than_the_virtual_one() {
    both(|w| {
        let netd = w.open();
        network(w, &netd, "front", "10.0.1.0/24");
        let client = w.attach(&netd, "client", &["front"]);
        let tasks = tasks(w, &netd, 3);
        lead(w, &netd, &tasks, &[0, 1, 2]);
        let vip = SocketAddr::from((VIP, 80));
        // A stream's peer.
        let stream = sys::netns::run_in(&client.netns, || TcpStream::connect(vip).unwrap()).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), vip);
        // A connected datagram socket's peer, and where its answers come from.
        let connected = datagrams(&client, Ipv4Addr::UNSPECIFIED.into());
        connected.connect(vip).unwrap();
        assert_eq!(connected.peer_addr().unwrap(), vip);
        let first = say(&connected).unwrap();
        connected.send(b"?").unwrap();
        assert_eq!(connected.recv_from(&mut [0; 64]).unwrap().1, vip);
        assert_eq!(say(&connected).unwrap(), first, "a connection has one backend");
        // An unconnected one: its answers, and the same backend as long as there is it.
        let loose = datagrams(&client, Ipv4Addr::UNSPECIFIED.into());
        let (first, from) = ask(&loose, vip).unwrap();
        assert_eq!(from, vip);
        assert!((0..10).all(|_| ask(&loose, vip).unwrap() == (first.clone(), vip)));
        // A task asked by its own address answers by it.
        let direct = SocketAddr::from((tasks.boxes[0].address(), 80));
        let own = datagrams(&client, Ipv4Addr::UNSPECIFIED.into());
        assert_eq!(ask(&own, direct).unwrap(), ("task0".into(), direct));
    });
}

/// A task's IPv6 address, with a task that answers there.
fn task6(w: &World, netd: &Netd, id: &str) -> (Ipv6Addr, Server) {
    let task = w.attach(netd, id, &["dual"]);
    let server = task.serve(80, id);
    (task.sandbox.endpoints[0].ipv6.unwrap().address, server)
}

/// The service `web` at [`VIP6`], with tasks at these addresses.
fn service6(backends: &[Ipv6Addr]) -> ServiceEndpoint {
    let backend = |(n, address): (usize, &Ipv6Addr)| Backend {
        task: format!("web{n}"),
        name: format!("web.{n}"),
        addresses6: vec![("dual".into(), *address)],
        ..Backend::default()
    };
    ServiceEndpoint {
        id: "web".into(),
        name: "web".into(),
        networks: vec![ServiceNetwork {
            network: "dual".into(),
            vip: Some(VIP),
            vip6: Some(VIP6),
            ..ServiceNetwork::default()
        }],
        backends: backends.iter().enumerate().map(backend).collect(),
        ..ServiceEndpoint::default()
    }
}

#[test]
fn virtual_ips_of_ipv6_are_balanced_answer_and_refuse_alike() {
    both(|w| {
        let netd = w.open();
        let config = NetworkConfig {
            id: "dual".into(),
            name: "dual".into(),
            subnet: Some("10.0.1.0/24".parse().unwrap()),
            subnet6: Some("fd00:1::/64".parse().unwrap()),
            ipv6: true,
            ..NetworkConfig::default()
        };
        w.wait(netd.ensure_network(&config)).unwrap();
        let client = w.attach(&netd, "client", &["dual"]);
        let servers: Vec<_> = (0..3).map(|n| task6(w, &netd, &format!("task{n}"))).collect();
        let addresses: Vec<_> = servers.iter().map(|(address, _)| *address).collect();
        let lead = |which: &[Ipv6Addr]| w.wait(netd.set_service(service6(which))).unwrap();
        lead(&addresses);
        let seen = tally(60, || client.call(VIP6, 80).unwrap());
        assert_eq!(seen.len(), 3, "{seen:?}");
        // Datagrams: one backend as long as there is it, and another at once when it is lost.
        let vip = SocketAddr::from((VIP6, 80));
        let loose = datagrams(&client, Ipv6Addr::UNSPECIFIED.into());
        lead(&addresses[..1]);
        assert_eq!(ask(&loose, vip).unwrap(), ("task0".into(), vip));
        lead(&addresses[1..2]);
        assert_eq!(ask(&loose, vip).unwrap(), ("task1".into(), vip));
        // The address is its network's bridge's, also after a restart, and nobody else's.
        let fabric = common::open(&w.dir.path().join("run/netns/fabric"));
        let anchored = || {
            let all = sys::netns::run_in(&fabric, || {
                LinkAddress::list(&mut Socket::route().unwrap()).unwrap()
            });
            all.unwrap()
                .iter()
                .filter(|one| one.address == IpAddr::from(VIP6))
                .count()
        };
        assert_eq!(anchored(), 1);
        // Without a task it is refused, not left without an answer.
        lead(&[]);
        let refused = client.call(VIP6, 80).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        drop(netd);
        let netd = w.open();
        assert_eq!(anchored(), 1);
        w.wait(netd.set_service(service6(&addresses[2..]))).unwrap();
        assert!(client.call(VIP6, 80).unwrap().starts_with("task2"));
        w.wait(netd.remove_service("web")).unwrap();
        assert_eq!(anchored(), 0);
        assert!(tables(&client.netns).iter().all(|table| table == "shoal_dns"));
    });
}

/// Programs that know IPv6 only in name: Java, Go and others open such sockets for everything.
#[test]
fn a_socket_for_both_families_is_balanced() {
    both(|w| {
        let netd = w.open();
        network(w, &netd, "front", "10.0.1.0/24");
        let client = w.attach(&netd, "client", &["front"]);
        let tasks = tasks(w, &netd, 2);
        lead(w, &netd, &tasks, &[0, 1]);
        let mapped = SocketAddr::from((VIP.to_ipv6_mapped(), 80));
        let stream = sys::netns::run_in(&client.netns, || TcpStream::connect(mapped).unwrap()).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), mapped);
        let loose = datagrams(&client, Ipv6Addr::UNSPECIFIED.into());
        let (first, from) = ask(&loose, mapped).unwrap();
        assert_eq!((from.ip().to_canonical(), from.port()), (VIP.into(), 80));
        assert_eq!(ask(&loose, mapped).unwrap().0, first);
        let connected = datagrams(&client, Ipv6Addr::UNSPECIFIED.into());
        connected.connect(mapped).unwrap();
        assert_eq!(connected.peer_addr().unwrap(), mapped);
        let led: Vec<_> = (0..2)
            .filter(|n| say(&connected).unwrap() != format!("task{n}"))
            .collect();
        lead(w, &netd, &tasks, &led);
        assert_eq!(
            say(&connected).unwrap(),
            format!("task{}", led[0]),
            "and led away"
        );
    });
}

#[test]
fn one_to_sixteen_tasks_get_their_share() {
    both(|w| {
        let netd = w.open();
        network(w, &netd, "front", "10.0.1.0/24");
        let client = w.attach(&netd, "client", &["front"]);
        let tasks = tasks(w, &netd, 16);
        for count in [1, 2, 5, 16, 3] {
            lead(w, &netd, &tasks, &(0..count).collect::<Vec<_>>());
            let calls = count * 40;
            let seen = tally(calls, || client.call(VIP, 80).unwrap());
            assert_eq!(seen.len(), count, "{seen:?}");
            // Forty expected; less than ten or more than a hundred once in millions of years.
            assert!(seen.values().all(|n| (10..=100).contains(n)), "{seen:?}");
        }
    });
}

#[test]
fn a_lost_backend_gets_no_datagram_and_a_late_one_gets_some() {
    both(|w| {
        let netd = w.open();
        network(w, &netd, "front", "10.0.1.0/24");
        let client = w.attach(&netd, "client", &["front"]);
        let tasks = tasks(w, &netd, 3);
        let vip = SocketAddr::from((VIP, 80));
        lead(w, &netd, &tasks, &[0]);
        let [connected, loose] = [(); 2].map(|()| datagrams(&client, Ipv4Addr::UNSPECIFIED.into()));
        connected.connect(vip).unwrap();
        let direct = datagrams(&client, Ipv4Addr::UNSPECIFIED.into());
        direct.connect((tasks.boxes[0].address(), 80)).unwrap();
        assert_eq!(say(&connected).unwrap(), "task0");
        assert_eq!(ask(&loose, vip).unwrap().0, "task0");
        // One more: who has a backend keeps it.
        lead(w, &netd, &tasks, &[0, 1]);
        assert!((0..10).all(|_| say(&connected).unwrap() == "task0"));
        assert!((0..10).all(|_| ask(&loose, vip).unwrap().0 == "task0"));
        // It is lost: at once, and without a word to the client.
        lead(w, &netd, &tasks, &[1]);
        assert_eq!(say(&connected).unwrap(), "task1");
        assert_eq!(ask(&loose, vip).unwrap(), ("task1".into(), vip));
        assert_eq!(connected.peer_addr().unwrap(), vip);
        assert_eq!(
            say(&direct).unwrap(),
            "task0",
            "who asked for the task itself has it"
        );
        // The last one, too: refused as by any machine on which nobody listens; and then somebody does again.
        lead(w, &netd, &tasks, &[]);
        assert!(say(&connected).is_err());
        assert!(ask(&loose, vip).is_err());
        let refused = client.call(VIP, 80).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        lead(w, &netd, &tasks, &[2]);
        common::eventually("led to the new one", || {
            say(&connected).is_ok_and(|name| name == "task2")
        });
        assert_eq!(ask(&loose, vip).unwrap().0, "task2");
    });
}

#[test]
fn only_who_is_on_the_network_is_led() {
    both(|w| {
        let netd = w.open();
        network(w, &netd, "front", "10.0.1.0/24");
        network(w, &netd, "back", "10.0.2.0/24");
        let client = w.attach(&netd, "client", &["front"]);
        let stranger = w.attach(&netd, "stranger", &["back"]);
        let tasks = tasks(w, &netd, 2);
        lead(w, &netd, &tasks, &[0]);
        let other = service("api", OTHER_VIP, std::iter::once(tasks.boxes[1].address()));
        w.wait(netd.set_service(other)).unwrap();
        assert!(client.call(VIP, 80).unwrap().starts_with("task0"));
        assert!(client.call(OTHER_VIP, 80).unwrap().starts_with("task1"));
        assert!(stranger.call(VIP, 80).is_err());
        // A socket of the host's namespace, in the containers' cgroup: a container with host networking.
        let host = call(&w.host, VIP, 80);
        assert!(host.is_err(), "as in Docker, the host is on no network: {host:?}");
        w.wait(netd.connect("stranger", common::request("x", &["front"]).endpoints.remove(0)))
            .unwrap();
        assert!(stranger.call(VIP, 80).unwrap().starts_with("task0"));
        w.wait(netd.disconnect("stranger", "front")).unwrap();
        assert!(stranger.call(VIP, 80).is_err());
    });
}

/// Calls through the virtual IP without a pause, until stopped: how many, and the errors.
fn load(client: &Box) -> (Arc<AtomicBool>, std::thread::JoinHandle<(usize, Vec<String>)>) {
    let stop = Arc::new(AtomicBool::new(false));
    let (until, netns) = (stop.clone(), client.netns.try_clone().unwrap());
    let thread = std::thread::spawn(move || {
        let (mut calls, mut errors) = (0, Vec::new());
        while !until.load(Ordering::Relaxed) {
            match call(&netns, VIP, 80) {
                Ok(_) => calls += 1,
                Err(error) => errors.push(error.to_string()),
            }
        }
        (calls, errors)
    });
    (stop, thread)
}

#[test]
fn programs_outlive_the_agent_and_the_next_one_takes_them_over_under_load() {
    world_of_hooks(|w| {
        let netd = w.open();
        assert_eq!(netd.balancing().kind, BalancerKind::Ebpf);
        network(w, &netd, "front", "10.0.1.0/24");
        let client = w.attach(&netd, "client", &["front"]);
        let tasks = tasks(w, &netd, 3);
        lead(w, &netd, &tasks, &[0, 1]);
        let before = attached(w);
        assert_eq!(before.len(), HOOKS.len());
        let loose = datagrams(&client, Ipv4Addr::UNSPECIFIED.into());
        let (first, _) = ask(&loose, (VIP, 80).into()).unwrap();
        let (stop, load) = load(&client);
        w.wait(netd.shutdown(false)).unwrap();
        drop(netd);
        assert!(client.call(VIP, 80).is_ok(), "nobody is there, and it works");
        let mut netd = w.open();
        for _ in 0..5 {
            drop(netd);
            netd = w.open();
        }
        assert_eq!(attached(w), before, "the same programs, untouched");
        assert_eq!(ask(&loose, (VIP, 80).into()).unwrap().0, first);
        lead(w, &netd, &tasks, &[2]);
        assert_eq!(tally(20, || client.call(VIP, 80).unwrap()).len(), 1);
        stop.store(true, Ordering::Relaxed);
        let (calls, errors) = load.join().unwrap();
        assert!(calls > 0 && errors.is_empty(), "{calls} calls, {errors:?}");
        for id in ["client", "task0", "task1", "task2"] {
            w.wait(netd.detach(id)).unwrap();
        }
        w.wait(netd.shutdown(true)).unwrap();
        assert!(attached(w).is_empty(), "nothing is left");
    });
}

#[test]
fn a_node_turns_from_filters_to_hooks_and_back_under_load() {
    world_of_hooks(|w| {
        let open = |balancer| {
            let config = NetdConfig {
                balancer,
                ..w.config()
            };
            w.wait(Netd::open(config)).unwrap()
        };
        let mut netd = open(BalancerChoice::Nftables);
        network(w, &netd, "front", "10.0.1.0/24");
        let client = w.attach(&netd, "client", &["front"]);
        let tasks = tasks(w, &netd, 2);
        lead(w, &netd, &tasks, &[0]);
        assert!(attached(w).is_empty());
        // A conversation of the time of filters: it must go on, translated by them.
        let listener = sys::netns::run_in(&tasks.boxes[0].netns, || TcpListener::bind("0.0.0.0:81").unwrap());
        let (listener, echoed) = (listener.unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = echoed.clone();
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() {
                stream.write_all(&byte).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut talk = sys::netns::run_in(&client.netns, || TcpStream::connect((VIP, 81)).unwrap()).unwrap();
        talk.set_read_timeout(Some(PATIENCE)).unwrap();
        let old = datagrams(&client, Ipv4Addr::UNSPECIFIED.into());
        old.connect((VIP, 80)).unwrap();
        assert_eq!(say(&old).unwrap(), "task0");
        let (stop, load) = load(&client);
        for choice in [
            BalancerChoice::Ebpf,
            BalancerChoice::Nftables,
            BalancerChoice::Auto,
        ] {
            drop(netd);
            netd = open(choice);
            talk.write_all(b"x").unwrap();
            talk.read_exact(&mut [0]).unwrap();
            let (kind, programs) = (netd.balancing().kind, attached(w).len());
            let hooks = choice != BalancerChoice::Nftables;
            assert_eq!(
                (kind == BalancerKind::Ebpf, programs),
                (hooks, if hooks { 8 } else { 0 })
            );
            for n in [1, 0] {
                lead(w, &netd, &tasks, &[n]);
                assert_eq!(say(&old).unwrap(), format!("task{n}"), "{choice:?}");
                assert!(client.call(VIP, 80).unwrap().starts_with(&format!("task{n}")));
            }
        }
        stop.store(true, Ordering::Relaxed);
        let (calls, errors) = load.join().unwrap();
        assert!(calls > 0 && errors.is_empty(), "{calls} calls, {errors:?}");
        // A sandbox of the time of hooks needs no connection tracking; nor does the old one when it sees no service.
        let late = w.attach(&netd, "late", &["front"]);
        assert!(late.call(VIP, 80).is_ok());
        assert_eq!(tables(&late.netns), ["shoal_dns"]);
        drop(talk);
        echo.join().unwrap();
        w.wait(netd.remove_service("web")).unwrap();
        assert_eq!(tables(&client.netns), ["shoal_dns"]);
        lead(w, &netd, &tasks, &[0]);
        assert!(client.call(VIP, 80).is_ok());
        assert_eq!(tables(&client.netns), ["shoal_dns"]);
    });
}

#[test]
fn what_cannot_be_is_refused_or_said() {
    world(|w| {
        let config = |balancer| NetdConfig {
            balancer,
            ..w.config()
        };
        let refused = w.wait(Netd::open(config(BalancerChoice::Ebpf))).unwrap_err();
        assert!(refused.to_string().contains("eBPF"), "{refused}");
        let netd = w.wait(Netd::open(config(BalancerChoice::Auto))).unwrap();
        let balancing = netd.balancing();
        assert_eq!(balancing.kind, BalancerKind::Nftables);
        assert!(balancing.reason.unwrap().contains("cgroup"));
        assert!(netd.warnings().iter().any(|warning| warning.contains("nftables")));
        drop(netd);
        let netd = w.wait(Netd::open(config(BalancerChoice::Nftables))).unwrap();
        assert_eq!(netd.balancing().reason, None, "it was asked for");
    });
}

#[test]
fn a_container_outside_the_cgroup_has_filters_and_others_programs_stay() {
    world_of_hooks(|w| {
        let cgroup = File::open(w.cgroup.as_ref().unwrap()).unwrap();
        let mut code = sys::bpf::asm::Assembler::default();
        code.set(sys::bpf::asm::Reg::R0, 1).exit();
        let foreign = Program::load(Hook::Connect4, "foreign", &code.finish().unwrap()).unwrap();
        foreign.attach(&cgroup, Hook::Connect4).unwrap();
        let netd = w.open();
        network(w, &netd, "front", "10.0.1.0/24");
        let tasks = tasks(w, &netd, 1);
        lead(w, &netd, &tasks, &[0]);
        let outside = netd::AttachRequest {
            outside: true,
            ..common::request("outside", &["front"])
        };
        let outside = Box::new(w.wait(netd.attach(outside)).unwrap());
        assert_eq!(tables(&outside.netns).len(), 2, "it has packet filters");
        assert!(outside.call(VIP, 80).is_ok());
        for id in ["outside", "task0"] {
            w.wait(netd.detach(id)).unwrap();
        }
        w.wait(netd.shutdown(true)).unwrap();
        assert_eq!(attached(w), [foreign.id]);
    });
}

#[test]
fn a_hundred_services_of_ten_tasks_do_not_mix() {
    both(|w| {
        let netd = w.open();
        network(w, &netd, "front", "10.0.0.0/16");
        let client = w.attach(&netd, "client", &["front"]);
        let web = w.attach(&netd, "web", &["front"]);
        let _server = web.serve(80, "web");
        let vip = |n: u8| Ipv4Addr::new(10, 0, 100, n + 1);
        let many = |n: u8| (0..10).map(move |k| Ipv4Addr::new(10, 0, 200 + k, n + 1));
        for n in 0..100 {
            w.wait(netd.set_service(service(&format!("svc{n}"), vip(n), many(n))))
                .unwrap();
        }
        for n in [0, 49, 99] {
            let only = service(&format!("svc{n}"), vip(n), std::iter::once(web.address()));
            w.wait(netd.set_service(only)).unwrap();
            assert!((0..5).all(|_| client.call(vip(n), 80).unwrap().starts_with("web")));
        }
        for n in 0..100 {
            w.wait(netd.remove_service(&format!("svc{n}"))).unwrap();
        }
        assert!(client.call(vip(0), 80).is_err());
    });
}
