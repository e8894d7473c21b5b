//! `service create` and `service update`: flags over a spec.
//!
//! - this page: `create`; [`update`]; [`common`]: flags of both; [`lists`]: flags for what there are many of
//! - [`upkeep`], [`neighbours`]: flags that become labels
//! - [`words`]: what stands behind the flags, read

mod common;
mod lists;
mod neighbours;
mod update;
mod upkeep;
pub(super) mod words;

use anyhow::Result;
use clap::Args;
use proto::ServiceSpec;
use proto::spec::{ContainerSpec, EndpointSpec, Placement};

use super::client::Client;
use super::container::text;
use super::converge::{self, Goal, Target};
use super::{run, service};
use common::Common;
use lists::Lists;
use neighbours::Neighbours;
pub(crate) use update::Update;
use words::{config, environment, mode, mount, network, preference, publish, secret};

/// `service create`
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Service name
    #[arg(long)]
    name: Option<String>,
    /// Service mode ("replicated", "global", "replicated-job", "global-job")
    #[arg(long, default_value = "replicated")]
    mode: String,
    /// Container labels
    #[arg(long)]
    container_label: Vec<String>,
    /// Service labels
    #[arg(short, long)]
    label: Vec<String>,
    /// Set environment variables
    #[arg(short, long)]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long)]
    env_file: Vec<String>,
    /// Attach a filesystem mount to the service
    #[arg(long)]
    mount: Vec<String>,
    /// Network attachments
    #[arg(long)]
    network: Vec<String>,
    /// Publish a port as a node port
    #[arg(short, long)]
    publish: Vec<String>,
    /// Placement constraints
    #[arg(long)]
    constraint: Vec<String>,
    /// Add a placement preference
    #[arg(long)]
    placement_pref: Vec<String>,
    /// Specify secrets to expose to the service
    #[arg(long)]
    secret: Vec<String>,
    /// Specify configurations to expose to the service
    #[arg(long)]
    config: Vec<String>,
    /// Do not settle for all nodes which image the name means
    #[arg(long)]
    no_resolve_image: bool,
    #[command(flatten)]
    lists: Lists,
    #[command(flatten)]
    neighbours: Neighbours,
    #[command(flatten)]
    common: Common,
    /// Image
    image: String,
    /// Command of the container
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Create {
    pub(crate) async fn run(mut self, client: &Client) -> Result<()> {
        let lists = std::mem::take(&mut self.lists);
        let neighbours = std::mem::take(&mut self.neighbours);
        let mut spec = self.spec(client).await?;
        lists.apply(&mut spec.task_template)?;
        neighbours.apply(&mut spec.labels)?;
        let query = if self.no_resolve_image {
            "?resolveImage=never"
        } else {
            ""
        };
        let answer = client.post(&format!("/services/create{query}"), &spec).await?;
        service::warn(&answer);
        let id = text(&answer["ID"]);
        println!("{id}");
        let target = Target::new(id, Goal::Update);
        converge::reach(client, &[target], &self.common.wait, self.common.quiet).await
    }

    async fn spec(&self, client: &Client) -> Result<ServiceSpec> {
        let mut container = ContainerSpec {
            image: self.image.clone(),
            args: self.command.clone(),
            labels: run::labels(&self.container_label),
            env: environment(&self.env, &self.env_file)?,
            mounts: self.mount.iter().map(|word| mount(word)).collect::<Result<_>>()?,
            ..ContainerSpec::default()
        };
        for word in &self.secret {
            container.secrets.push(secret(client, word).await?);
        }
        for word in &self.config {
            container.configs.push(config(client, word).await?);
        }
        let mut spec = ServiceSpec {
            name: self.name.clone().unwrap_or_default(),
            labels: run::labels(&self.label),
            mode: mode(&self.mode, self.common.replicas, self.common.max_concurrent)?,
            ..ServiceSpec::default()
        };
        if spec.name.is_empty() {
            spec.name = format!("service-{}", &proto::ServiceId::random().as_str()[..8]);
        }
        spec.task_template.container_spec = Some(container);
        spec.task_template.networks = self
            .network
            .iter()
            .map(|word| network(word))
            .collect::<Result<_>>()?;
        if !self.publish.is_empty() {
            let ports = self
                .publish
                .iter()
                .map(|word| publish(word))
                .collect::<Result<Vec<_>>>()?;
            spec.endpoint_spec = Some(EndpointSpec {
                ports: ports.concat(),
                ..EndpointSpec::default()
            });
        }
        if !self.constraint.is_empty() || !self.placement_pref.is_empty() {
            let preferences = self
                .placement_pref
                .iter()
                .map(|word| preference(word))
                .collect::<Result<_>>()?;
            let constraints = self.constraint.clone();
            spec.task_template.placement = Some(Placement {
                constraints,
                preferences,
                ..Placement::default()
            });
        }
        self.common.apply(&mut spec)?;
        Ok(spec)
    }
}
