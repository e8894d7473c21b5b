//! Many nodes without a container among them, against a real manager: `simulated_nodes MANAGER TOKEN NODES DIRECTORY`.
//!
//! Each has joined by its token and has a certificate and a connection of its own, by the code that a node uses: it
//! registers, sends heartbeats, follows its assignments and says of each task that it runs a little later. Every second
//! a line of JSON says how far they are. Ends at SIGTERM; what it made in DIRECTORY stays.

mod node;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

/// Nodes that join at the same time: the manager signs no faster for more.
const JOINING: usize = 16;

/// What the nodes have come to, together.
#[derive(Debug, Default)]
struct Counters {
    joined: AtomicU64,
    /// Sessions that are open.
    sessions: AtomicU64,
    /// Sessions that have ended.
    broken: AtomicU64,
    heartbeats: AtomicU64,
    /// Tasks that were said to run and that the manager still wants.
    running: AtomicU64,
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [manager, token, nodes, directory] = words.as_slice() else {
        anyhow::bail!("usage: simulated_nodes MANAGER TOKEN NODES DIRECTORY");
    };
    let nodes: usize = nodes.parse().context("NODES is no number")?;
    // Each has a socket.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(manager, token, nodes, directory.into()))
}

async fn run(manager: &str, token: &str, nodes: usize, directory: PathBuf) -> Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let counters = Arc::new(Counters::default());
    let door = Arc::new(Semaphore::new(JOINING));
    let mut all = tokio::task::JoinSet::new();
    for number in 1..=nodes {
        let place = node::Place {
            name: format!("sim-{number:05}"),
            state: directory.join(number.to_string()),
            manager: manager.to_owned(),
            token: token.to_owned(),
        };
        let (door, counters) = (door.clone(), counters.clone());
        all.spawn(async move {
            let joining = door.acquire_owned().await?;
            place.join().await.with_context(|| place.name.clone())?;
            drop(joining);
            counters.joined.fetch_add(1, Ordering::Relaxed);
            place.live(&counters).await
        });
    }
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = terminated.recv() => return Ok(()),
            _ = second.tick() => println!("{}", counters.line()),
            // A node lives until the end: this one could not join.
            Some(ended) = all.join_next() => ended??,
        }
    }
}

impl Counters {
    fn line(&self) -> String {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            r#"{{"joined":{},"sessions":{},"broken":{},"heartbeats":{},"running":{}}}"#,
            of(&self.joined),
            of(&self.sessions),
            of(&self.broken),
            of(&self.heartbeats),
            of(&self.running)
        )
    }
}
