//! `secret` and `config`: the same verbs on two kinds of content.

use std::io::Read;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, escape, filters, query};
use super::container::{each, labels, text};
use super::format::{ListFlags, Listing};
use super::{human, inspect, pretty_content, run};

/// `secret …`, `config …`
#[derive(Debug, Subcommand)]
pub(crate) enum ContentVerb {
    /// Create from a file or STDIN as content
    Create(Create),
    /// List
    #[command(visible_alias = "list")]
    Ls(ListFlags),
    /// Display detailed information on one or more
    Inspect {
        /// Print the information in a human friendly format
        #[arg(long, conflicts_with = "format")]
        pretty: bool,
        #[command(flatten)]
        names: inspect::Names,
    },
    /// Remove one or more
    #[command(visible_alias = "remove")]
    Rm {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

/// `secret create`, `config create`
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Labels
    #[arg(short, long)]
    label: Vec<String>,
    /// Template driver
    #[arg(long)]
    template_driver: Option<String>,
    /// Its name
    name: String,
    /// File, or - for STDIN
    file: String,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Secret,
    Config,
}

impl Kind {
    const fn path(self) -> &'static str {
        match self {
            Self::Secret => "secrets",
            Self::Config => "configs",
        }
    }
}

impl ContentVerb {
    pub(crate) async fn run(self, client: &Client, kind: Kind) -> Result<()> {
        match self {
            Self::Create(create) => create.run(client, kind).await,
            Self::Ls(list) => ls(client, kind, list).await,
            Self::Inspect { pretty: true, names } => pretty(client, kind, names.names()).await,
            Self::Inspect { names, .. } => names.run(client, kind.path(), "").await,
            Self::Rm { names } => {
                each(&names, |name| {
                    let path = format!("/{}/{}", kind.path(), escape(&name));
                    async move { client.delete(&path).await.map(drop) }
                })
                .await
            }
        }
    }
}

impl Create {
    async fn run(self, client: &Client, kind: Kind) -> Result<()> {
        let mut data = Vec::new();
        if self.file == "-" {
            std::io::stdin()
                .read_to_end(&mut data)
                .context("read standard input")?;
        } else {
            data = std::fs::read(&self.file).with_context(|| format!("read {}", self.file))?;
        }
        let mut body =
            json!({"Name": self.name, "Labels": run::labels(&self.label), "Data": STANDARD.encode(data)});
        if let Some(driver) = &self.template_driver {
            body["Templating"] = json!({"Name": driver});
        }
        println!(
            "{}",
            text(&client.post(&format!("/{}/create", kind.path()), &body).await?["ID"])
        );
        Ok(())
    }
}

async fn pretty(client: &Client, kind: Kind, names: &[String]) -> Result<()> {
    for name in names {
        let path = format!("/{}/{}", kind.path(), escape(name));
        let text = match kind {
            Kind::Secret => pretty_content::secret(&client.fetch(&path).await?),
            Kind::Config => pretty_content::config(&client.fetch(&path).await?),
        };
        println!("{text}");
    }
    Ok(())
}

async fn ls(client: &Client, kind: Kind, flags: ListFlags) -> Result<()> {
    let list = client
        .get(&format!(
            "/{}{}",
            kind.path(),
            query(&[("filters", &filters(&flags.filter, &[])?)])
        ))
        .await?;
    let mut listing = Listing::new(match kind {
        Kind::Secret => &[
            ("ID", "ID"),
            ("Name", "NAME"),
            ("Driver", "DRIVER"),
            ("CreatedAt", "CREATED"),
            ("UpdatedAt", "UPDATED"),
        ],
        Kind::Config => &[
            ("ID", "ID"),
            ("Name", "NAME"),
            ("CreatedAt", "CREATED"),
            ("UpdatedAt", "UPDATED"),
        ],
    })
    .more(&[("Labels", "LABELS")]);
    let mut list: Vec<_> = list.as_array().into_iter().flatten().collect();
    let name = |object: &Value| text(&object["Spec"]["Name"]);
    list.sort_by(|one, two| human::natural(&name(one), &name(two)));
    for object in list {
        let id = text(&object["ID"]);
        let mut row = vec![id, text(&object["Spec"]["Name"])];
        if kind == Kind::Secret {
            row.push(text(&object["Spec"]["Driver"]["Name"]));
        }
        row.extend([
            human::ago_of(&object["CreatedAt"]),
            human::ago_of(&object["UpdatedAt"]),
            labels(&object["Spec"]["Labels"]),
        ]);
        listing.row(row);
    }
    listing.print(&flags)
}
