//! What a virtual IP costs a client: connections with one byte there and back, through a virtual IP, straight to the task
//! behind it, and between containers that see no service, in turns; the ratios of the medians, for both balancers and for few
//! and many services. And what a change of one service costs among them.
//!
//! `sudo cargo run --release -p netd --example vip`: works in namespaces and a cgroup of its own; the machine's are not
//! touched. A busy machine spoils the microseconds before it spoils the ratio.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netd::{
    AttachRequest, Backend, BalancerChoice, EndpointRequest, Netd, NetdConfig, NetworkConfig, Sandbox,
    ServiceEndpoint, ServiceNetwork,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::Pid;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const PORT: u16 = 80;
const TASKS: u8 = 10;
const ROUNDS: usize = 15;
const CONNECTS: usize = 200;
const SERVICES: [u16; 4] = [1, 10, 100, 1000];

fn main() -> Outcome<()> {
    // All on one processor: whether a server wakes on the client's or on another one makes more of a difference.
    let mut one = CpuSet::new();
    one.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &one)?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("none"), "/tmp", Some("tmpfs"), MsFlags::empty(), none)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let unified = PathBuf::from("/sys/fs/cgroup/unified");
    let unified = if unified.is_dir() {
        unified
    } else {
        "/sys/fs/cgroup".into()
    };
    let cgroup = unified.join(format!("shoal-bench-{}", std::process::id()));
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let home = own
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap_or_default();
    fs::create_dir(&cgroup)?;
    fs::write(cgroup.join("cgroup.procs"), "0")?;
    let measured = [BalancerChoice::Ebpf, BalancerChoice::Nftables]
        .into_iter()
        .try_for_each(|balancer| runtime.block_on(measure(balancer, &cgroup)));
    fs::write(unified.join(home).join("cgroup.procs"), "0")?;
    fs::remove_dir(&cgroup)?;
    measured
}

async fn measure(balancer: BalancerChoice, cgroup: &Path) -> Outcome<()> {
    let config = NetdConfig {
        state_dir: format!("/tmp/{balancer:?}/netd").into(),
        run_dir: format!("/tmp/{balancer:?}/run").into(),
        instance: "bench".into(),
        upstreams: Some(Vec::new()),
        cgroup: Some(cgroup.to_owned()),
        balancer,
        ..NetdConfig::default()
    };
    let netd = Netd::open(config).await?;
    let front = pair(&netd, "front", "10.1.0.0/16").await?;
    let bare = pair(&netd, "bare", "10.2.0.0/16").await?;
    let through = SocketAddr::from((vip(0), PORT));
    let mut there = 0;
    for count in SERVICES {
        for n in there..count {
            netd.set_service(service(n, *front.server_ip(), 0)).await?;
        }
        there = count;
        connects(&bare.client, bare.server)?; // the first ones find everything cold
        let mut rounds = Rounds::default();
        for _ in 0..ROUNDS {
            rounds.alone.push(connects(&bare.client, bare.server)?);
            rounds.through.push(connects(&front.client, through)?);
            rounds.straight.push(connects(&front.client, front.server)?);
        }
        let change = changes(&netd, count, *front.server_ip()).await?;
        println!("{balancer:?}, {count} services: {rounds}; a change {change:.0} µs");
    }
    for id in ["front-client", "front-server", "bare-client", "bare-server"] {
        netd.detach(id).await?;
    }
    netd.shutdown(true).await?;
    Ok(())
}

/// Times of connections, in rounds.
#[derive(Default)]
struct Rounds {
    /// Between containers that see no service.
    alone: Vec<Duration>,
    /// Through a virtual IP.
    through: Vec<Duration>,
    /// From the same container to the task behind it.
    straight: Vec<Duration>,
}

impl Rounds {
    /// Of each round's times to those through the virtual IP.
    fn ratio(&self, to: &[Duration]) -> f64 {
        let pairs = to.iter().zip(&self.through);
        median(pairs.map(|(a, b)| a.as_secs_f64() / b.as_secs_f64()).collect())
    }
}

impl std::fmt::Display for Rounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let micros = |d: &[Duration]| median(d.iter().map(|d| d.as_secs_f64() * 1e6).collect());
        let through = micros(&self.through);
        let (straight, alone) = (micros(&self.straight), micros(&self.alone));
        let (to_straight, to_alone) = (self.ratio(&self.straight), self.ratio(&self.alone));
        write!(
            f,
            "virtual {through:.1} µs; task's address {straight:.1} µs, ratio {to_straight:.3}; no service in sight {alone:.1} µs, ratio {to_alone:.3}"
        )
    }
}

struct Pair {
    client: OwnedFd,
    server: SocketAddr,
    address: Ipv4Addr,
}

impl Pair {
    fn server_ip(&self) -> &Ipv4Addr {
        &self.address
    }
}

/// A network with a client and a server.
async fn pair(netd: &Arc<Netd>, network: &str, subnet: &str) -> Outcome<Pair> {
    let config = NetworkConfig {
        id: network.into(),
        name: network.into(),
        subnet: Some(subnet.parse()?),
        ..NetworkConfig::default()
    };
    netd.ensure_network(&config).await?;
    let client = attach(netd, network, "client").await?;
    let server = attach(netd, network, "server").await?;
    let address = server.endpoints[0].ipv4;
    serve(&fs::File::open(&server.netns)?.into())?;
    Ok(Pair {
        client: fs::File::open(&client.netns)?.into(),
        server: (address, PORT).into(),
        address,
    })
}

async fn attach(netd: &Arc<Netd>, network: &str, name: &str) -> Outcome<Sandbox> {
    let request = AttachRequest {
        sandbox: format!("{network}-{name}"),
        hostname: name.into(),
        endpoints: vec![EndpointRequest {
            network: network.into(),
            ..EndpointRequest::default()
        }],
        ..AttachRequest::default()
    };
    Ok(netd.attach(request).await?)
}

/// One byte back for one byte, until the process ends.
fn serve(netns: &OwnedFd) -> io::Result<()> {
    let listener = sys::netns::run_in(netns, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(stream); // the client counts what fails
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    stream.write_all(&byte)
}

/// The median time of a connection.
fn connects(netns: &OwnedFd, to: SocketAddr) -> io::Result<Duration> {
    sys::netns::run_in(netns, || {
        let mut times = Vec::with_capacity(CONNECTS);
        for _ in 0..CONNECTS {
            let start = Instant::now();
            let mut stream = TcpStream::connect(to)?;
            stream.write_all(b"x")?;
            // The server closes first, so ports of the client are free at once.
            stream.read_to_end(&mut Vec::new())?;
            drop(stream);
            times.push(start.elapsed());
        }
        times.sort_unstable();
        Ok(times[CONNECTS / 2])
    })?
}

/// The median time of a change of one service, in microseconds.
async fn changes(netd: &Arc<Netd>, count: u16, server: Ipv4Addr) -> Outcome<f64> {
    let mut times = Vec::new();
    for n in 0..20u16 {
        let changed = service(count - 1 - n % count.min(20), server, n as u8 + 1);
        let start = Instant::now();
        netd.set_service(changed).await?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    netd.set_service(service(0, server, 0)).await?;
    Ok(median(times))
}

/// Ten tasks at different addresses; the first service's are the one server, so that whoever is chosen answers.
fn service(n: u16, server: Ipv4Addr, version: u8) -> ServiceEndpoint {
    let address = |task: u8| match n {
        0 => server,
        _ => {
            Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 1, 128 + task + version, 0)) + u32::from(n % 250) + 1)
        }
    };
    let backend = |task: u8| Backend {
        task: format!("{n}.{task}"),
        name: format!("svc{n}.{task}"),
        addresses: vec![("front".into(), address(task))],
        ..Backend::default()
    };
    ServiceEndpoint {
        id: format!("svc{n}"),
        name: format!("svc{n}"),
        networks: vec![ServiceNetwork {
            network: "front".into(),
            vip: Some(vip(n)),
            ..ServiceNetwork::default()
        }],
        backends: (0..TASKS).map(backend).collect(),
        ..ServiceEndpoint::default()
    }
}

fn vip(n: u16) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 100 + (n / 250) as u8, (n % 250) as u8 + 1)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
