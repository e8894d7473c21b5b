//! `volume`.

use anyhow::Result;
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
    Ls(ListFlags),
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
            Self::Ls(list) => ls(client, list).await,
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
