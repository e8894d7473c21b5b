//! How long it takes to give a container its network, and to take it away: medians over a few hundred sandboxes.
//!
//! `sudo cargo run --release -p netd --example attach`: works in namespaces of its own; the machine's are not touched.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use netd::{
    AttachRequest, Backend, EndpointRequest, Member, MemberAttachment, Netd, NetdConfig, NetworkConfig,
    Overlay, Publish, ServiceEndpoint, Underlay, UnderlayPeer,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const ROUNDS: usize = 200;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    mount(
        Some("none"),
        "/tmp",
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(measure())
}

async fn measure() -> Result<(), Box<dyn std::error::Error>> {
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
        ..NetworkConfig::default()
    };
    netd.ensure_network(&network).await?;
    let publish = Publish {
        container_port: 80,
        ..Publish::default()
    };
    rounds(&netd, "attach", vec![]).await?;
    rounds(&netd, "attach with a published port", vec![publish]).await?;
    let vip = ServiceEndpoint {
        id: "svc".into(),
        name: "svc".into(),
        networks: vec![netd::ServiceNetwork {
            network: "bench".into(),
            vip: Some("172.17.200.1".parse()?),
            aliases: vec![],
            ..netd::ServiceNetwork::default()
        }],
        ports: vec![],
        backends: vec![Backend {
            task: "t".into(),
            name: "t".into(),
            addresses: vec![("bench".into(), "172.17.200.2".parse()?)],
            sandbox: None,
            ..Backend::default()
        }],
    };
    netd.set_service(vip).await?;
    rounds(&netd, "attach with a virtual IP in sight", vec![]).await?;
    spanning(&netd).await?;
    netd.shutdown(true).await?;
    Ok(())
}

/// The same on a network that spans nodes and has a thousand members elsewhere; and how long those take.
async fn spanning(netd: &Netd) -> Result<(), Box<dyn std::error::Error>> {
    let underlay = Underlay {
        address: "127.0.0.1".parse()?,
        port: 4789,
        peers: vec![UnderlayPeer {
            node: "other".into(),
            address: "127.0.0.2".parse()?,
            mtu: 1500,
            forwards: false,
            next_hop6: None,
            public_key: None,
        }],
    };
    netd.set_underlay(Some(underlay)).await?;
    let network = NetworkConfig {
        id: "wide".into(),
        name: "wide".into(),
        subnet: Some("10.9.0.0/16".parse()?),
        overlay: Some(Overlay {
            vni: 4097,
            ..Overlay::default()
        }),
        ..NetworkConfig::default()
    };
    netd.ensure_network(&network).await?;
    rounds_on(netd, "wide", "attach to a network that spans nodes", vec![]).await?;
    let members: Vec<_> = (0..1000u32).map(member).collect();
    let (mut all, mut one, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..20 {
        let start = Instant::now();
        netd.set_members(members.clone()).await?;
        all.push(start.elapsed());
        let start = Instant::now();
        netd.set_members(vec![member(2000 + n)]).await?;
        one.push(start.elapsed());
        let start = Instant::now();
        netd.remove_members(netd.members().into_iter().collect()).await?;
        gone.push(start.elapsed());
    }
    println!(
        "1000 members: {}; one more: {}; none: {}",
        summary(all),
        summary(one),
        summary(gone)
    );
    netd.set_members(members).await?;
    rounds_on(netd, "wide", "attach beside a thousand members elsewhere", vec![]).await?;
    Ok(())
}

fn member(n: u32) -> Member {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 9, 128, 0)) + n);
    Member {
        id: format!("task{n}"),
        node: "other".into(),
        attachments: vec![MemberAttachment {
            network: "wide".into(),
            addresses: vec![address.into()],
            ..MemberAttachment::default()
        }],
    }
}

async fn rounds(netd: &Netd, what: &str, publish: Vec<Publish>) -> Result<(), netd::Error> {
    rounds_on(netd, "bench", what, publish).await
}

async fn rounds_on(netd: &Netd, network: &str, what: &str, publish: Vec<Publish>) -> Result<(), netd::Error> {
    let (mut attach, mut detach) = (Vec::new(), Vec::new());
    for n in 0..ROUNDS {
        let id = format!("box{n}");
        let endpoint = EndpointRequest {
            network: network.into(),
            aliases: vec![id.clone()],
            ..EndpointRequest::default()
        };
        let request = AttachRequest {
            sandbox: id,
            hostname: String::new(),
            endpoints: vec![endpoint],
            publish: publish.clone(),
            ..AttachRequest::default()
        };
        let start = Instant::now();
        netd.attach(request).await?;
        attach.push(start.elapsed());
    }
    for n in 0..ROUNDS {
        let start = Instant::now();
        netd.detach(&format!("box{n}")).await?;
        detach.push(start.elapsed());
    }
    println!("{what}: {}; detach: {}", summary(attach), summary(detach));
    Ok(())
}

fn summary(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |q: usize| times[times.len() * q / 100].as_secs_f64() * 1e3;
    format!("median {:.2} ms, 10th {:.2}, 90th {:.2}", at(50), at(10), at(90))
}
