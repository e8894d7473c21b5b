//! What one DNS question costs the server: processor time of all its threads over questions about a service's name, divided
//! by their number; the median and the least of many short rounds, because a busy machine makes some of them longer. The
//! client is a thread of its own that is not counted.
//!
//! `sudo cargo run --release -p netd --example dns_load`: works in namespaces of its own; the machine's are not touched.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use netd::{AttachRequest, Backend, EndpointRequest, Netd, NetdConfig, NetworkConfig};
use netd::{Sandbox, ServiceEndpoint, ServiceNetwork};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const QUESTIONS: usize = 10_000;
const SERVICES: u8 = 200;
const ROUNDS: usize = 15;

fn main() -> Outcome<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("none"), "/tmp", Some("tmpfs"), MsFlags::empty(), none)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let (netd, sandbox) = runtime.block_on(world())?;
    let netns: OwnedFd = std::fs::File::open(&sandbox.netns)?.into();
    let servers = [
        ("127.0.0.11", sandbox.nameserver),
        ("gateway", sandbox.endpoints[0].gateway.into()),
    ];
    for (what, server) in servers {
        for window in [1, 100] {
            for edns in [false, true] {
                let question = question("service-100.", edns)?;
                let load = || load(&netns, server, &question, window);
                let mut rounds = (0..ROUNDS).map(|_| load()).collect::<io::Result<Vec<_>>>()?;
                rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
                let ((cost, rate), (least, _)) = (rounds[ROUNDS / 2], rounds[0]);
                let with = if edns { ", EDNS" } else { "" };
                println!("{what}, {window} under way{with}: {cost:.2} µs, least {least:.2} µs; {rate:.0}/s");
            }
        }
    }
    runtime.block_on(netd.shutdown(true))?;
    Ok(())
}

/// A network with many services, and one container on it.
async fn world() -> Outcome<(std::sync::Arc<Netd>, Sandbox)> {
    let config = NetdConfig {
        state_dir: "/tmp/netd".into(),
        run_dir: "/tmp/run".into(),
        instance: "bench".into(),
        upstreams: Some(Vec::new()),
        ..NetdConfig::default()
    };
    let netd = Netd::open(config).await?;
    let network = NetworkConfig {
        id: "bench".into(),
        name: "bench".into(),
        subnet: Some("10.77.0.0/16".parse()?),
        ..NetworkConfig::default()
    };
    netd.ensure_network(&network).await?;
    for n in 0..SERVICES {
        netd.set_service(service(n)).await?;
    }
    let request = AttachRequest {
        sandbox: "client".into(),
        hostname: "client".into(),
        endpoints: vec![EndpointRequest {
            network: "bench".into(),
            aliases: vec!["client".into()],
            ..EndpointRequest::default()
        }],
        ..AttachRequest::default()
    };
    let sandbox = netd.attach(request).await?;
    Ok((netd, sandbox))
}

fn service(n: u8) -> ServiceEndpoint {
    let on = ServiceNetwork {
        network: "bench".into(),
        vip: Some(Ipv4Addr::new(10, 77, 1, n)),
        ..ServiceNetwork::default()
    };
    let backend = |task: u8| Backend {
        task: format!("t{n}-{task}"),
        name: format!("service-{n}.{task}.t{n}-{task}"),
        addresses: vec![("bench".into(), Ipv4Addr::new(10, 77, 2 + task, n))],
        ..Backend::default()
    };
    ServiceEndpoint {
        id: format!("s{n}"),
        name: format!("service-{n}"),
        networks: vec![on],
        backends: (0..3).map(backend).collect(),
        ..ServiceEndpoint::default()
    }
}

fn question(name: &str, edns: bool) -> Outcome<Vec<u8>> {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name)?, RecordType::A));
    message.edns = edns.then(Edns::new);
    Ok(message.to_vec()?)
}

/// The server's µs per question, and questions per second.
fn load(netns: &OwnedFd, server: IpAddr, question: &[u8], window: usize) -> io::Result<(f64, f64)> {
    let (before, start) = (server_time()?, Instant::now());
    sys::netns::run_in(netns, || ask((server, 53).into(), question, window))??;
    let (spent, took) = (server_time()? - before, start.elapsed());
    let per = |time: Duration| time.as_secs_f64() / QUESTIONS as f64;
    Ok((per(spent) * 1e6, 1.0 / per(took)))
}

/// Ask, with `window` questions under way at any time.
fn ask(server: SocketAddr, question: &[u8], window: usize) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.connect(server)?;
    let (mut sent, mut answered) = (0, 0);
    let (mut packet, mut buffer) = (question.to_vec(), [0; 1500]);
    while answered < QUESTIONS {
        while sent < QUESTIONS && sent - answered < window {
            packet[..2].copy_from_slice(&(sent as u16).to_be_bytes());
            socket.send(&packet)?;
            sent += 1;
        }
        let n = socket.recv(&mut buffer)?;
        if n < question.len() || buffer[3] & 15 != 0 || buffer[7] != 1 {
            return Err(io::Error::other("not the answer"));
        }
        answered += 1;
    }
    Ok(())
}

/// Processor time of all threads but the calling one, which is the client's.
fn server_time() -> io::Result<Duration> {
    let own = nix::unistd::gettid().to_string();
    let mut total = Duration::ZERO;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let thread = thread?;
        if thread.file_name() != own.as_str() {
            let text = std::fs::read_to_string(thread.path().join("schedstat"))?;
            let spent = text.split(' ').next().and_then(|n| n.parse().ok());
            total += Duration::from_nanos(spent.ok_or(io::ErrorKind::InvalidData)?);
        }
    }
    Ok(total)
}
