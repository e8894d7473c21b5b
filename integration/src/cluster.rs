//! Several machines on one network: each has a network namespace, a name and an agent of its own, and all of them are
//! plugged into a bridge in one more namespace. `node1` has 10.99.0.1, `node2` has 10.99.0.2 and so on.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{Agent, Host, Switch, Versions, eventually};

/// Machines, of which the first is the manager once there is a swarm. Dropped in this order, so that what the manager
/// still wants is withdrawn first.
#[derive(Debug)]
pub struct Cluster {
    /// The agents.
    pub nodes: Vec<Agent>,
    /// The bridge between them.
    switch: Switch,
}

impl Cluster {
    /// So many agents on one network; no swarm yet.
    pub fn new(count: u8) -> Result<Self> {
        Self::with_addresses(Versions::V4, count)
    }

    /// So many agents on one network, with addresses of these versions; no swarm yet.
    pub fn with_addresses(versions: Versions, count: u8) -> Result<Self> {
        let mut cluster = Self {
            nodes: Vec::new(),
            switch: Switch::new(versions)?,
        };
        for number in 1..=count {
            let host = cluster.switch.plug_in(number)?;
            cluster.nodes.push(Agent::start_on(host)?);
        }
        Ok(cluster)
    }

    /// A manager and so many workers less one, all of them ready.
    pub fn joined(count: u8) -> Result<Self> {
        let cluster = Self::new(count)?;
        cluster.init()?;
        let token = cluster.worker_token()?;
        for node in &cluster.nodes[1..] {
            node.cli_ok(&["swarm", "join", "--token", &token, "10.99.0.1:2377"])?;
        }
        for number in 1..=count {
            cluster.wait_state(&format!("node{number}"), "ready")?;
        }
        Ok(cluster)
    }

    /// So many managers, of which the first leads, and so many workers after them, all of them ready.
    pub fn managed(managers: u8, workers: u8) -> Result<Self> {
        let cluster = Self::new(managers + workers)?;
        cluster.form(managers, workers)?;
        Ok(cluster)
    }

    /// Makes a swarm of all agents: so many managers, of which the first leads, and so many workers after them.
    pub fn form(&self, managers: u8, workers: u8) -> Result<()> {
        self.init()?;
        for number in 1..managers + workers {
            let role = if number < managers { "manager" } else { "worker" };
            self.join(number.into(), role)?;
        }
        for number in 1..=managers + workers {
            self.wait_state(&format!("node{number}"), "ready")?;
        }
        Ok(())
    }

    /// The address by which a node is known, with this port.
    pub fn address(&self, number: u8, port: u16) -> SocketAddr {
        (self.switch.address(number), port).into()
    }

    /// Lets a node join as a worker or a manager.
    pub fn join(&self, node: usize, role: &str) -> Result<String> {
        let token = self.manager().cli_ok(&["swarm", "join-token", "-q", role])?;
        let manager = self.address(1, 2377).to_string();
        self.nodes[node].cli_ok(&["swarm", "join", "--token", token.trim(), &manager])
    }

    /// Makes the first node a manager.
    pub fn init(&self) -> Result<()> {
        let address = self.address(1, 2377).to_string();
        let words = ["swarm", "init", "--advertise-addr", &address];
        self.manager().cli_ok(&words).map(drop)
    }

    /// The first node.
    pub fn manager(&self) -> &Agent {
        &self.nodes[0]
    }

    /// The second node.
    pub fn worker(&self) -> &Agent {
        &self.nodes[1]
    }

    /// The second node, to kill and start it.
    pub fn worker_mut(&mut self) -> &mut Agent {
        &mut self.nodes[1]
    }

    /// What a worker joins with.
    pub fn worker_token(&self) -> Result<String> {
        let token = self.manager().cli_ok(&["swarm", "join-token", "-q", "worker"])?;
        Ok(token.trim().to_owned())
    }

    /// A node by its name, as the manager sees it; of several with one name the one that is not down.
    pub fn node(&self, name: &str) -> Result<Value> {
        let nodes = self.manager().get("/nodes")?;
        let mut named: Vec<&Value> = nodes
            .as_array()
            .into_iter()
            .flatten()
            .filter(|node| node["Description"]["Hostname"] == name)
            .collect();
        named.sort_by_key(|node| node["Status"]["State"] == "down");
        let found = named.first().copied();
        found
            .cloned()
            .with_context(|| format!("no node {name} in {nodes}"))
    }

    /// Waits until the manager sees a node in this state.
    pub fn wait_state(&self, name: &str, state: &str) -> Result<Value> {
        eventually(&format!("{name} is {state}"), || {
            let node = self.node(name)?;
            ensure!(
                node["Status"]["State"] == state,
                "it is {}:\n{}",
                node["Status"],
                self.worker().log()
            );
            Ok(node)
        })
    }

    /// Waits until a service has exactly so many running tasks on each node, in the nodes' order.
    pub fn wait_spread(&self, service: &str, counts: &[usize]) -> Result<Vec<Value>> {
        let ids: Vec<Value> = (1..=counts.len())
            .map(|number| Ok(self.node(&format!("node{number}"))?["ID"].clone()))
            .collect::<Result<_>>()?;
        eventually(&format!("tasks of {service} run as {counts:?}"), || {
            let tasks = self.manager().running_tasks(service)?;
            let on = |id: &Value| tasks.iter().filter(|task| task["NodeID"] == *id).count();
            let now: Vec<usize> = ids.iter().map(on).collect();
            if now != counts || tasks.len() != counts.iter().sum::<usize>() {
                bail!(
                    "they run as {now:?}:\n{}",
                    self.manager().cli_ok(&["service", "ps", "--no-trunc", service])?
                );
            }
            Ok(tasks)
        })
    }

    /// Sets the availability of a node.
    pub fn set_availability(&self, name: &str, availability: &str) -> Result<()> {
        let words = ["node", "update", "--availability", availability, name];
        self.manager().cli_ok(&words).map(drop)
    }

    /// A machine on the same network that is no node: 10.99.0.`number`.
    pub fn plug_in(&self, number: u8) -> Result<Host> {
        self.switch.plug_in(number)
    }

    /// Cuts a node off, or connects it again. Neither side is told: packets are lost.
    pub fn set_cable(&self, number: u8, connected: bool) -> Result<()> {
        self.switch.set_cable(number, connected)
    }
}

/// Body of a join as the stock command line sends it.
pub fn join_body(token: &str) -> Value {
    json!({
        "ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": "", "DataPathAddr": "", "RemoteAddrs": ["10.99.0.1:2377"],
        "JoinToken": token, "Availability": "active",
    })
}
