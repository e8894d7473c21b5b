//! `network`.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

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
    subnet: Vec<String>,
    /// IPv4 or IPv6 gateway for the subnet
    #[arg(long)]
    gateway: Vec<String>,
    /// Allocate container ip from a sub-range
    #[arg(long)]
    ip_range: Vec<String>,
    /// Enable IPv4 networking
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    ipv4: bool,
    /// Enable IPv6 networking
    #[arg(long)]
    ipv6: bool,
    /// Restrict external access to the network
    #[arg(long)]
    internal: bool,
    /// Enable manual container attachment
    #[arg(long)]
    attachable: bool,
    /// Create swarm routing-mesh network
    #[arg(long)]
    ingress: bool,
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
        let pools = pools(&self.subnet, &self.gateway, &self.ip_range)?;
        let body = json!({
            "Name": self.name, "Driver": self.driver, "Internal": self.internal, "Attachable": self.attachable,
            "Ingress": self.ingress, "EnableIPv4": self.ipv4, "EnableIPv6": self.ipv6, "Labels": run::labels(&self.label),
            "Options": run::labels(&self.opt), "IPAM": {"Config": pools},
        });
        println!("{}", text(&client.post("/networks/create", &body).await?["Id"]));
        Ok(())
    }
}

/// One pool for each subnet, with the gateway and the range that lie in it.
fn pools(subnets: &[String], gateways: &[String], ranges: &[String]) -> Result<Vec<Value>> {
    if subnets.is_empty() && gateways.is_empty() && ranges.is_empty() {
        return Ok(Vec::new());
    }
    let none = [String::new()];
    let subnets = if subnets.is_empty() { &none[..] } else { subnets };
    let (mut gateways, mut ranges) = (gateways.to_vec(), ranges.to_vec());
    let mut pools = Vec::new();
    for subnet in subnets {
        let (gateway, range) = (within(subnet, &mut gateways), within(subnet, &mut ranges));
        pools.push(json!({ "Subnet": subnet, "Gateway": gateway, "IPRange": range }));
    }
    match gateways.iter().chain(&ranges).next() {
        None => Ok(pools),
        Some(left) => bail!("no matching subnet for {left}"),
    }
}

/// Takes out what lies in the subnet. What cannot be read is the daemon's to refuse, where there is one subnet.
fn within(subnet: &str, texts: &mut Vec<String>) -> String {
    let net = subnet.parse::<ipnet::IpNet>();
    let inside = |text: &String| match (&net, text.split('/').next().map(str::parse::<std::net::IpAddr>)) {
        (Ok(net), Some(Ok(address))) => net.contains(&address),
        _ => true,
    };
    let found = texts.iter().position(inside);
    found.map(|at| texts.remove(at)).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subnet_gets_the_gateway_that_lies_in_it() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let subnets = texts(&["10.5.0.0/24", "fd00:5::/64"]);
        let got = pools(&subnets, &texts(&["fd00:5::9", "10.5.0.9"]), &[]).unwrap();
        assert_eq!(got[0]["Gateway"], "10.5.0.9");
        assert_eq!(got[1]["Gateway"], "fd00:5::9");
        assert!(pools(&subnets, &texts(&["10.6.0.1"]), &[]).is_err());
        assert_eq!(
            pools(&[], &texts(&["10.6.0.1"]), &[]).unwrap()[0]["Gateway"],
            "10.6.0.1"
        );
    }
}
