//! What a network between nodes costs: beside the bare way between the same nodes, in the same round.

use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use integration::{agent, image};
use serde_json::{Value, json};

use crate::Options;
use crate::side::{Kind, Node, Side, build, until};
use crate::table::{Figure, Table};

/// Where the load is served in containers, and on the nodes themselves.
const PORT: u16 = 9000;
const SECONDS: &str = "1.5";

/// Two nodes with a server on the second and a client on the first, and a way to start one on the other.
struct Pair {
    side: Side,
    server: Server,
    client: String,
    /// Addresses of the server's task and service.
    task: String,
    service: String,
}

/// A server on the second node itself; dropped, it ends.
struct Server(std::process::Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Throughput, round trips, connections; of encapsulation, of direct routes where there are such, of virtual addresses.
pub(crate) fn overlay(options: &Options, table: &mut Table) -> Result<()> {
    let ways = [
        ("VXLAN", json!({"shoal.overlay.mode": "vxlan"})),
        ("direct", json!({})),
    ];
    for (way, settings) in ways {
        let sides = table.one_by_one(|kind| match kind {
            Kind::Agent => Pair::new(kind, &settings),
            Kind::Docker if way == "VXLAN" => Pair::new(kind, &json!({})),
            Kind::Docker => bail!("it has no such way"),
        });
        for (what, load) in [
            ("throughput", "bulk"),
            ("round trips", "trips"),
            ("connections", "calls"),
        ] {
            let mut figure = Figure::count(&format!("{way} / underlay, {what}"));
            for _ in 0..options.rounds {
                figure.pair(&sides, |pair| pair.over_underlay(load));
            }
            table.add(figure);
        }
        let mut figure = Figure::count(&format!("virtual IP / task's address over {way}, connections"));
        for _ in 0..options.rounds {
            figure.pair(&sides, Pair::virtual_over_direct);
        }
        table.add(figure);
        if way == "VXLAN" {
            changes(options, table, sides);
        }
    }
    Ok(())
}

/// How soon nodes know of what comes and goes.
fn changes(options: &Options, table: &mut Table, mut sides: crate::table::Sides<Pair>) {
    let mut figure = Figure::seconds("task runs → reached from another node");
    for _ in 0..options.rounds {
        figure.pair(&sides, Pair::until_reached);
    }
    table.add(figure);
    let mut figure = Figure::seconds("node lost → withdrawn from names");
    figure.pair_mut(&mut sides, |_, pair| pair.until_withdrawn());
    table.add(figure);
}

impl Pair {
    fn new(kind: Kind, settings: &Value) -> Result<Self> {
        let side = Side::new(kind, 2, 1)?;
        let program = std::fs::read(netload()?)?;
        let context = image::context(
            "FROM bb\nCOPY netload /netload\nCMD [\"/netload\", \"serve\", \"9000\"]\n",
            &[("netload", &program, 0o755)],
        )?;
        side.nodes
            .iter()
            .try_for_each(|node| build(node, "netload", &context))?;
        side.nodes[0].post(
            "/networks/create",
            &json!({"Name": "over", "Driver": "overlay", "Options": settings}),
        )?;
        service(&side, "server", 2)?;
        service(&side, "client", 1)?;
        let service = side.nodes[0].get("/services/server?insertDefaults=true")?;
        let address = |value: &Value| {
            let text = value.as_str().unwrap_or_default();
            text.split('/').next().unwrap_or_default().to_owned()
        };
        let task = &side.running(&side.nodes[0], "server")?[0];
        let second = side.nodes[1].host();
        let server = Server(second.enter(|| netload_command(&["serve", "9000"]))??);
        Ok(Self {
            task: address(&task["NetworksAttachments"][0]["Addresses"][0]),
            service: address(&service["Endpoint"]["VirtualIPs"][0]["Addr"]),
            client: container(&side.nodes[0], "client")?,
            server,
            side,
        })
    }

    /// The same load between tasks and between the nodes themselves.
    fn over_underlay(&self, load: &str) -> Result<f64> {
        // It is there as long as the pair is.
        let _ = &self.server;
        let first = self.side.nodes[0].host();
        let words = [load, "10.99.0.2:9000", SECONDS];
        let bare = first.enter(|| netload_command(&words))??.wait_with_output()?;
        let bare = number(&String::from_utf8_lossy(&bare.stdout))?;
        Ok(self.inside(&[load, &format!("{}:{PORT}", self.task), SECONDS])? / bare)
    }

    fn virtual_over_direct(&self) -> Result<f64> {
        let direct = self.inside(&["calls", &format!("{}:{PORT}", self.task), SECONDS])?;
        Ok(self.inside(&["calls", &format!("{}:{PORT}", self.service), SECONDS])? / direct)
    }

    /// From the moment at which the task's node says that it runs until a task on the other node has reached it by name.
    fn until_reached(&self) -> Result<f64> {
        let reached = std::thread::scope(|scope| {
            let client = scope.spawn(|| self.inside(&["reach", "tasks.late", "9000"]));
            service(&self.side, "late", 2)?;
            client
                .join()
                .map_err(|_| anyhow::anyhow!("the client panicked"))?
        })?;
        let task = &self.side.running(&self.side.nodes[0], "late")?[0];
        let running = seconds(task["Status"]["Timestamp"].as_str().unwrap_or_default())?;
        self.side.remove_service("late")?;
        // The client counts from 1970, the task's node by the clock of the day.
        Ok(reached % 86400.0 - running)
    }

    fn until_withdrawn(&mut self) -> Result<f64> {
        let task = self.task.clone();
        let cut = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        self.side.switch.set_cable(2, false)?;
        let gone = self.inside(&["gone", "tasks.server", &task]);
        self.side.switch.set_cable(2, true)?;
        until("the node is back", || {
            let ready = self.side.ready(&self.side.nodes[0])?;
            ensure!(ready == 2, "{ready} are ready");
            Ok(())
        })?;
        Ok(gone? - cut)
    }

    /// What the load says in the client's container.
    fn inside(&self, words: &[&str]) -> Result<f64> {
        let docker = agent::docker().context("docker's command line is not installed")?;
        let output = Command::new(docker)
            .arg("--host")
            .arg(format!("unix://{}", self.side.nodes[0].socket().display()))
            .args(["exec", &self.client, "/netload"])
            .args(words)
            .output()?;
        ensure!(
            output.status.success(),
            "netload {words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        number(&String::from_utf8_lossy(&output.stdout))
    }
}

/// One task on this node of the two, on the network.
fn service(side: &Side, name: &str, node: u8) -> Result<()> {
    let body = json!({
        "Name": name, "Mode": {"Replicated": {"Replicas": 1}},
        "TaskTemplate": {
            "ContainerSpec": {"Image": "netload:latest", "StopGracePeriod": 100_000_000},
            "Placement": {"Constraints": [format!("node.hostname==node{node}")]},
            "Networks": [{"Target": "over"}],
        },
    });
    side.nodes[0].post("/services/create", &body)?;
    until("the task runs", || {
        let running = side.running(&side.nodes[0], name)?.len();
        ensure!(running == 1, "{running} run");
        Ok(())
    })?;
    Ok(())
}

/// The container of the one task of a service on this node.
fn container(node: &Node, service: &str) -> Result<String> {
    let filters = json!({"label": [format!("com.docker.swarm.service.name={service}")]}).to_string();
    let found = node.get(&format!("/containers/json?filters={}", agent::escape(&filters)))?;
    let id = found[0]["Id"].as_str().context("no container")?;
    Ok(id.to_owned())
}

/// The program of the load, beside this one.
fn netload() -> Result<std::path::PathBuf> {
    let place = std::env::current_exe()?.with_file_name("netload");
    ensure!(place.exists(), "{} is not built", place.display());
    Ok(place)
}

fn netload_command(words: &[&str]) -> Result<std::process::Child> {
    let mut command = Command::new(netload()?);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(command.spawn()?)
}

fn number(text: &str) -> Result<f64> {
    text.trim()
        .parse()
        .with_context(|| format!("no number: {text:?}"))
}

/// RFC 3339 in UTC, as both APIs write it, to seconds of the day: both ends of a figure are of one day.
fn seconds(time: &str) -> Result<f64> {
    let clock = time.split('T').nth(1).context("no time")?.trim_end_matches('Z');
    let mut parts = clock.split(':').map(str::parse::<f64>);
    let mut next = || parts.next().context("no time")?.context("no number");
    Ok(next()? * 3600.0 + next()? * 60.0 + next()?)
}
