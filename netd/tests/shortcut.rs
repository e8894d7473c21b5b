//! Packets that go directly between nodes pass the fabric by a shorter way, and nothing else does.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;

use common::eventually;
use common::pair::{Pair, container, container6, dual};
use common::world;
use netd::OverlayMode;

fn run(namespace: &OwnedFd, program: &str, words: &str) -> String {
    let run = || Command::new(program).args(words.split(' ')).output().unwrap();
    let output = sys::netns::run_in(namespace, run).unwrap();
    assert!(output.status.success(), "{program} {words}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Both containers reach each other, over either IP version, and see each other's addresses.
fn call(pair: &Pair, to: IpAddr) {
    let from: IpAddr = match to {
        IpAddr::V4(_) => container(1).into(),
        IpAddr::V6(_) => container6(1).into(),
    };
    assert_eq!(pair.boxes[0].call(to, 80).unwrap(), format!("two {from}"));
}

fn wait_short(pair: &Pair) {
    for to in [IpAddr::from(container(2)), container6(2).into()] {
        eventually(&format!("calls of {to} take the shorter way"), || {
            pair.is_short(|| call(pair, to))
        });
    }
}

fn is_short(pair: &Pair) -> bool {
    pair.is_short(|| call(pair, container(2).into()))
}

#[test]
fn direct_packets_of_both_versions_pass_no_fabric_while_there_is_an_agent() {
    world(|_| {
        let mut pair = Pair::new(&dual(OverlayMode::Auto));
        let _two = pair.boxes[1].serve(80, "two");
        wait_short(&pair);
        // What is encapsulated passes it, and so does everything without somebody to lead it.
        pair.switch(&dual(OverlayMode::Vxlan));
        eventually("the way is switched off", || !pair.is_direct());
        assert!(!is_short(&pair));
        pair.switch(&dual(OverlayMode::Auto));
        wait_short(&pair);
        pair.node(2).wait(pair.netd(2).shutdown(false)).unwrap();
        drop(pair.netds.remove(1));
        assert!(!is_short(&pair));
        pair.netds.push(pair.node(2).open());
        wait_short(&pair);
    });
}

#[test]
fn what_was_made_again_is_led_to() {
    world(|_| {
        let pair = Pair::new(&dual(OverlayMode::Auto));
        let _two = pair.boxes[1].serve(80, "two");
        wait_short(&pair);
        let fabric = pair.node(2).fabric();
        let names = common::links(&fabric);
        let lost = |prefix: &str| names.iter().find(|name| name.starts_with(prefix)).unwrap();
        for link in [lost("br-"), "uplink"] {
            run(&fabric, "ip", &format!("link del {link}"));
            eventually("it is back", || {
                pair.boxes[0].call(container(2), 80).is_ok() && pair.boxes[0].call(container6(2), 80).is_ok()
            });
            wait_short(&pair);
        }
    });
}

#[test]
fn who_sends_in_another_ones_name_is_not_led_anywhere() {
    world(|_| {
        let pair = Pair::new(&dual(OverlayMode::Auto));
        let _two = pair.boxes[1].serve(80, "two");
        wait_short(&pair);
        let forged = Ipv4Addr::new(10, 7, 0, 99);
        let rules = format!(
            "table ip watch {{ counter forged {{ }}\n counter own {{ }}\n chain in {{ type filter hook prerouting priority -400;\n\
             ip saddr {forged} counter name forged\n ip saddr {} counter name own\n }}\n }}",
            container(1)
        );
        // Where packets leave the fabric, and where they arrive.
        [1, 2].into_iter().for_each(|number| pair.nft(number, &rules));
        let inside = &pair.boxes[0].netns;
        run(inside, "ip", &format!("address add {forged}/32 dev eth0"));
        let send = |from: Ipv4Addr| {
            let send = || {
                let socket = UdpSocket::bind(SocketAddr::from((from, 0))).unwrap();
                socket.send_to(b"x", SocketAddr::from((container(2), 9))).unwrap();
            };
            sys::netns::run_in(inside, send).unwrap();
        };
        (0..5).for_each(|_| send(forged));
        let seen = |number: u8, counter: &str| {
            let text = run(
                &pair.node(number).host,
                "nft",
                &format!("list counter ip watch {counter}"),
            );
            !text.contains("packets 0")
        };
        eventually("what was sent later has arrived", || {
            send(container(1));
            seen(2, "own")
        });
        assert!(!seen(1, "forged") && !seen(2, "forged"));
    });
}
