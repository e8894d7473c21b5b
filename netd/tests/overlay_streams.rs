//! What goes on between containers of several nodes: packets that fit the way, and conversations that outlive an agent or a change
//! of the way.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use common::cluster::{Cluster, Task, spanning, talk};
use common::netlink::{Forwarding, Link, LinkChange, Neighbour, Place, Socket};
use common::{eventually, world};
use netd::{ErrorKind, NetworkConfig, OverlayMode};

/// Elsewhere the packet size is a constant, whatever the links between the nodes are.
#[test]
fn packets_fit_the_narrowest_link_and_follow_it() {
    world(|w| {
        let c = Cluster::new(w, &[9000, 1400], false);
        let (a, b) = (c.task(0, "a", "10.9.0.10"), c.task(1, "b", "10.9.0.11"));
        let fits = |mtu: u32| {
            for (node, task) in [(&c.nodes[0], &a), (&c.nodes[1], &b)] {
                let links = node.fabric_links().into_iter();
                let ours: Vec<_> = links
                    .filter(|l| ["br-", "vx-", "ve"].iter().any(|p| l.name.starts_with(p)))
                    .map(|l| l.mtu)
                    .collect();
                let inside = || Link::find(&mut Socket::route().unwrap(), "eth0").unwrap();
                let inside = sys::netns::run_in(&task.netns, inside).unwrap().unwrap().mtu;
                let said = node.netd().networks()[0].1.mtu;
                if (&ours[..], inside, said) != (&[mtu; 3], mtu, mtu) {
                    return false;
                }
            }
            true
        };
        let check = |mtu: u32| {
            eventually(&format!("packets of {mtu}"), || fits(mtu));
            assert_eq!(transfer(&a, &b), 1 << 20, "{mtu}");
        };
        check(1350);
        let resize = |mtu: u32| {
            let change = LinkChange {
                mtu: Some(mtu),
                ..LinkChange::default()
            };
            c.nodes[1]
                .in_host(|s| s.request(Link::change("eth0", &change)))
                .unwrap();
            sys::netns::run_in(&c.wire, || {
                let mut socket = Socket::route().unwrap();
                socket.request(Link::change("n1", &change)).unwrap();
            })
            .unwrap();
            // Its neighbours are told; it finds out itself.
            c.introduce(0);
        };
        resize(9000);
        check(8950);
        resize(1400);
        check(1350);
        let wide = |mtu| NetworkConfig {
            mtu: Some(mtu),
            ..spanning("wide", "10.10.0.0/16", 5000)
        };
        let node = &c.nodes[0];
        let refused = node.wait(node.netd().ensure_network(&wide(1351))).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.to_string().contains("1350"), "{refused}");
        assert_eq!(node.network(&wide(1300)).mtu, 1300);
        let tight = || {
            node.netd()
                .warnings()
                .into_iter()
                .find(|w| w.contains("network wide"))
        };
        assert_eq!(tight(), None);
        resize(1340);
        eventually("a word on what does not fit any more", || {
            tight().is_some_and(|warning| warning.contains("1290"))
        });
    });
}

/// A megabyte, which fills packets to the brim; bytes that arrived.
fn transfer(from: &Task, to: &Task) -> usize {
    let listener = sys::netns::run_in(&to.netns, || TcpListener::bind("0.0.0.0:81").unwrap()).unwrap();
    let receive = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
        bytes.len()
    });
    let address = to.address();
    let connect = || TcpStream::connect((address, 81)).unwrap();
    let mut stream = sys::netns::run_in(&from.netns, connect).unwrap();
    stream.write_all(&vec![7; 1 << 20]).unwrap();
    drop(stream);
    receive.join().unwrap()
}

/// Elsewhere networks are broken after a restart.
#[test]
fn packets_flow_while_the_agent_is_dead_and_when_it_returns() {
    world(|w| {
        let mut c = Cluster::new(w, &[1500, 1500], false);
        let (a, b) = (c.task(0, "a", "10.9.0.10"), c.task(1, "b", "10.9.0.11"));
        let _servers = [a.serve(80, "a"), b.serve(80, "b")];
        let mut talk_on = Conversation::begin(&a, &b);
        let mut say = || talk_on.say();
        say();
        let state = |c: &Cluster| {
            let links = c.nodes[0].fabric_links();
            let indexes: Vec<_> = links.into_iter().map(|l| (l.index, l.name)).collect();
            (indexes, c.nodes[0].entries())
        };
        let before = state(&c);
        for _ in 0..3 {
            c.nodes[0].kill();
            say();
            talk(&a, &b);
            talk(&b, &a);
            c.nodes[0].start();
            say();
            assert_eq!(state(&c), before, "nothing was made anew");
            assert_eq!(c.nodes[0].netd().members(), ["b"]);
            c.introduce(0);
        }
        talk(&a, &b);
        assert_eq!(state(&c), before);
        // What changes while it is dead is put right when it returns.
        c.nodes[0].kill();
        let stale = before.1.0[0];
        let other = Forwarding {
            mac: netd::Mac([2, 0x42, 10, 9, 9, 9]),
            place: Place::Node(c.nodes[1].address),
            ..stale
        };
        c.nodes[0]
            .in_fabric(|s| s.batch(vec![stale.delete(), other.set()]))
            .unwrap();
        c.nodes[0].start();
        assert_eq!(state(&c), before);
    });
}

/// One that goes on: a byte there and back at a time.
struct Conversation {
    stream: TcpStream,
    echo: Option<std::thread::JoinHandle<()>>,
}

impl Conversation {
    fn begin(from: &Task, to: &Task) -> Self {
        let listener = sys::netns::run_in(&to.netns, || TcpListener::bind("0.0.0.0:81").unwrap()).unwrap();
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() {
                stream.write_all(&byte).unwrap();
            }
        });
        let address = to.address();
        let connect = || TcpStream::connect((address, 81)).unwrap();
        let stream = sys::netns::run_in(&from.netns, connect).unwrap();
        let patience = Some(std::time::Duration::from_secs(10));
        stream.set_read_timeout(patience).unwrap();
        let echo = Some(echo);
        Self { stream, echo }
    }

    fn say(&mut self) {
        self.stream.write_all(b"x").unwrap();
        self.stream.read_exact(&mut [0]).unwrap();
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        self.echo.take().map(std::thread::JoinHandle::join);
    }
}

/// Who was told that the fabric leads there directly goes on being led when it does not any more.
#[test]
fn conversations_survive_the_change_between_direct_and_encapsulated() {
    world(|w| {
        let c = Cluster::with_mode(w, &[1500, 1500], false, OverlayMode::Auto);
        let (a, b) = (c.task(0, "a", "10.9.0.10"), c.task(1, "b", "10.9.0.11"));
        let _servers = [a.serve(80, "a"), b.serve(80, "b")];
        let mut encapsulated = Conversation::begin(&a, &b);
        encapsulated.say();
        // Whom the fabric answers for is no neighbour any more.
        let direct = |n: usize| c.nodes[n].entries().1.is_empty();
        eventually("the nodes have found each other", || direct(0) && direct(1));
        encapsulated.say();
        drop(encapsulated);
        forget(&a, &b);
        forget(&b, &a);
        let mut conversation = Conversation::begin(&a, &b);
        conversation.say();
        talk(&b, &a);
        (0..2).for_each(|n| c.introduce_apart(n));
        assert!(!direct(0) && !direct(1));
        conversation.say();
        talk(&a, &b);
        talk(&b, &a);
    });
}

/// As time would have it.
fn forget(task: &Task, other: &Task) {
    let work = || {
        let mut socket = Socket::route().unwrap();
        let link = Link::find(&mut socket, "eth0").unwrap().unwrap().index;
        let neighbour = Neighbour {
            link,
            address: other.address().into(),
            mac: netd::Mac([0; 6]),
        };
        socket.bulk(&[neighbour.delete()]).unwrap();
    };
    sys::netns::run_in(&task.netns, work).unwrap();
}
