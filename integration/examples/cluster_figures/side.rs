//! A cluster behind one face: of agents, or of dockerds. Both speak the same API.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration::{Agent, Host, Switch, Versions, agent::escape, http};
use serde_json::{Value, json};

use crate::docker::Dockerd;

/// How long anything may take before the figure is given up.
const LIMIT: Duration = Duration::from_secs(180);
/// What the API is asked between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Docker,
    Agent,
}

/// A daemon, with containers of its own.
pub(crate) enum Node {
    Docker(Dockerd),
    Agent(Agent),
}

impl Node {
    pub(crate) fn socket(&self) -> PathBuf {
        match self {
            Self::Docker(dockerd) => dockerd.socket(),
            Self::Agent(agent) => agent.socket(),
        }
    }

    pub(crate) fn host(&self) -> &Host {
        match self {
            Self::Docker(dockerd) => dockerd.host(),
            Self::Agent(agent) => &agent.host,
        }
    }

    /// The processes that are the daemon.
    pub(crate) fn pids(&self) -> Vec<u32> {
        match self {
            Self::Docker(dockerd) => dockerd.pids(),
            Self::Agent(agent) => agent.pid().into_iter().collect(),
        }
    }

    /// Kills the daemon as a crash would; of Docker dockerd alone, as containerd is another program.
    pub(crate) fn kill(&mut self) -> Result<()> {
        match self {
            Self::Docker(dockerd) => dockerd.kill(),
            Self::Agent(agent) => agent.kill(),
        }
    }

    /// Starts it again; returns when it answers.
    pub(crate) fn run(&mut self) -> Result<()> {
        match self {
            Self::Docker(dockerd) => dockerd.run(),
            Self::Agent(agent) => agent.run(),
        }
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        http::request(&self.socket(), "GET", path, None)?
            .success()?
            .json()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let answer = http::request(&self.socket(), "POST", path, Some(body))?.success()?;
        match answer.body.is_empty() {
            true => Ok(Value::Null),
            false => answer.json().or(Ok(Value::Null)),
        }
    }

    fn delete(&self, path: &str) -> Result<()> {
        http::request(&self.socket(), "DELETE", path, None)?.success()?;
        Ok(())
    }
}

/// Nodes on one switch, of which the first has made the swarm.
pub(crate) struct Side {
    pub(crate) nodes: Vec<Node>,
    pub(crate) switch: Switch,
}

impl Side {
    /// So many nodes with an image `bb`, all in one swarm; of them the first `managers` are managers.
    pub(crate) fn new(kind: Kind, count: u8, managers: u8) -> Result<Self> {
        let mut side = Self {
            nodes: Vec::new(),
            switch: Switch::new(Versions::V4)?,
        };
        for number in 1..=count {
            let host = side.switch.plug_in(number)?;
            let node = match kind {
                Kind::Docker => Node::Docker(Dockerd::start_on(host)?),
                Kind::Agent => Node::Agent(Agent::start_on(host)?),
            };
            build_image(&node)?;
            side.nodes.push(node);
        }
        side.nodes[0].post(
            "/swarm/init",
            &json!({"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": "10.99.0.1", "Spec": {}}),
        )?;
        let tokens = side.nodes[0].get("/swarm")?["JoinTokens"].clone();
        for number in 2..=count {
            let token = if number <= managers {
                &tokens["Manager"]
            } else {
                &tokens["Worker"]
            };
            let body = json!({
                "ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": format!("10.99.0.{number}"),
                "RemoteAddrs": ["10.99.0.1:2377"], "JoinToken": token, "Availability": "active",
            });
            side.nodes[usize::from(number) - 1].post("/swarm/join", &body)?;
        }
        until("all nodes are ready", || {
            let ready = side.ready(&side.nodes[0])?;
            ensure!(ready == usize::from(count), "{ready} are ready");
            let reachable = side.reachable(&side.nodes[0])?;
            ensure!(
                reachable >= usize::from(managers),
                "{reachable} managers are reachable"
            );
            Ok(())
        })?;
        Ok(side)
    }

    /// Nodes that are ready, as this one sees it.
    pub(crate) fn ready(&self, node: &Node) -> Result<usize> {
        count(&node.get("/nodes")?, |node| node["Status"]["State"] == "ready")
    }

    /// Managers that are reachable, as this one sees it.
    pub(crate) fn reachable(&self, node: &Node) -> Result<usize> {
        count(&node.get("/nodes")?, |node| {
            node["ManagerStatus"]["Reachability"] == "reachable"
        })
    }

    /// The node that leads, by its place in `nodes`, as this one sees it.
    pub(crate) fn leader(&self, node: &Node) -> Result<usize> {
        let nodes = node.get("/nodes")?;
        let leads = |node: &&Value| node["ManagerStatus"]["Leader"] == true;
        let leader = nodes.as_array().into_iter().flatten().find(leads);
        let name = leader.context("there is no leader")?["Description"]["Hostname"].clone();
        let number = name.as_str().and_then(|name| name.strip_prefix("node"));
        let number: usize = number.context("a foreign node")?.parse()?;
        Ok(number - 1)
    }

    /// Makes a service of sleeping tasks and waits until they run.
    pub(crate) fn service(&self, name: &str, replicas: usize) -> Result<()> {
        let body = json!({
            "Name": name, "Mode": {"Replicated": {"Replicas": replicas}},
            "TaskTemplate": {"ContainerSpec": {
                "Image": "bb:latest", "Command": ["/bin/sleep", "100000"], "StopGracePeriod": 100_000_000,
            }},
        });
        self.nodes[0].post("/services/create", &body)?;
        until("the tasks run", || {
            let running = self.running(&self.nodes[0], name)?.len();
            ensure!(running == replicas, "{running} run");
            Ok(())
        })?;
        Ok(())
    }

    /// Removes a service and waits until none of its tasks runs.
    pub(crate) fn remove_service(&self, name: &str) -> Result<()> {
        let id = self.nodes[0].get(&format!("/services/{name}"))?["ID"].clone();
        let tasks = format!(
            "/tasks?filters={}",
            escape(&json!({"service": [name]}).to_string())
        );
        let before = self.nodes[0].get(&tasks)?;
        self.nodes[0].delete(&format!("/services/{}", id.as_str().unwrap_or_default()))?;
        until("its containers are gone", || {
            for task in before.as_array().into_iter().flatten() {
                let container = task["Status"]["ContainerStatus"]["ContainerID"].as_str();
                for node in &self.nodes {
                    let found = node.get(&format!("/containers/{}/json", container.unwrap_or_default()));
                    ensure!(found.is_err(), "one is left");
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Removes a service and waits until nothing of it is left.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        self.nodes[0].delete(&format!("/services/{name}"))?;
        until("no container is left", || {
            for node in &self.nodes {
                let containers = node.get("/containers/json?all=1")?;
                ensure!(containers.as_array().is_some_and(Vec::is_empty), "some are left");
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Tasks of a service that run and shall, as this node sees it.
    pub(crate) fn running(&self, node: &Node, service: &str) -> Result<Vec<Value>> {
        let filters = json!({"service": [service], "desired-state": ["running"]}).to_string();
        let tasks = node.get(&format!("/tasks?filters={}", escape(&filters)))?;
        let tasks = tasks.as_array().cloned().unwrap_or_default();
        let running = |task: &Value| task["Status"]["State"] == "running";
        Ok(tasks.into_iter().filter(running).collect())
    }
}

impl Drop for Side {
    /// Services go first, so that every node ends its own containers. Errors have nobody to go to: what stays is seen.
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if node.pids().is_empty() {
                let _ = node.run();
            }
        }
        let Some(first) = self.nodes.first() else { return };
        let services = first.get("/services").unwrap_or_default();
        for service in services.as_array().into_iter().flatten() {
            let _ = first.delete(&format!(
                "/services/{}",
                service["ID"].as_str().unwrap_or_default()
            ));
        }
        for node in self.nodes.iter().skip(1) {
            let _ = node.post("/swarm/leave?force=1", &Value::Null);
        }
    }
}

/// Waits until `ready` has no complaint; how long that took.
pub(crate) fn until(what: &str, mut ready: impl FnMut() -> Result<()>) -> Result<Duration> {
    let begin = Instant::now();
    loop {
        match ready() {
            Ok(()) => return Ok(begin.elapsed()),
            Err(error) if begin.elapsed() > LIMIT => bail!("{what}: not within {LIMIT:?}: {error:#}"),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

fn build_image(node: &Node) -> Result<()> {
    build(node, "bb", &integration::image::busybox("")?)
}

/// Builds an image from a context.
pub(crate) fn build(node: &Node, name: &str, context: &[u8]) -> Result<()> {
    let headers = [("Content-Type", "application/x-tar")];
    let answer = http::open(
        &node.socket(),
        "POST",
        &format!("/build?t={name}"),
        &headers,
        context,
    )?
    .finish()?
    .success()?;
    ensure!(answer.text().contains("Successfully built"), "{}", answer.text());
    Ok(())
}

fn count(nodes: &Value, wanted: impl Fn(&Value) -> bool) -> Result<usize> {
    let nodes = nodes.as_array().context("no list of nodes")?;
    Ok(nodes.iter().filter(|node| wanted(node)).count())
}
