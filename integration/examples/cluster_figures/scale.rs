//! A real manager and a thousand nodes that are only pretended: real connections, certificates and messages.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::{Agent, Host, binaries};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::Options;
use crate::process::{cpu, most_rss, rss};
use crate::table::{Figure, Table};

/// How long anything may take before the figure is given up.
const LIMIT: Duration = Duration::from_secs(900);
/// How long the cluster is watched when nothing happens but heartbeats.
const IDLE: Duration = Duration::from_secs(30);
/// What it takes to come to rest after the last task runs.
const SETTLE: Duration = Duration::from_secs(10);

/// So many nodes, so many tasks: until all run, and what it costs the manager.
pub(crate) fn simulated(options: &Options, table: &mut Table) -> Result<()> {
    let agent = Agent::start_on(Host::new()?.named("manager"))?;
    agent.cli_ok("swarm init --advertise-addr 127.0.0.1")?;
    // No task shall really run.
    agent.cli_ok("node update --availability drain manager")?;
    let token = agent.cli_ok("swarm join-token -q worker")?;
    let began = Instant::now();
    let nodes = Nodes::start(&agent, token.trim(), options.nodes)?;
    wait("all nodes have a session", || {
        let sessions = nodes.count("sessions");
        ensure!(
            sessions == options.nodes as u64,
            "{sessions} have: {}",
            nodes.line()
        );
        Ok(())
    })?;
    let what = format!("{} nodes, {} tasks", options.nodes, options.tasks);
    let mut add = |mut figure: Figure, value: f64| {
        figure.alone(value);
        table.add(figure);
    };
    add(
        Figure::seconds(&format!("{} simulated nodes join", options.nodes)),
        began.elapsed().as_secs_f64(),
    );
    let pid = agent.pid().context("the manager is gone")?;
    add(
        Figure::megabytes(&format!("{} nodes, no task: RSS", options.nodes)),
        rss(pid)? as f64 / 1000.0,
    );

    let begun = cpu(pid)?;
    let took = deploy(&agent, options)?;
    add(
        Figure::seconds(&format!("{what}: from the request to all running")),
        took.as_secs_f64(),
    );
    add(
        Figure::seconds(&format!("{what}: processor time of that")),
        (cpu(pid)? - begun).as_secs_f64(),
    );
    std::thread::sleep(SETTLE);
    let (before, beats, now) = (cpu(pid)?, nodes.count("heartbeats"), Instant::now());
    std::thread::sleep(IDLE);
    let wall = now.elapsed().as_secs_f64();
    add(
        Figure::count(&format!("{what}: processors used when idle")),
        (cpu(pid)? - before).as_secs_f64() / wall,
    );
    add(
        Figure::count("of that, heartbeats a second"),
        (nodes.count("heartbeats") - beats) as f64 / wall,
    );
    add(
        Figure::megabytes(&format!("{what}: RSS at rest")),
        rss(pid)? as f64 / 1000.0,
    );
    add(
        Figure::megabytes(&format!("{what}: largest RSS")),
        most_rss(pid)? as f64 / 1000.0,
    );
    add(Figure::count("sessions that broke"), nodes.count("broken") as f64);
    Ok(())
}

fn deploy(agent: &Agent, options: &Options) -> Result<Duration> {
    let began = Instant::now();
    for number in 0..options.services {
        let share = options.tasks / options.services + usize::from(number < options.tasks % options.services);
        let body = json!({
            "Name": format!("service-{number}"), "Mode": {"Replicated": {"Replicas": share}},
            "TaskTemplate": {"ContainerSpec": {"Image": "bb:latest", "Command": ["/bin/sleep", "100000"]}},
        });
        agent.post("/services/create", &body)?;
    }
    wait("all tasks run", || {
        let services = agent.get("/services?status=true")?;
        let running = |service: &Value| service["ServiceStatus"]["RunningTasks"].as_u64();
        let running: u64 = services
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(running)
            .sum();
        ensure!(running == options.tasks as u64, "{running} run");
        Ok(())
    })?;
    Ok(began.elapsed())
}

fn wait(what: &str, mut ready: impl FnMut() -> Result<()>) -> Result<()> {
    let begin = Instant::now();
    loop {
        match ready() {
            Ok(()) => return Ok(()),
            Err(error) if begin.elapsed() > LIMIT => {
                return Err(error.context(format!("{what}: not within {LIMIT:?}")));
            }
            // The manager shall do its work, and not count for us all the time.
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// The simulated nodes: one process. Dropped, it ends.
struct Nodes {
    process: Child,
    last: Arc<Mutex<String>>,
}

impl Nodes {
    fn start(agent: &Agent, token: &str, count: usize) -> Result<Self> {
        let mut command = Command::new(binaries().join("examples/simulated_nodes"));
        command
            .args(["127.0.0.1:2377", token, &count.to_string()])
            .arg(agent.host.directory().join("simulated"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut process = agent
            .host
            .enter(|| command.spawn())?
            .context("start simulated_nodes")?;
        let last = Arc::new(Mutex::new(String::new()));
        let (lines, kept) = (process.stdout.take().context("its output")?, last.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = line;
            }
        });
        Ok(Self { process, last })
    }

    /// What it said last.
    fn line(&self) -> String {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, key: &str) -> u64 {
        let line: Value = serde_json::from_str(&self.line()).unwrap_or_default();
        line[key].as_u64().unwrap_or(0)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM);
        let _ = self.process.wait();
    }
}
