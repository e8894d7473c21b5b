//! `network`.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use super::client::{Client, escape, filters, query};
use super::container::{each, labels, text};
use super::container_more::{Connect, Disconnect, prune};
use super::format::{ListFlags, Listing};
use super::{human, inspect, run};

/// `network …`
#[derive(Debug, Subcommand)]
pub(crate) enum NetworkVerb {
    /// Create a network
    Create(Create),
    /// List networks
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        list: ListFlags,
        /// Do not truncate the output
        #[arg(long)]
        no_trunc: bool,
    },
    /// Display detailed information on one or more networks
    Inspect {
        #[command(flatten)]
        names: inspect::Names,
        /// Verbose output for diagnostics
        #[arg(short, long)]
        verbose: bool,
    },
    /// Remove one or more networks
    #[command(visible_alias = "remove")]
    Rm {
        #[arg(required = true, value_name = "NETWORK")]
        names: Vec<String>,
    },
    /// Connect a container to a network
    Connect(Connect),
    /// Disconnect a container from a network
    Disconnect(Disconnect),
    /// Remove all unused networks
    Prune {
        /// Do not prompt for confirmation
        #[arg(short, long)]
        force: bool,
    },
}

/// `network create`
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Driver to manage the Network
    #[arg(short, long, default_value = "bridge")]
    driver: String,
    /// Subnet in CIDR format that represents a network segment
    #[arg(long)]
    subnet: Option<String>,
    /// IPv4 Gateway for the subnet
    #[arg(long)]
    gateway: Option<String>,
    /// Allocate container ip from a sub-range
    #[arg(long)]
    ip_range: Option<String>,
    /// Restrict external access to the network
    #[arg(long)]
    internal: bool,
    /// Enable manual container attachment
    #[arg(long)]
    attachable: bool,
    /// Set metadata on a network
    #[arg(long)]
    label: Vec<String>,
    /// Set driver specific options
    #[arg(short, long)]
    opt: Vec<String>,
    /// Its name
    name: String,
}

impl NetworkVerb {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        match self {
            Self::Create(create) => create.run(client).await,
            Self::Ls { list, no_trunc } => ls(client, list, no_trunc).await,
            Self::Inspect { names, verbose } => {
                let suffix = if verbose { "?verbose=true" } else { "" };
                names.run(client, "networks", suffix).await
            }
            Self::Connect(connect) => connect.run(client).await,
            Self::Disconnect(disconnect) => disconnect.run(client).await,
            Self::Prune { force } => {
                super::confirm(
                    "This will remove all custom networks not used by at least one container.",
                    force,
                )?;
                prune(client, "networks", "", "NetworksDeleted", "Deleted Networks")
                    .await
                    .map(drop)
            }
            Self::Rm { names } => {
                each(&names, |name| {
                    let path = format!("/networks/{}", escape(&name));
                    async move { client.delete(&path).await.map(drop) }
                })
                .await
            }
        }
    }
}

impl Create {
    async fn run(self, client: &Client) -> Result<()> {
        let pool = json!({
            "Subnet": self.subnet.clone().unwrap_or_default(),
            "Gateway": self.gateway.clone().unwrap_or_default(),
            "IPRange": self.ip_range.clone().unwrap_or_default(),
        });
        let pools = if self.subnet.is_some() || self.gateway.is_some() || self.ip_range.is_some() {
            vec![pool]
        } else {
            vec![]
        };
        let body = json!({
            "Name": self.name, "Driver": self.driver, "Internal": self.internal, "Attachable": self.attachable,
            "Labels": run::labels(&self.label), "Options": run::labels(&self.opt), "IPAM": {"Config": pools},
        });
        println!("{}", text(&client.post("/networks/create", &body).await?["Id"]));
        Ok(())
    }
}

async fn ls(client: &Client, flags: ListFlags, no_trunc: bool) -> Result<()> {
    let list = client
        .get(&format!(
            "/networks{}",
            query(&[("filters", &filters(&flags.filter, &[])?)])
        ))
        .await?;
    let mut networks = list.as_array().cloned().unwrap_or_default();
    networks.sort_by(|one, other| human::natural(&text(&one["Name"]), &text(&other["Name"])));
    let mut listing = Listing::new(&[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
    ])
    .more(&[("IPv4", "IPV4"), ("IPv6", "IPV6"), ("Internal", "INTERNAL")])
    .more(&[("Labels", "LABELS"), ("CreatedAt", "CREATED AT")]);
    for network in &networks {
        let id = text(&network["Id"]);
        let id = match no_trunc {
            true => id,
            false => human::short(&id).to_owned(),
        };
        let is = |field: &str, otherwise| network[field].as_bool().unwrap_or(otherwise).to_string();
        listing.row([
            id,
            text(&network["Name"]),
            text(&network["Driver"]),
            text(&network["Scope"]),
            is("EnableIPv4", true),
            is("EnableIPv6", false),
            is("Internal", false),
            labels(&network["Labels"]),
            human::moment_of(&network["Created"]),
        ]);
    }
    listing.print(&flags)
}
