//! `volume`.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use super::client::{Client, escape, filters, query};
use super::container::{each, flag, labels, text};
use super::format::{ListFlags, Listing};
use super::{human, inspect, run};

/// `volume …`
#[derive(Debug, Subcommand)]
pub(crate) enum VolumeVerb {
    /// Create a volume
    Create(Create),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Move a volume, and the tasks that use it, to another node of the swarm
    Mv {
        /// Node that has the volume, where several have one of this name
        #[arg(long, value_name = "NODE")]
        from: Option<String>,
        #[arg(value_name = "VOLUME")]
        volume: String,
        #[arg(value_name = "NODE")]
        to: String,
    },
    /// Display detailed information on one or more volumes
    Inspect(inspect::Names),
    /// Remove one or more volumes
    #[command(visible_alias = "remove")]
    Rm {
        /// Force the removal of one or more volumes
        #[arg(short, long)]
        force: bool,
        #[arg(required = true, value_name = "VOLUME")]
        names: Vec<String>,
    },
    /// Remove unused local volumes
    Prune {
        /// Remove all unused volumes, not just anonymous ones
        #[arg(short, long)]
        all: bool,
        /// Do not prompt for confirmation
        #[arg(short, long)]
        force: bool,
    },
}

/// `volume ls`
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Show the named volumes of all nodes of the swarm
    #[arg(long)]
    cluster: bool,
    #[command(flatten)]
    list: ListFlags,
}

/// `volume create`
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Specify volume driver name
    #[arg(short, long, default_value = "local")]
    driver: String,
    /// Set driver specific options
    #[arg(short, long)]
    opt: Vec<String>,
    /// Set metadata for a volume
    #[arg(long)]
    label: Vec<String>,
    /// Name; chosen if it is left out
    name: Option<String>,
}

impl VolumeVerb {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        match self {
            Self::Create(create) => {
                let body = json!({
                    "Name": create.name.unwrap_or_default(), "Driver": create.driver,
                    "DriverOpts": run::labels(&create.opt), "Labels": run::labels(&create.label),
                });
                println!("{}", text(&client.post("/volumes/create", &body).await?["Name"]));
                Ok(())
            }
            Self::Ls(Ls { cluster: true, list }) => of_cluster(client, list).await,
            Self::Ls(Ls { list, .. }) => ls(client, list).await,
            Self::Mv { from, volume, to } => {
                let from = from.unwrap_or_default();
                let query = query(&[("to", to.as_str()), ("from", from.as_str())]);
                let path = format!("/volumes/{}/move{query}", escape(&volume));
                let moved = client.post(&path, &json!({})).await?;
                if let Some(error) = moved["error"].as_str() {
                    bail!("{error}");
                }
                for warning in moved["Warnings"].as_array().into_iter().flatten() {
                    eprintln!("WARNING: {}", text(warning));
                }
                println!("{volume}");
                Ok(())
            }
            Self::Inspect(names) => names.run(client, "volumes", "").await,
            Self::Rm { force, names } => {
                let query = query(&[("force", flag(force))]);
                each(&names, |name| {
                    let path = format!("/volumes/{}{query}", escape(&name));
                    async move { client.delete(&path).await.map(drop) }
                })
                .await
            }
            Self::Prune { all, force } => prune(client, all, force).await,
        }
    }
}

async fn ls(client: &Client, flags: ListFlags) -> Result<()> {
    let answer = client
        .get(&format!(
            "/volumes{}",
            query(&[("filters", &filters(&flags.filter, &[])?)])
        ))
        .await?;
    let mut volumes: Vec<_> = answer["Volumes"].as_array().into_iter().flatten().collect();
    volumes.sort_by(|one, other| human::natural(&text(&one["Name"]), &text(&other["Name"])));
    let mut listing = Listing::new(&[("Driver", "DRIVER"), ("Name", "VOLUME NAME")])
        .more(&[
            ("Mountpoint", "MOUNTPOINT"),
            ("Scope", "SCOPE"),
            ("Labels", "LABELS"),
        ])
        // What a list of volumes does not know.
        .more(&[("Size", "SIZE"), ("Links", "LINKS")])
        .more(&[
            ("Availability", "AVAILABILITY"),
            ("Group", "GROUP"),
            ("Status", "STATUS"),
        ]);
    for volume in volumes {
        let known = ["Driver", "Name", "Mountpoint", "Scope"].map(|field| text(&volume[field]));
        let unknown = std::iter::repeat_n("N/A".to_owned(), 5);
        listing.row(
            known
                .into_iter()
                .chain([labels(&volume["Labels"])])
                .chain(unknown),
        );
    }
    listing.print(&flags)
}

/// The named volumes of all nodes, as the managers know them.
async fn of_cluster(client: &Client, flags: ListFlags) -> Result<()> {
    if !flags.filter.is_empty() {
        bail!("--filter is not built yet together with --cluster");
    }
    let nodes = client.get("/nodes").await?;
    let mut rows: Vec<[String; 2]> = Vec::new();
    for node in nodes.as_array().into_iter().flatten() {
        let description = &node["Description"];
        let volumes = description["Volumes"].as_array().into_iter().flatten();
        rows.extend(volumes.map(|name| [text(name), text(&description["Hostname"])]));
    }
    rows.sort_by(|one, other| {
        human::natural(&one[0], &other[0]).then_with(|| human::natural(&one[1], &other[1]))
    });
    let mut listing = Listing::new(&[("Driver", "DRIVER"), ("Name", "VOLUME NAME"), ("Node", "NODE")]);
    for [name, node] in rows {
        listing.row(["local".to_owned(), name, node]);
    }
    listing.print(&flags)
}

async fn prune(client: &Client, all: bool, force: bool) -> Result<()> {
    super::confirm(
        "This will remove local volumes not used by at least one container.",
        force,
    )?;
    let filters = if all {
        json!({"all": ["true"]}).to_string()
    } else {
        String::new()
    };
    let answer = client
        .act(&format!("/volumes/prune{}", query(&[("filters", &filters)])))
        .await?;
    let deleted: Vec<_> = answer["VolumesDeleted"]
        .as_array()
        .into_iter()
        .flatten()
        .map(text)
        .collect();
    if !deleted.is_empty() {
        println!("Deleted Volumes:\n{}\n", deleted.join("\n"));
    }
    println!(
        "Total reclaimed space: {}",
        human::sum(answer["SpaceReclaimed"].as_i64().unwrap_or_default())
    );
    Ok(())
}
