//! `swarm` and `node`.

use anyhow::{Result, bail};
use clap::{ArgGroup, Args, Subcommand};
use proto::object::{Node, NodeState, Reachability, TlsInfo};
use serde_json::{Value, json};

use super::client::{Client, escape, filters, query};
use super::container::{each, flag, text};
use super::format::{ListFlags, Listing};
use super::swarm_ca::Ca;
use super::swarm_lock::UnlockKey;
use super::swarm_settings::Settings;
use super::{human, inspect, pretty_node, service, swarm_lock, task};

/// `swarm …`
#[derive(Debug, Subcommand)]
pub(crate) enum SwarmVerb {
    /// Initialize a swarm
    Init(Init),
    /// Join a swarm as a node
    Join(Join),
    /// Display and rotate the root CA
    Ca(Ca),
    /// Manage join tokens
    JoinToken(JoinToken),
    /// Leave the swarm
    Leave {
        /// Force this node to leave the swarm, ignoring warnings
        #[arg(short, long)]
        force: bool,
    },
    /// Spread services over the nodes again
    Rebalance(super::rebalance::Rebalance),
    /// Unlock swarm
    Unlock,
    /// Manage the unlock key
    UnlockKey(UnlockKey),
    /// Update the swarm
    Update(SwarmUpdate),
}

/// `swarm update`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("settings").required(true).multiple(true).args([
    "autolock", "cert_expiry", "dispatcher_heartbeat", "external_ca", "max_snapshots", "snapshot_interval",
    "task_history_limit",
]))]
pub(crate) struct SwarmUpdate {
    #[command(flatten)]
    settings: Settings,
}

/// `swarm init`
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Advertised address (format: "<ip|interface>[:port]")
    #[arg(long)]
    advertise_addr: Option<String>,
    /// Listen address (format: "<ip|interface>[:port]")
    #[arg(long, default_value = "0.0.0.0:2377")]
    listen_addr: String,
    /// Availability of the node ("active", "pause", "drain")
    #[arg(long, default_value = "active")]
    availability: String,
    /// Port number to use for data path traffic (1024 - 49151). If no value is set or is set to 0, the default port
    /// (4789) is used.
    #[arg(long)]
    data_path_port: Option<u32>,
    /// Address or interface to use for data path traffic (format: "<ip|interface>")
    #[arg(long, default_value = "")]
    data_path_addr: String,
    /// Force create a new cluster from current state
    #[arg(long)]
    force_new_cluster: bool,
    /// Default address pool in CIDR format
    #[arg(long)]
    default_addr_pool: Vec<String>,
    /// Default address pool subnet mask length
    #[arg(long)]
    default_addr_pool_mask_length: Option<u32>,
    #[command(flatten)]
    settings: Settings,
}

/// `swarm join`
#[derive(Debug, Args)]
pub(crate) struct Join {
    /// Advertised address (format: "<ip|interface>[:port]")
    #[arg(long, default_value = "")]
    advertise_addr: String,
    /// Availability of the node ("active", "pause", "drain")
    #[arg(long, default_value = "active")]
    availability: String,
    /// Address or interface to use for data path traffic (format: "<ip|interface>")
    #[arg(long, default_value = "")]
    data_path_addr: String,
    /// Listen address (format: "<ip|interface>[:port]")
    #[arg(long, default_value = "0.0.0.0:2377")]
    listen_addr: String,
    /// Token for entry into the swarm
    #[arg(long)]
    token: String,
    /// A manager of the swarm
    #[arg(value_name = "HOST:PORT")]
    remote: String,
}

/// `swarm join-token`
#[derive(Debug, Args)]
pub(crate) struct JoinToken {
    /// Only display token
    #[arg(short, long)]
    quiet: bool,
    /// Rotate join token
    #[arg(long)]
    rotate: bool,
    /// worker or manager
    role: String,
}

impl SwarmVerb {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        match self {
            Self::Init(init) => init.run(client).await,
            Self::Join(join) => join.run(client).await,
            Self::Ca(ca) => ca.run(client).await,
            Self::JoinToken(token) => token.run(client).await,
            Self::Rebalance(rebalance) => rebalance.run(client).await,
            Self::Unlock => swarm_lock::unlock(client).await,
            Self::UnlockKey(key) => key.run(client).await,
            Self::Update(update) => update.run(client).await,
            Self::Leave { force } => {
                client
                    .act(&format!("/swarm/leave{}", query(&[("force", flag(force))])))
                    .await?;
                println!("Node left the swarm.");
                Ok(())
            }
        }
    }
}

impl Init {
    async fn run(self, client: &Client) -> Result<()> {
        let mut body = json!({
            "ListenAddr": self.listen_addr, "AdvertiseAddr": self.advertise_addr.unwrap_or_default(),
            "DataPathAddr": self.data_path_addr, "DataPathPort": self.data_path_port.unwrap_or_default(),
            "ForceNewCluster": self.force_new_cluster, "Availability": self.availability, "Spec": {},
        });
        self.settings.apply(&mut body["Spec"])?;
        if !self.default_addr_pool.is_empty() {
            body["DefaultAddrPool"] = json!(self.default_addr_pool);
        }
        if let Some(length) = self.default_addr_pool_mask_length {
            body["SubnetSize"] = json!(length);
        }
        let node = client.post("/swarm/init", &body).await?;
        println!(
            "Swarm initialized: current node ({}) is now a manager.\n",
            text(&node)
        );
        println!("To add a worker to this swarm, run the following command:\n");
        println!("{}", join_command(client, "worker").await?);
        println!(
            "To add a manager to this swarm, run 'agent swarm join-token manager' and follow the instructions.\n"
        );
        if self.settings.autolock() == Some(true) {
            swarm_lock::show_key(client).await?;
        }
        Ok(())
    }
}

impl Join {
    async fn run(self, client: &Client) -> Result<()> {
        let body = json!({
            "ListenAddr": self.listen_addr, "AdvertiseAddr": self.advertise_addr, "DataPathAddr": self.data_path_addr,
            "RemoteAddrs": [self.remote], "JoinToken": self.token, "Availability": self.availability,
        });
        client.post("/swarm/join", &body).await?;
        let info = client.get("/info").await?;
        let role = match info["Swarm"]["ControlAvailable"] == true {
            true => "manager",
            false => "worker",
        };
        println!("This node joined a swarm as a {role}.");
        Ok(())
    }
}

impl SwarmUpdate {
    async fn run(self, client: &Client) -> Result<()> {
        let swarm = client.get("/swarm").await?;
        let mut spec = swarm["Spec"].clone();
        let locked = spec["EncryptionConfig"]["AutoLockManagers"] == true;
        self.settings.apply(&mut spec)?;
        let path = format!("/swarm/update?version={}", swarm["Version"]["Index"]);
        client.post(&path, &spec).await?;
        println!("Swarm updated.");
        if !locked && self.settings.autolock() == Some(true) {
            println!();
            swarm_lock::show_key(client).await?;
        }
        Ok(())
    }
}

impl JoinToken {
    async fn run(self, client: &Client) -> Result<()> {
        let key = match self.role.as_str() {
            "worker" => "Worker",
            "manager" => "Manager",
            other => bail!("unknown role {other:?}: worker or manager"),
        };
        if self.rotate {
            let swarm = client.get("/swarm").await?;
            let version = swarm["Version"]["Index"].to_string();
            let query = query(&[("version", &version), (&format!("rotate{key}Token"), "true")]);
            client
                .post(&format!("/swarm/update{query}"), &swarm["Spec"])
                .await?;
            if !self.quiet {
                println!("Successfully rotated {} join token.\n", self.role);
            }
        }
        if self.quiet {
            println!("{}", text(&client.get("/swarm").await?["JoinTokens"][key]));
            return Ok(());
        }
        let command = join_command(client, &self.role).await?;
        println!(
            "To add a {} to this swarm, run the following command:\n\n{command}",
            self.role
        );
        Ok(())
    }
}

async fn join_command(client: &Client, role: &str) -> Result<String> {
    let swarm = client.get("/swarm").await?;
    let info = client.get("/info").await?;
    let address = info["Swarm"]["RemoteManagers"][0]["Addr"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let key = if role == "manager" { "Manager" } else { "Worker" };
    let token = text(&swarm["JoinTokens"][key]);
    Ok(format!("    agent swarm join --token {token} {address}\n"))
}

/// `node …`
#[derive(Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// List nodes in the swarm
    #[command(visible_alias = "list")]
    Ls(ListFlags),
    /// Display detailed information on one or more nodes
    Inspect {
        /// Print the information in a human friendly format
        #[arg(long, conflicts_with = "format")]
        pretty: bool,
        #[command(flatten)]
        names: inspect::Names,
    },
    /// List tasks running on one or more nodes, defaults to current node
    Ps(NodePs),
    /// Demote one or more nodes from manager in the swarm
    Demote {
        #[arg(required = true, value_name = "NODE")]
        names: Vec<String>,
    },
    /// Promote one or more nodes to manager in the swarm
    Promote {
        #[arg(required = true, value_name = "NODE")]
        names: Vec<String>,
    },
    /// Update a node
    Update(Update),
    /// Remove one or more nodes from the swarm
    #[command(visible_alias = "remove")]
    Rm {
        /// Force remove a node from the swarm
        #[arg(short, long)]
        force: bool,
        #[arg(required = true, value_name = "NODE")]
        names: Vec<String>,
    },
}

/// `node ps`
#[derive(Debug, Args)]
pub(crate) struct NodePs {
    #[command(flatten)]
    options: task::Options,
    #[arg(value_name = "NODE", default_value = "self")]
    names: Vec<String>,
}

/// `node update`
#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Availability of the node ("active", "pause", "drain")
    #[arg(long)]
    availability: Option<String>,
    /// Add or update a node label ("key=value")
    #[arg(long)]
    label_add: Vec<String>,
    /// Remove a node label if exists
    #[arg(long)]
    label_rm: Vec<String>,
    /// Role of the node ("worker", "manager")
    #[arg(long)]
    role: Option<String>,
    name: String,
}

impl NodeVerb {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        match self {
            Self::Demote { names } => change_role(client, &names, "worker").await,
            Self::Promote { names } => change_role(client, &names, "manager").await,
            Self::Ls(list) => ls(client, list).await,
            Self::Inspect { pretty: true, names } => pretty(client, names.names()).await,
            Self::Inspect { names, .. } => names.run(client, "nodes", "").await,
            Self::Ps(ps) => ps.run(client).await,
            Self::Update(update) => update.run(client).await,
            Self::Rm { force, names } => {
                let query = query(&[("force", flag(force))]);
                each(&names, |name| {
                    let path = format!("/nodes/{}{query}", escape(&name));
                    async move { client.delete(&path).await.map(drop) }
                })
                .await
            }
        }
    }
}

async fn pretty(client: &Client, names: &[String]) -> Result<()> {
    for name in names {
        let path = format!("/nodes/{}", escape(&node_name(client, name).await?));
        let view = client.get(&path).await?;
        println!("{}", pretty_node::node(&serde_json::from_value(view.clone())?));
        for bound in view["BoundVolumes"].as_array().into_iter().flatten() {
            let (volume, service) = (text(&bound["Volume"]), text(&bound["Service"]));
            println!("Bound Volume:\t\t{volume} (service {service})");
        }
    }
    Ok(())
}

/// `self` is the node of the agent that is asked.
async fn node_name(client: &Client, name: &str) -> Result<String> {
    if name != "self" {
        return Ok(name.to_owned());
    }
    let own = text(&client.get("/info").await?["Swarm"]["NodeID"]);
    if own.is_empty() {
        bail!("this node is not part of a swarm");
    }
    Ok(own)
}

async fn change_role(client: &Client, names: &[String], role: &str) -> Result<()> {
    for name in names {
        let node = client.get(&format!("/nodes/{}", escape(name))).await?;
        let mut spec = node["Spec"].clone();
        if spec["Role"] == role {
            println!("Node {name} is already a {role}.");
            continue;
        }
        spec["Role"] = json!(role);
        let path = format!(
            "/nodes/{}/update?version={}",
            text(&node["ID"]),
            node["Version"]["Index"]
        );
        client.post(&path, &spec).await?;
        match role {
            "manager" => println!("Node {name} promoted to a manager in the swarm."),
            _ => println!("Manager {name} demoted in the swarm."),
        }
    }
    Ok(())
}

async fn ls(client: &Client, flags: ListFlags) -> Result<()> {
    let mut nodes: Vec<Node> = client
        .fetch(&format!(
            "/nodes{}",
            query(&[("filters", &filters(&flags.filter, &[])?)])
        ))
        .await?;
    nodes.sort_by(|one, two| human::natural(&one.description.hostname, &two.description.hostname));
    let swarm = client.get("/info").await?["Swarm"].clone();
    let own = text(&swarm["NodeID"]);
    let mut listing = Listing::new(&[
        ("ID", "ID"),
        ("Hostname", "HOSTNAME"),
        ("Status", "STATUS"),
        ("Availability", "AVAILABILITY"),
        ("ManagerStatus", "MANAGER STATUS"),
        ("EngineVersion", "ENGINE VERSION"),
    ])
    .more(&[("Self", "SELF"), ("TLSStatus", "TLS STATUS")]);
    for node in &nodes {
        let marked = node.id.as_str() == own
            && !flags.quiet
            && flags
                .format
                .as_ref()
                .is_none_or(|format| format.starts_with("table"));
        let id = if marked {
            format!("{} *", node.id)
        } else {
            node.id.to_string()
        };
        let status = match node.status.state {
            NodeState::Ready => "Ready",
            NodeState::Down => "Down",
            NodeState::Disconnected => "Disconnected",
            NodeState::Unknown => "Unknown",
        };
        let manager = match &node.manager_status {
            None => String::new(),
            Some(status) if status.leader => "Leader".to_owned(),
            Some(status) if status.reachability == Reachability::Reachable => "Reachable".to_owned(),
            Some(_) => "Unreachable".to_owned(),
        };
        let cells = [
            id,
            node.description.hostname.clone(),
            status.to_owned(),
            service::capitalised(node.spec.availability.as_str()),
            manager,
            node.description.engine.engine_version.clone(),
            (node.id.as_str() == own).to_string(),
            tls_status(node, &swarm["Cluster"]["TLSInfo"])?.to_owned(),
        ];
        listing.row(cells);
    }
    listing.print(&flags)
}

/// Whether a node's certificate is as the cluster wants it.
fn tls_status(node: &Node, cluster: &Value) -> Result<&'static str> {
    let shown = &node.description.tls_info;
    let wanted: Option<TlsInfo> = serde_json::from_value(cluster.clone())?;
    Ok(match wanted {
        Some(wanted) if *shown == wanted && wanted != TlsInfo::default() => "Ready",
        Some(wanted) if *shown != TlsInfo::default() && wanted != TlsInfo::default() => "Needs Rotation",
        _ => "Unknown",
    })
}

impl NodePs {
    async fn run(self, client: &Client) -> Result<()> {
        let mut ids = Vec::new();
        for name in &self.names {
            let id = if name == "self" {
                text(&client.get("/info").await?["Swarm"]["NodeID"])
            } else {
                text(&client.get(&format!("/nodes/{}", escape(name))).await?["ID"])
            };
            if id.is_empty() {
                bail!("this node is not part of a swarm");
            }
            ids.push(id);
        }
        let fixed: Vec<_> = ids.iter().map(|id| ("node", id.as_str())).collect();
        self.options.print(client, &fixed).await
    }
}

impl Update {
    async fn run(self, client: &Client) -> Result<()> {
        let node = client.get(&format!("/nodes/{}", escape(&self.name))).await?;
        let mut spec = node["Spec"].clone();
        if let Some(availability) = &self.availability {
            spec["Availability"] = json!(availability);
        }
        if let Some(role) = &self.role {
            spec["Role"] = json!(role);
        }
        if !spec["Labels"].is_object() {
            spec["Labels"] = json!({});
        }
        for (key, value) in super::run::labels(&self.label_add) {
            spec["Labels"][key] = Value::String(value);
        }
        if let Some(labels) = spec["Labels"].as_object_mut() {
            labels.retain(|key, _| !self.label_rm.contains(key));
        }
        let path = format!(
            "/nodes/{}/update?version={}",
            text(&node["ID"]),
            node["Version"]["Index"]
        );
        let updated = client.post(&path, &spec).await?;
        for warning in updated["Warnings"].as_array().into_iter().flatten() {
            eprintln!("WARNING: {}", text(warning));
        }
        println!("{}", self.name);
        Ok(())
    }
}
