//! The agent dies and comes back: nobody notices, and what is broken meanwhile is mended.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::netlink::{Link, Socket};
use common::{Box, HOST, World, call, request, world};
use netd::{AttachRequest, Backend, Netd, NetworkConfig, Publish, ServiceEndpoint, ServiceNetwork};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 200);

fn stack(w: &World, netd: &Netd) -> (Box, Box) {
    let config = NetworkConfig {
        id: "front".into(),
        name: "front".into(),
        subnet: Some("10.0.1.0/24".parse().unwrap()),
        ..NetworkConfig::default()
    };
    w.wait(netd.ensure_network(&config)).unwrap();
    let publish = Publish {
        host_port: Some(8080),
        container_port: 80,
        ..Publish::default()
    };
    let web = AttachRequest {
        publish: vec![publish],
        ..request("web", &["front"])
    };
    let web = w.wait(netd.attach(web)).map(Box::new).unwrap();
    let client = w.attach(netd, "client", &["front"]);
    let service = ServiceEndpoint {
        id: "svc".into(),
        name: "svc".into(),
        networks: vec![ServiceNetwork {
            network: "front".into(),
            vip: Some(VIP),
            aliases: vec![],
            ..ServiceNetwork::default()
        }],
        backends: vec![Backend {
            task: "t".into(),
            name: "svc.1.t".into(),
            addresses: vec![("front".into(), web.address())],
            sandbox: Some("web".into()),
            ..Backend::default()
        }],
        ports: vec![],
    };
    w.wait(netd.set_service(service)).unwrap();
    (web, client)
}

/// Everything that should work.
fn check(w: &World, web: &Box, client: &Box) {
    assert!(client.call(web.address(), 80).unwrap().starts_with("web "));
    assert!(client.call(VIP, 80).unwrap().starts_with("web "));
    assert!(call(&w.outside, HOST, 8080).unwrap().starts_with("web "));
    assert!(
        call(&w.host, Ipv4Addr::LOCALHOST, 8080)
            .unwrap()
            .starts_with("web ")
    );
}

fn check_names(web: &Box, client: &Box) {
    assert_eq!(client.resolve("web"), [web.address()]);
    assert_eq!(client.resolve("svc"), [VIP]);
}

#[test]
fn connections_outlive_the_agent_and_its_return() {
    world(|w| {
        let netd = w.open();
        let (web, client) = stack(w, &netd);
        let _server = web.serve(80, "web");
        // A conversation that goes on all the time, through the virtual IP.
        let listener = sys::netns::run_in(&web.netns, || TcpListener::bind("0.0.0.0:81").unwrap()).unwrap();
        let echoed = Arc::new(AtomicUsize::new(0));
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
        talk.set_read_timeout(Some(std::time::Duration::from_secs(5)))
            .unwrap();
        let mut say = || {
            talk.write_all(b"x").unwrap();
            talk.read_exact(&mut [0]).unwrap();
        };
        say();
        check(w, &web, &client);
        // What a killed process leaves: its sockets close, nothing else happens.
        w.wait(netd.shutdown(false)).unwrap();
        say();
        check(w, &web, &client);
        drop(netd);
        let mut again = w.open();
        for _ in 0..5 {
            say();
            check(w, &web, &client);
            check_names(&web, &client);
            drop(again);
            again = w.open();
        }
        assert!(
            std::net::TcpListener::bind("0.0.0.0:8080").is_err(),
            "the port is held again"
        );
        assert_eq!(again.sandbox("web"), Some(web.sandbox.clone()));
        drop(talk);
        echo.join().unwrap();
        assert_eq!(echoed.load(Ordering::Relaxed), 7);
        w.wait(again.retain(&["web".into()])).unwrap();
        assert_eq!(again.endpoints("front").len(), 1);
        assert!(!client.sandbox.netns.exists());
    });
}

#[test]
fn what_was_broken_meanwhile_is_mended() {
    world(|w| {
        let netd = w.open();
        let (web, client) = stack(w, &netd);
        let _server = web.serve(80, "web");
        w.wait(netd.shutdown(false)).unwrap();
        drop(netd);
        let fabric = common::open(&w.config().run_dir.join("netns/fabric"));
        // The packet filters are flushed, a container's veth and the uplink are gone, a stranger's veth is there.
        for netns in [&w.host, &fabric, &client.netns] {
            sys::netns::run_in(netns, flush).unwrap();
        }
        sys::netns::run_in(&fabric, || {
            let mut socket = Socket::route().unwrap();
            let links = Link::list(&mut socket).unwrap();
            let port = links.iter().find(|l| l.name.starts_with("ve")).unwrap();
            socket.request(Link::delete(&port.name)).unwrap();
            socket.request(Link::delete("uplink")).unwrap();
            socket
                .request(Link::create_bridge(
                    "br-stranger",
                    netd::Mac([2, 0, 0, 0, 0, 1]),
                    1500,
                ))
                .unwrap();
        })
        .unwrap();
        assert_eq!(common::tables(&w.host), Vec::<String>::new());
        std::fs::write(w.config().run_dir.join("netns/stale"), "").unwrap();
        let netd = w.open();
        check(w, &web, &client);
        check_names(&web, &client);
        assert!(!common::links(&fabric).contains(&"br-stranger".into()));
        assert!(!w.config().run_dir.join("netns/stale").exists());
        w.wait(netd.detach("web")).unwrap();
        w.wait(netd.detach("client")).unwrap();
    });
}

#[test]
fn a_flushed_ruleset_comes_back_by_itself() {
    world(|w| {
        let netd = w.open();
        let (web, client) = stack(w, &netd);
        let _server = web.serve(80, "web");
        for _ in 0..2 {
            sys::netns::run_in(&w.host, flush).unwrap();
            common::eventually("the host's table", || !common::tables(&w.host).is_empty());
            check(w, &web, &client);
        }
        // A flush in a namespace that is not watched is noticed by the next change there.
        let fabric = common::open(&w.config().run_dir.join("netns/fabric"));
        sys::netns::run_in(&fabric, flush).unwrap();
        let late = w.attach(&netd, "late", &["front"]);
        check(w, &web, &late);
        let stranger = w.network(&netd, "other", false);
        assert!(late.call(stranger.gateway, 53).is_err(), "isolation is back too");
        w.wait(netd.detach("late")).unwrap();
        w.wait(netd.detach("web")).unwrap();
    });
}

/// `nft flush ruleset` in the calling thread's namespace.
fn flush() {
    let message = |kind, body| common::netlink::Request { kind, flags: 0, body };
    let mut delete = message(10 << 8 | 2, vec![0; 4]);
    delete.flags = 4;
    let mark = |kind| message(kind, vec![0, 0, 0, 10]);
    Socket::netfilter()
        .unwrap()
        .transact(&[mark(0x10), delete, mark(0x11)])
        .unwrap();
}

#[test]
fn after_a_reboot_the_networks_are_there_and_the_sandboxes_are_not() {
    world(|w| {
        let netd = w.open();
        let (web, client) = stack(w, &netd);
        let subnets = netd.networks();
        w.wait(netd.shutdown(false)).unwrap();
        drop((netd, web, client));
        // A reboot empties the run directory; here its mounts go with it.
        for name in ["fabric", "web", "client"] {
            let path = w.config().run_dir.join("netns").join(name);
            nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH).unwrap();
        }
        let netd = w.open();
        assert_eq!(netd.networks(), subnets);
        assert_eq!(netd.endpoints("front"), []);
        let a = w.attach(&netd, "web", &["front"]);
        let _server = a.serve(80, "web");
        assert!(call(&w.host, a.address(), 80).is_ok());
    });
}
