//! `service update`: flags that change a spec.

use anyhow::{Context, Result, bail};
use clap::Args;
use proto::ServiceSpec;
use proto::spec::{ContainerSpec, NetworkAttachmentConfig, Placement, ServiceMode};

use super::common::Common;
use super::lists::Changes;
use super::neighbours::NeighbourChanges;
use super::words::{change_map, config, environment, mount, network, preference, publish, secret, set};
use crate::cli::client::{Client, escape};
use crate::cli::container::text;
use crate::cli::converge::{self, Goal, Target};
use crate::cli::service;
use crate::compose;

/// `service update`
#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Service image tag
    #[arg(long)]
    image: Option<String>,
    /// Service command args
    #[arg(long, allow_hyphen_values = true)]
    args: Option<String>,
    /// Force update even if no changes require it
    #[arg(long)]
    force: bool,
    /// Rollback to previous specification
    #[arg(long)]
    rollback: bool,
    /// Add or update an environment variable
    #[arg(long)]
    env_add: Vec<String>,
    /// Remove an environment variable
    #[arg(long)]
    env_rm: Vec<String>,
    /// Add or update a service label
    #[arg(long)]
    label_add: Vec<String>,
    /// Remove a label by its key
    #[arg(long)]
    label_rm: Vec<String>,
    /// Add or update a container label
    #[arg(long)]
    container_label_add: Vec<String>,
    /// Remove a container label by its key
    #[arg(long)]
    container_label_rm: Vec<String>,
    /// Add or update a mount on a service
    #[arg(long)]
    mount_add: Vec<String>,
    /// Remove a mount by its target path
    #[arg(long)]
    mount_rm: Vec<String>,
    /// Add or update a published port
    #[arg(long)]
    publish_add: Vec<String>,
    /// Remove a published port by its target port
    #[arg(long)]
    publish_rm: Vec<u16>,
    /// Add or update a placement constraint
    #[arg(long)]
    constraint_add: Vec<String>,
    /// Remove a constraint
    #[arg(long)]
    constraint_rm: Vec<String>,
    /// Add or update a secret on a service
    #[arg(long)]
    secret_add: Vec<String>,
    /// Remove a secret
    #[arg(long)]
    secret_rm: Vec<String>,
    /// Add or update a config file on a service
    #[arg(long)]
    config_add: Vec<String>,
    /// Remove a configuration file
    #[arg(long)]
    config_rm: Vec<String>,
    /// Add a network
    #[arg(long)]
    network_add: Vec<String>,
    /// Remove a network
    #[arg(long)]
    network_rm: Vec<String>,
    /// Add a placement preference
    #[arg(long)]
    placement_pref_add: Vec<String>,
    /// Remove a placement preference
    #[arg(long)]
    placement_pref_rm: Vec<String>,
    /// Do not settle for all nodes which image the name means
    #[arg(long)]
    no_resolve_image: bool,
    #[command(flatten)]
    lists: Changes,
    #[command(flatten)]
    neighbours: NeighbourChanges,
    #[command(flatten)]
    common: Common,
    service: String,
}

impl Update {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let found = client
            .get(&format!("/services/{}", escape(&self.service)))
            .await?;
        let id = text(&found["ID"]);
        let mut path = format!("/services/{id}/update?version={}", found["Version"]["Index"]);
        let mut spec: ServiceSpec =
            serde_json::from_value(found["Spec"].clone()).context("the service's spec")?;
        let before = spec.clone();
        self.apply(client, &mut spec).await?;
        if self.rollback {
            if spec != before {
                bail!("other flags may not be combined with --rollback");
            }
            path.push_str("&rollback=previous");
        }
        if self.no_resolve_image {
            path.push_str("&resolveImage=never");
        }
        let answer = client.post(&path, &spec).await?;
        service::warn(&answer);
        println!("{}", self.service);
        let goal = if self.rollback {
            Goal::Rollback
        } else {
            Goal::Update
        };
        converge::reach(
            client,
            &[Target::new(id, goal)],
            &self.common.wait,
            self.common.quiet,
        )
        .await
    }

    async fn apply(&self, client: &Client, spec: &mut ServiceSpec) -> Result<()> {
        if let Some(replicas) = self.common.replicas {
            if let Some(job) = &mut spec.mode.replicated_job {
                job.total_completions = Some(replicas);
            } else if spec.mode.replicas().is_none() {
                bail!("replicas can only be used with replicated or replicated-job mode");
            } else {
                spec.mode = ServiceMode::replicated(replicas);
            }
        }
        if let Some(most) = self.common.max_concurrent {
            let Some(job) = &mut spec.mode.replicated_job else {
                bail!("--max-concurrent can only be used with mode replicated-job");
            };
            job.max_concurrent = Some(most);
        }
        change_map(&mut spec.labels, &self.label_add, &self.label_rm);
        self.neighbours.apply(&mut spec.labels)?;
        let task = &mut spec.task_template;
        task.force_update += u64::from(self.force);
        self.change_networks(client, &mut task.networks).await?;
        self.lists.apply(task)?;
        let placement = task.placement.get_or_insert_default();
        for (words, add) in [(&self.placement_pref_rm, false), (&self.placement_pref_add, true)] {
            for word in words {
                let changed = preference(word)?;
                placement.preferences.retain(|known| *known != changed);
                if add {
                    placement.preferences.push(changed);
                }
            }
        }
        let constraints = &mut task.placement.get_or_insert_default().constraints;
        constraints.retain(|constraint| !self.constraint_rm.contains(constraint));
        constraints.extend(self.constraint_add.iter().cloned());
        if task.placement == Some(Placement::default()) {
            task.placement = None;
        }
        let container = task.container_spec.get_or_insert_default();
        self.apply_container(client, container).await?;
        self.apply_ports(spec)?;
        self.common.apply(spec)
    }

    /// The spec names networks by identifier.
    async fn change_networks(
        &self,
        client: &Client,
        networks: &mut Vec<NetworkAttachmentConfig>,
    ) -> Result<()> {
        for (words, add) in [(&self.network_rm, false), (&self.network_add, true)] {
            for word in words {
                let mut changed = network(word)?;
                let path = format!("/networks/{}?scope=swarm", escape(&changed.target));
                changed.target = text(&client.get(&path).await?["Id"]);
                networks.retain(|known| known.target != changed.target);
                if add {
                    networks.push(changed);
                }
            }
        }
        Ok(())
    }

    async fn apply_container(&self, client: &Client, container: &mut ContainerSpec) -> Result<()> {
        set(&mut container.image, self.image.clone());
        if let Some(line) = &self.args {
            container.args = compose::split_words(line).map_err(anyhow::Error::msg)?;
        }
        change_map(
            &mut container.labels,
            &self.container_label_add,
            &self.container_label_rm,
        );
        let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
        let added = environment(&self.env_add, &[])?;
        container.env.retain(|old| {
            !self.env_rm.contains(&name(old)) && !added.iter().any(|new| name(new) == name(old))
        });
        container.env.extend(added);
        let mounts = self
            .mount_add
            .iter()
            .map(|word| mount(word))
            .collect::<Result<Vec<_>>>()?;
        container.mounts.retain(|old| {
            !self.mount_rm.contains(&old.target) && !mounts.iter().any(|new| new.target == old.target)
        });
        container.mounts.extend(mounts);
        container
            .secrets
            .retain(|used| !self.secret_rm.contains(&used.secret_name));
        for word in &self.secret_add {
            container.secrets.push(secret(client, word).await?);
        }
        container
            .configs
            .retain(|used| !self.config_rm.contains(&used.config_name));
        for word in &self.config_add {
            container.configs.push(config(client, word).await?);
        }
        Ok(())
    }

    fn apply_ports(&self, spec: &mut ServiceSpec) -> Result<()> {
        if self.publish_add.is_empty() && self.publish_rm.is_empty() {
            return Ok(());
        }
        let added = self
            .publish_add
            .iter()
            .map(|word| publish(word))
            .collect::<Result<Vec<_>>>()?
            .concat();
        let ports = &mut spec.endpoint_spec.get_or_insert_default().ports;
        ports.retain(|old| {
            !self.publish_rm.contains(&old.target_port)
                && !added
                    .iter()
                    .any(|new| (new.target_port, new.protocol) == (old.target_port, old.protocol))
        });
        ports.extend(added);
        Ok(())
    }
}
