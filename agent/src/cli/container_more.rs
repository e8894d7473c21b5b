//! `container`, and the verbs on containers that are needed less often: attach, start, rename, port, diff, prune.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, escape, filters, query};
use super::container::{Kill, Logs, Names, Ps, Rm, Stop, Top, host_port, text};
use super::exec::Exec;
use super::run::{self, Joined};
use super::{human, inspect, terminal};

/// `container …`: the same verbs as without it.
#[derive(Debug, Subcommand)]
pub(crate) enum ContainerVerb {
    /// Create and run a new container from an image
    Run(Box<New>),
    /// Create a new container
    Create(Box<New>),
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(Ps),
    /// Display detailed information on one or more containers
    Inspect(inspect::Names),
    /// Fetch the logs of a container
    Logs(Logs),
    /// Execute a command in a running container
    Exec(Exec),
    /// Start one or more stopped containers
    Start(Start),
    /// Stop one or more running containers
    Stop(Stop),
    /// Restart one or more containers
    Restart(Stop),
    /// Kill one or more running containers
    Kill(Kill),
    /// Remove one or more containers
    #[command(visible_alias = "remove")]
    Rm(Rm),
    /// Block until one or more containers stop, then print their exit codes
    Wait(Names),
    /// Display the running processes of a container
    Top(Top),
    /// Attach local standard input, output, and error streams to a running container
    Attach(Attach),
    /// Rename a container
    Rename(Rename),
    /// List port mappings or a specific mapping for the container
    Port(Port),
    /// Inspect changes to files or directories on a container's filesystem
    Diff(Diff),
    /// Remove all stopped containers
    Prune(Prune),
}

impl ContainerVerb {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        match self {
            Self::Run(new) => {
                let (flags, image, command) = new.parts()?;
                run::run(client, flags, image, command).await
            }
            Self::Create(new) => {
                let (flags, image, command) = new.parts()?;
                run::create(client, flags, image, command).await
            }
            Self::Ls(ps) => ps.run(client).await,
            Self::Inspect(names) => names.run(client, "containers", "/json").await,
            Self::Logs(logs) => logs.run(client).await,
            Self::Exec(exec) => exec.run(client).await,
            Self::Start(start) => start.run(client).await,
            Self::Stop(stop) => stop.run(client, "stop").await,
            Self::Restart(stop) => stop.run(client, "restart").await,
            Self::Kill(kill) => kill.run(client).await,
            Self::Rm(rm) => rm.run(client).await,
            Self::Wait(names) => super::container::wait(client, names).await,
            Self::Top(top) => top.run(client).await,
            Self::Attach(attach) => attach.run(client).await,
            Self::Rename(rename) => rename.run(client).await,
            Self::Port(port) => port.run(client).await,
            Self::Diff(diff) => diff.run(client).await,
            Self::Prune(prune) => prune.run(client).await,
        }
    }
}

/// `create`, `container run`
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct New {
    #[command(flatten)]
    flags: run::ContainerFlags,
    /// Image, and the command in it with its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "IMAGE [COMMAND [ARG...]]"
    )]
    words: Vec<String>,
}

impl New {
    pub(crate) fn parts(self) -> Result<(run::ContainerFlags, String, Vec<String>)> {
        let (image, command) = super::image_and_command(self.words)?;
        Ok((self.flags, image, command))
    }
}

/// `start`
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Attach STDOUT/STDERR and forward signals
    #[arg(short, long)]
    attach: bool,
    /// Attach container's STDIN
    #[arg(short, long)]
    interactive: bool,
    #[command(flatten)]
    containers: Names,
}

impl Start {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        if !self.attach && !self.interactive {
            return super::container::start(client, self.containers).await;
        }
        let [name] = &self.containers.names[..] else {
            bail!("you cannot start and attach multiple containers at once");
        };
        let container = client.get(&format!("/containers/{}/json", escape(name))).await?;
        if container["State"]["Running"] == true {
            bail!("container {name} runs already: use attach");
        }
        joined(client, &container, self.interactive).await
    }
}

/// `attach`
#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// Do not attach STDIN
    #[arg(long)]
    no_stdin: bool,
    #[arg(value_name = "CONTAINER")]
    container: String,
}

impl Attach {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let container = client
            .get(&format!("/containers/{}/json", escape(&self.container)))
            .await?;
        if container["State"]["Running"] != true {
            bail!("You cannot attach to a stopped container, start it first");
        }
        joined(client, &container, !self.no_stdin).await
    }
}

async fn joined(client: &Client, container: &Value, stdin: bool) -> Result<()> {
    let set = |field: &str| container["Config"][field].as_bool().unwrap_or_default();
    let joined = Joined {
        interactive: stdin && set("OpenStdin"),
        tty: set("Tty"),
        removed: container["HostConfig"]["AutoRemove"] == true,
        running: container["State"]["Running"] == true,
    };
    terminal::require(joined.tty, joined.interactive)?;
    match run::join(client, &text(&container["Id"]), joined).await? {
        0 => Ok(()),
        code => Err(super::Silent(code).into()),
    }
}

/// `rename`
#[derive(Debug, Args)]
pub(crate) struct Rename {
    #[arg(value_name = "CONTAINER")]
    container: String,
    #[arg(value_name = "NEW_NAME")]
    name: String,
}

impl Rename {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let query = query(&[("name", &self.name)]);
        client
            .act(&format!("/containers/{}/rename{query}", escape(&self.container)))
            .await
            .map(drop)
    }
}

/// `port`
#[derive(Debug, Args)]
pub(crate) struct Port {
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// One port of the container, such as 80 or 53/udp
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    port: Option<String>,
}

impl Port {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let container = client
            .get(&format!("/containers/{}/json", escape(&self.container)))
            .await?;
        let wanted = self.port.as_ref().map(|port| {
            if port.contains('/') {
                port.clone()
            } else {
                format!("{port}/tcp")
            }
        });
        let mut lines = Vec::new();
        for (port, bindings) in container["NetworkSettings"]["Ports"]
            .as_object()
            .into_iter()
            .flatten()
        {
            for binding in bindings.as_array().into_iter().flatten() {
                let address = host_port(&text(&binding["HostIp"]), text(&binding["HostPort"]));
                match &wanted {
                    None => lines.push(format!("{port} -> {address}")),
                    Some(wanted) if wanted == port => lines.push(address),
                    Some(_) => {}
                }
            }
        }
        if let (Some(wanted), true) = (&wanted, lines.is_empty()) {
            bail!("no public port '{wanted}' published for {}", self.container);
        }
        lines.iter().for_each(|line| println!("{line}"));
        Ok(())
    }
}

/// `diff`
#[derive(Debug, Args)]
pub(crate) struct Diff {
    #[arg(value_name = "CONTAINER")]
    container: String,
}

impl Diff {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let changes = client
            .get(&format!("/containers/{}/changes", escape(&self.container)))
            .await?;
        for change in changes.as_array().into_iter().flatten() {
            let kind = match change["Kind"].as_u64() {
                Some(0) => "C",
                Some(1) => "A",
                _ => "D",
            };
            println!("{kind} {}", text(&change["Path"]));
        }
        Ok(())
    }
}

/// `container prune`
#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
    /// Provide filter values (e.g. "until=<timestamp>")
    #[arg(long)]
    filter: Vec<String>,
}

impl Prune {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        super::confirm("This will remove all stopped containers.", self.force)?;
        let freed = prune_containers(client, &filters(&self.filter, &[])?).await?;
        println!("Total reclaimed space: {}", human::sum(freed));
        Ok(())
    }
}

/// Removes what is stopped and names it; the bytes that came free.
pub(crate) async fn prune_containers(client: &Client, filters: &str) -> Result<i64> {
    prune(
        client,
        "containers",
        filters,
        "ContainersDeleted",
        "Deleted Containers",
    )
    .await
}

/// Removes what is unused of a kind, as `prune` of the kind does; the bytes that came free.
pub(crate) async fn prune(
    client: &Client,
    kind: &str,
    filters: &str,
    field: &str,
    title: &str,
) -> Result<i64> {
    let answer = client
        .act(&format!("/{kind}/prune{}", query(&[("filters", filters)])))
        .await?;
    let deleted: Vec<_> = answer[field].as_array().into_iter().flatten().map(text).collect();
    if !deleted.is_empty() {
        println!("{title}:\n{}\n", deleted.join("\n"));
    }
    Ok(answer["SpaceReclaimed"].as_i64().unwrap_or_default())
}

/// `system …`
#[derive(Debug, Subcommand)]
pub(crate) enum SystemVerb {
    /// Show disk usage
    Df,
    /// Display system-wide information
    Info(super::system::Info),
    /// Get real time events from the server
    Events(super::system::Events),
    /// Remove unused data
    Prune {
        /// Remove all unused images, not just dangling ones
        #[arg(short, long)]
        all: bool,
        /// Prune anonymous volumes
        #[arg(long)]
        volumes: bool,
        /// Do not prompt for confirmation
        #[arg(short, long)]
        force: bool,
    },
}

impl SystemVerb {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        match self {
            Self::Df => super::system::df(client).await,
            Self::Info(info) => info.run(client).await,
            Self::Events(events) => events.run(client).await,
            Self::Prune { all, volumes, force } => system_prune(client, all, volumes, force).await,
        }
    }
}

async fn system_prune(client: &Client, all: bool, volumes: bool, force: bool) -> Result<()> {
    super::confirm(
        "This will remove stopped containers, unused networks and unused images.",
        force,
    )?;
    let mut freed = prune_containers(client, "").await?;
    prune(client, "networks", "", "NetworksDeleted", "Deleted Networks").await?;
    if volumes {
        freed += prune(client, "volumes", "", "VolumesDeleted", "Deleted Volumes").await?;
    }
    let dangling = json!({"dangling": [if all { "false" } else { "true" }]}).to_string();
    freed += super::image::prune_images(client, &dangling).await?;
    println!("Total reclaimed space: {}", human::sum(freed));
    Ok(())
}

/// `network connect`
#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// IPv4 address (e.g., "172.30.100.104")
    #[arg(long)]
    ip: Option<String>,
    /// IPv6 address (e.g., "2001:db8::33")
    #[arg(long)]
    ip6: Option<String>,
    /// Add network-scoped alias for the container
    #[arg(long)]
    alias: Vec<String>,
    #[arg(value_name = "NETWORK")]
    network: String,
    #[arg(value_name = "CONTAINER")]
    container: String,
}

impl Connect {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let body = json!({"Container": self.container, "EndpointConfig": {
            "Aliases": self.alias, "IPAMConfig": super::networks::addresses(self.ip.as_deref(), self.ip6.as_deref()),
        }});
        client
            .post(&format!("/networks/{}/connect", escape(&self.network)), &body)
            .await
            .map(drop)
    }
}

/// `network disconnect`
#[derive(Debug, Args)]
pub(crate) struct Disconnect {
    /// Force the container to disconnect from a network
    #[arg(short, long)]
    force: bool,
    #[arg(value_name = "NETWORK")]
    network: String,
    #[arg(value_name = "CONTAINER")]
    container: String,
}

impl Disconnect {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let body = json!({"Container": self.container, "Force": self.force});
        client
            .post(&format!("/networks/{}/disconnect", escape(&self.network)), &body)
            .await
            .map(drop)
    }
}
