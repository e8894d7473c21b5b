//! A small world for the root tests: a "host" namespace, a network outside of it, and threads that talk inside namespaces.
//! The thread that runs a test leaves the machine's own network and mount namespaces first, so nothing of a test can be
//! seen or left outside, whatever happens.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test binary uses a part"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use netd::{AttachRequest, BalancerChoice, EndpointRequest, Netd, NetdConfig, NetworkConfig, Sandbox};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

mod cgroup;
use cgroup::TestCgroup;

pub mod cluster;
pub mod mesh;
#[path = "../../src/netlink/mod.rs"]
pub mod netlink;
pub mod nodes;
pub mod pair;
use netlink::{Link, LinkAddress, LinkChange, Route, Socket, Veth};

pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
pub const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// What the DNS server outside says about every name.
pub const ANSWER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const PATIENCE: Duration = Duration::from_secs(3);

pub struct World {
    pub dir: tempfile::TempDir,
    pub host: OwnedFd,
    pub outside: OwnedFd,
    pub runtime: tokio::runtime::Runtime,
    /// Above the cgroups of all containers; the test's threads are in it, as if they were a container's.
    pub cgroup: Option<std::path::PathBuf>,
    pub balancer: BalancerChoice,
}

/// Run a test in a world of its own, without cgroups.
pub fn world(test: impl FnOnce(&World) + Send) {
    run(None, test);
}

/// Run a test twice: virtual IPs balanced by socket hooks, and by packet filters.
pub fn both(test: impl Fn(&World) + Sync) {
    for balancer in [BalancerChoice::Ebpf, BalancerChoice::Nftables] {
        eprintln!("balancer: {balancer:?}");
        let cgroup = TestCgroup::new();
        run(Some((&cgroup, balancer)), &test);
    }
}

/// Run a test in a world where virtual IPs are balanced by socket hooks.
pub fn world_of_hooks(test: impl FnOnce(&World) + Send) {
    run(Some((&TestCgroup::new(), BalancerChoice::Ebpf)), test);
}

fn run(balanced: Option<(&TestCgroup, BalancerChoice)>, test: impl FnOnce(&World) + Send) {
    std::thread::scope(|scope| {
        let body = || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("tests of netd need root");
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None::<&str>,
            )
            .unwrap();
            let mut world = World::new(balanced.map(|(cgroup, _)| cgroup));
            world.balancer = balanced.map(|(_, balancer)| balancer).unwrap_or_default();
            test(&world);
        };
        if let Err(panic) = scope.spawn(body).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl World {
    fn new(cgroup: Option<&TestCgroup>) -> Self {
        // Before any thread of this world is made: it is where its threads will be.
        cgroup.inspect(|cgroup| cgroup.enter());
        let host = sys::netns::current().unwrap();
        let (outside, ()) = sys::netns::create(|| ()).unwrap();
        let mut socket = Socket::route().unwrap();
        let veth = Veth {
            name: "eth0",
            master: None,
            mtu: 1500,
            peer: "eth0",
            peer_netns: outside.as_fd(),
            peer_mac: None,
        };
        socket.request(veth.create()).unwrap();
        configure("eth0", HOST, HOST6, Some(OUTSIDE));
        sys::netns::run_in(&outside, || configure("eth0", OUTSIDE, OUTSIDE6, None)).unwrap();
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        Self {
            dir: tempfile::tempdir().unwrap(),
            host,
            outside,
            runtime,
            cgroup: cgroup.map(|cgroup| cgroup.path().to_owned()),
            balancer: BalancerChoice::Auto,
        }
    }

    pub fn config(&self) -> NetdConfig {
        NetdConfig {
            state_dir: self.dir.path().join("netd"),
            run_dir: self.dir.path().join("run"),
            instance: "test".into(),
            upstreams: Some(vec![(OUTSIDE, 53).into()]),
            cgroup: self.cgroup.clone(),
            balancer: self.balancer,
            ..NetdConfig::default()
        }
    }

    pub fn open(&self) -> Arc<Netd> {
        self.wait(Netd::open(self.config())).unwrap()
    }

    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub fn network(&self, netd: &Netd, id: &str, internal: bool) -> netd::NetworkState {
        let config = NetworkConfig {
            id: id.into(),
            name: id.into(),
            internal,
            ..NetworkConfig::default()
        };
        self.wait(netd.ensure_network(&config)).unwrap()
    }

    /// A sandbox whose DNS name on each network is its id.
    pub fn attach(&self, netd: &Netd, id: &str, networks: &[&str]) -> Box {
        self.wait(netd.attach(request(id, networks)))
            .map(Box::new)
            .unwrap()
    }

    /// Names of the links in the host's namespace, and how many nftables tables it has.
    pub fn host_links(&self) -> Vec<String> {
        links(&self.host)
    }
}

pub fn request(id: &str, networks: &[&str]) -> AttachRequest {
    let endpoint = |n: &&str| EndpointRequest {
        network: (*n).into(),
        aliases: vec![id.into()],
        ..EndpointRequest::default()
    };
    AttachRequest {
        sandbox: id.into(),
        hostname: id.into(),
        endpoints: networks.iter().map(endpoint).collect(),
        ..AttachRequest::default()
    }
}

fn configure(name: &str, address: Ipv4Addr, address6: Ipv6Addr, via: Option<Ipv4Addr>) {
    let mut socket = Socket::route().unwrap();
    let up = || LinkChange {
        up: true,
        ..LinkChange::default()
    };
    let index = Link::find(&mut socket, name).unwrap().unwrap().index;
    socket
        .batch(vec![
            Link::change("lo", &up()),
            Link::change(name, &up()),
            Route::add_address(index, address, 24),
            LinkAddress::add6(index, address6, 64),
        ])
        .unwrap();
    if via.is_some() {
        socket
            .request(Route::add(ipnet::Ipv4Net::default(), via, index))
            .unwrap();
    }
}

pub fn links(netns: &OwnedFd) -> Vec<String> {
    let list = || Link::list(&mut Socket::route().unwrap()).unwrap();
    sys::netns::run_in(netns, list)
        .unwrap()
        .into_iter()
        .map(|l| l.name)
        .collect()
}

/// nftables tables of a namespace, as the kernel lists them.
pub fn tables(netns: &OwnedFd) -> Vec<String> {
    let list = || {
        let request = netlink::Request {
            kind: 10 << 8 | 1,
            flags: 0,
            body: vec![0; 4],
        };
        let name = |_, body: &[u8]| {
            let nla = netlink_packet_core::NlasIterator::new(&body[4..])
                .flatten()
                .find(|n| n.kind() == 1)?;
            Some(
                String::from_utf8_lossy(nla.value())
                    .trim_end_matches('\0')
                    .to_owned(),
            )
        };
        Socket::netfilter().unwrap().dump(&request, name).unwrap()
    };
    sys::netns::run_in(netns, list).unwrap()
}

/// A container without a process.
#[derive(Debug)]
pub struct Box {
    pub sandbox: Sandbox,
    pub netns: OwnedFd,
}

impl Box {
    pub fn new(sandbox: Sandbox) -> Self {
        let netns = open(&sandbox.netns);
        Self { sandbox, netns }
    }

    pub fn address(&self) -> Ipv4Addr {
        self.sandbox.endpoints[0].ipv4
    }

    pub fn address6(&self) -> Ipv6Addr {
        self.sandbox.endpoints[0].ipv6.unwrap().address
    }

    pub fn gateway(&self) -> Ipv4Addr {
        self.sandbox.endpoints[0].gateway
    }

    /// Say `name` to everybody who connects.
    pub fn serve(&self, port: u16, name: &str) -> Server {
        Server::start(&self.netns, port, name)
    }

    pub fn call(&self, to: impl Into<IpAddr>, port: u16) -> io::Result<String> {
        call(&self.netns, to, port)
    }

    pub fn resolve(&self, name: &str) -> Vec<Ipv4Addr> {
        addresses(&query(&self.netns, self.sandbox.nameserver, name, RecordType::A).unwrap())
    }
}

pub fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

/// A TCP server in a namespace: says its name and the client's address. UDP too, on the same port.
pub struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub fn start(netns: &OwnedFd, port: u16, name: &str) -> Self {
        let (tcp, udp) = sys::netns::run_in(netns, || {
            let any = Ipv6Addr::UNSPECIFIED; // and IPv4
            (
                TcpListener::bind((any, port)).unwrap(),
                UdpSocket::bind((any, port)).unwrap(),
            )
        })
        .unwrap();
        tcp.set_nonblocking(true).unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (name, also) = (name.to_owned(), name.to_owned());
        let (stop_tcp, stop_udp) = (stop.clone(), stop.clone());
        let over_tcp = std::thread::spawn(move || {
            while !stop_tcp.load(Ordering::Relaxed) {
                match tcp.accept() {
                    Ok((mut stream, client)) => drop(write!(stream, "{name} {}", client.ip().to_canonical())),
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        let over_udp = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stop_udp.load(Ordering::Relaxed) {
                if let Ok((_, client)) = udp.recv_from(&mut buffer) {
                    let _ = udp.send_to(
                        format!("{also} {}", client.ip().to_canonical()).as_bytes(),
                        client,
                    );
                }
            }
        });
        Self {
            stop,
            threads: vec![over_tcp, over_udp],
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|t| drop(t.join()));
    }
}

/// What a server says to a client in `netns`.
pub fn call(netns: &OwnedFd, to: impl Into<IpAddr>, port: u16) -> io::Result<String> {
    let to = SocketAddr::new(to.into(), port);
    sys::netns::run_in(netns, || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })?
}

pub fn call_udp(netns: &OwnedFd, to: impl Into<IpAddr>, port: u16) -> io::Result<String> {
    let to = SocketAddr::new(to.into(), port);
    sys::netns::run_in(netns, || {
        let socket = UdpSocket::bind((any_like(to.ip()), 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(to)?;
        socket.send(b"?")?;
        let mut buffer = [0; 64];
        let n = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
    })?
}

fn any_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Wait for what the kernel or the agent does behind our back.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "never came: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How often each server answered `calls` calls.
pub fn tally(calls: usize, mut call: impl FnMut() -> String) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..calls {
        *seen
            .entry(call().split(' ').next().unwrap().to_owned())
            .or_default() += 1;
    }
    seen
}

/// Ask a DNS server from inside a namespace, over UDP.
pub fn query(netns: &OwnedFd, server: IpAddr, name: &str, kind: RecordType) -> io::Result<Message> {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let packet = message.to_vec().unwrap();
    sys::netns::run_in(netns, || {
        let socket = UdpSocket::bind((any_like(server), 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect((server, 53))?;
        socket.send(&packet)?;
        let mut buffer = [0; 4096];
        let n = socket.recv(&mut buffer)?;
        Message::from_vec(&buffer[..n]).map_err(io::Error::other)
    })?
}

/// The same over TCP.
pub fn query_tcp(netns: &OwnedFd, server: IpAddr, name: &str, kind: RecordType) -> io::Result<Message> {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let packet = message.to_vec().unwrap();
    sys::netns::run_in(netns, || {
        let mut stream = TcpStream::connect_timeout(&(server, 53).into(), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&(packet.len() as u16).to_be_bytes())?;
        stream.write_all(&packet)?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer)?;
        Message::from_vec(&answer).map_err(io::Error::other)
    })?
}

pub fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    let mut found: Vec<_> = message
        .answers
        .iter()
        .filter_map(|r| match &r.data {
            RData::A(A(address)) => Some(*address),
            _ => None,
        })
        .collect();
    found.sort_unstable();
    found
}

/// A DNS server outside that says [`ANSWER`] to everything, and counts.
pub fn dns_outside(world: &World) -> Arc<std::sync::atomic::AtomicUsize> {
    let socket = sys::netns::run_in(&world.outside, || UdpSocket::bind((OUTSIDE, 53)).unwrap()).unwrap();
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = count.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok((n, client)) = socket.recv_from(&mut buffer) {
            counter.fetch_add(1, Ordering::Relaxed);
            let Ok(request) = Message::from_vec(&buffer[..n]) else {
                continue;
            };
            let mut reply = Message::new(request.metadata.id, MessageType::Response, OpCode::Query);
            reply.metadata.response_code = ResponseCode::NoError;
            reply.queries.clone_from(&request.queries);
            let owner = request.queries[0].name().clone();
            reply
                .answers
                .push(Record::from_rdata(owner, 60, RData::A(A(ANSWER))));
            let _ = socket.send_to(&reply.to_vec().unwrap(), client);
        }
    });
    count
}
