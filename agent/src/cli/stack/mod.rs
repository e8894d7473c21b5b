//! `stack`: a compose file and the API's objects that it becomes.
//!
//! - [`deploy`]: the verb, and what it reads; [`look`]: what there is to do; [`apply`]: does it
//! - [`dry_run`]: says it instead; [`difference`]: of two specs
//! - [`contents`]: secrets and configs, of which a changed file makes a new version
//! - [`networks`]; [`remove`]: the way back

mod apply;
mod contents;
mod deploy;
mod difference;
mod dry_run;
mod look;
mod networks;
mod remove;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Subcommand;
use proto::object::Service;
use serde_json::json;

use super::client::{Client, query};
use super::converge::{self, WaitFlags};
use super::format::Listing;
use super::service::Ls;
use super::task;
use crate::compose::NAMESPACE;
pub(crate) use apply::deploy;
pub(crate) use deploy::{Deploy, check_name, load};
pub(crate) use remove::{remove, wait_gone};

/// `stack …`
#[derive(Debug, Subcommand)]
pub(crate) enum StackVerb {
    /// Deploy a new stack or update an existing stack
    #[command(visible_alias = "up")]
    Deploy(Deploy),
    /// Outputs the final config file, after doing merges and interpolations
    Config {
        /// Path to a Compose file, or "-" to read from stdin
        #[arg(short = 'c', long = "compose-file", required = true)]
        files: Vec<PathBuf>,
    },
    /// List stacks
    #[command(visible_alias = "list")]
    Ls {
        /// Format output: "table", "table TEMPLATE", "json" or a template
        #[arg(long)]
        format: Option<String>,
    },
    /// List the tasks in the stack
    Ps {
        #[command(flatten)]
        options: task::Options,
        stack: String,
    },
    /// Remove one or more stacks
    #[command(visible_aliases = ["remove", "down"])]
    Rm {
        #[command(flatten)]
        wait: WaitFlags,
        #[arg(required = true, value_name = "STACK")]
        names: Vec<String>,
    },
    /// List the services in the stack
    Services {
        #[command(flatten)]
        ls: Ls,
        stack: String,
    },
}

impl StackVerb {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        match self {
            Self::Deploy(deploy) => deploy.run(client).await,
            Self::Config { files } => {
                print!("{}", load(&files)?.to_yaml());
                Ok(())
            }
            Self::Ls { format } => ls(client, format.as_deref()).await,
            Self::Ps { options, stack } => {
                require(client, &stack).await?;
                options.print(client, &[("label", &label(&stack))]).await
            }
            Self::Rm { wait, names } => {
                for name in &names {
                    remove(client, name).await?;
                    if !wait.detach {
                        converge::limited(wait.wait_timeout, wait_gone(client, name)).await?;
                    }
                }
                Ok(())
            }
            Self::Services { ls, stack } => {
                if services(client, &stack).await?.is_empty() {
                    // Docker does not call it a failure, either.
                    eprintln!("Nothing found in stack: {stack}");
                    return Ok(());
                }
                ls.print(client, &[("label", &label(&stack))]).await.map(drop)
            }
        }
    }
}

async fn ls(client: &Client, format: Option<&str>) -> Result<()> {
    let filters = json!({"label": [NAMESPACE]}).to_string();
    let services: Vec<Service> = client
        .fetch(&format!("/services{}", query(&[("filters", &filters)])))
        .await?;
    let mut stacks = BTreeMap::<String, usize>::new();
    for service in &services {
        if let Some(stack) = service.spec.labels.get(NAMESPACE) {
            *stacks.entry(stack.clone()).or_default() += 1;
        }
    }
    let mut listing =
        Listing::new(&[("Name", "NAME"), ("Services", "SERVICES")]).more(&[("Orchestrator", "ORCHESTRATOR")]);
    for (stack, count) in stacks {
        listing.row([stack, count.to_string(), "Swarm".to_owned()]);
    }
    listing.print_as(format)
}

async fn require(client: &Client, stack: &str) -> Result<()> {
    if services(client, stack).await?.is_empty() {
        bail!("nothing found in stack: {stack}");
    }
    Ok(())
}

/// The services of a stack.
pub(crate) async fn services(client: &Client, stack: &str) -> Result<Vec<Service>> {
    let filters = json!({"label": [label(stack)]}).to_string();
    client
        .fetch(&format!("/services{}", query(&[("filters", &filters)])))
        .await
}

pub(crate) fn label(stack: &str) -> String {
    format!("{NAMESPACE}={stack}")
}
