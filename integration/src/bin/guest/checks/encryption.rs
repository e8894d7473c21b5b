//! An encrypted network between two nodes: what is said on it arrives, and nobody on the way can read it. Kernels without
//! WireGuard are what other tests run on; here it is there.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::{Agent, Cluster, eventually};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::{Check, When};

pub(super) const CHECKS: &[Check] = &[("encrypted-network", When::Oldest, encrypted)];

/// What is said, and must not be seen on the way.
const SECRET: &str = "nobody-may-read-this";
/// UDP ports of VXLAN and of the tunnels.
const VXLAN: u16 = 4789;
const TUNNELS: u16 = 4790;

fn encrypted(_: &mut Agent) -> Result<()> {
    let cluster = Cluster::joined(2)?;
    let manager = cluster.manager();
    cluster.nodes.iter().try_for_each(Agent::build_busybox)?;
    manager.cli_ok("network create -d overlay --opt encrypted secret")?;
    let serve = format!("mkdir /www; echo {SECRET} > /www/index.html; exec httpd -f -p 80 -h /www");
    for (name, node, script) in [
        ("server", "node2", serve.as_str()),
        ("client", "node1", "exec sleep 1000"),
    ] {
        let words = ["service", "create", "-d", "--name", name, "--network", "secret"];
        let place = format!("node.hostname=={node}");
        let image = [
            "--constraint",
            &place,
            "--stop-grace-period",
            "1s",
            "bb",
            "sh",
            "-c",
            script,
        ];
        manager.cli_ok(&[&words[..], &image].concat())?;
        manager.wait_running(name, 1)?;
    }
    let ear = manager.host.enter(ear)??;
    eventually("the secret arrives", || {
        let said = manager.cli_ok("service exec client.1 wget -qO- http://tasks.server/")?;
        ensure!(said.contains(SECRET), "{said:?}");
        Ok(())
    })?;
    let heard = listen(&ear)?;
    ensure!(heard.tunnelled > 0, "nothing went through a tunnel");
    ensure!(heard.plain == 0, "{} packets of VXLAN in clear", heard.plain);
    ensure!(!heard.secret, "the secret was there to read");
    manager.cli_ok("service rm server client")?;
    Ok(())
}

/// What was seen on the way.
#[derive(Debug, Default)]
struct Heard {
    tunnelled: usize,
    plain: usize,
    secret: bool,
}

/// Hears every frame of every link of the calling thread's namespace.
fn ear() -> Result<OwnedFd> {
    let ear = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .context("a packet socket")?;
    setsockopt(&ear, sockopt::RcvBuf, &(4 << 20))?;
    setsockopt(&ear, sockopt::ReceiveTimeout, &TimeVal::new(0, 200_000))?;
    Ok(ear)
}

/// All that has been heard, until it is quiet.
fn listen(ear: &OwnedFd) -> Result<Heard> {
    let (mut heard, mut frame, end) = (
        Heard::default(),
        vec![0; 65536],
        Instant::now() + Duration::from_secs(10),
    );
    while Instant::now() < end {
        match recv(ear.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            Ok(length) => heard.note(&frame[..length]),
            Err(Errno::EAGAIN) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(heard)
}

impl Heard {
    /// Ethernet, IPv4 without options, UDP.
    fn note(&mut self, frame: &[u8]) {
        self.secret |= frame.windows(SECRET.len()).any(|part| part == SECRET.as_bytes());
        if frame.get(12..14) != Some(&[8, 0]) || frame.get(23) != Some(&17) {
            return;
        }
        let port = frame
            .get(36..38)
            .map(|port| u16::from_be_bytes([port[0], port[1]]));
        self.plain += usize::from(port == Some(VXLAN));
        self.tunnelled += usize::from(port == Some(TUNNELS));
    }
}
