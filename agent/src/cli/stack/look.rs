//! What there is to do so that the agent's objects become what a plan says, found out without changing anything.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use proto::ServiceSpec;
use proto::object::Service;
use proto::spec::NetworkSpec;

use super::super::client::{Client, escape, is_not_found};
use super::super::container::text;
use super::contents::{self, Kind, Step};
use super::{networks, services};
use crate::compose::StackPlan;

/// What there is to do.
#[derive(Debug)]
pub(super) struct Changes {
    /// Services to remove.
    pub(super) prune: Vec<Service>,
    /// Networks to make.
    pub(super) networks: Vec<NetworkSpec>,
    pub(super) secrets: Vec<Step>,
    pub(super) configs: Vec<Step>,
    /// Every service of the plan, in its order.
    pub(super) services: Vec<ServiceStep>,
    pub(super) known: Identifiers,
}

/// A service of the plan.
#[derive(Debug)]
pub(super) struct ServiceStep {
    /// What it shall be; networks, secrets and configs by the plan's names.
    pub(super) spec: ServiceSpec,
    /// What is there under its name.
    pub(super) before: Option<Service>,
}

impl ServiceStep {
    /// What it shall be, as far as is known before everything is made.
    pub(super) fn bound(&self, known: &Identifiers) -> ServiceSpec {
        let mut spec = known.bind(&self.spec);
        if let Some(before) = &self.before {
            // A user's `service update --force` stays in force: the file says nothing of it.
            spec.task_template.force_update = before.spec.task_template.force_update;
        }
        spec
    }
}

/// Names and identifiers of what the plan names; what is not made yet has an empty identifier.
#[derive(Debug, Default)]
pub(super) struct Identifiers {
    /// By name.
    pub(super) networks: BTreeMap<String, String>,
    /// Name of the version and its identifier, by the plan's name.
    pub(super) secrets: BTreeMap<String, (String, String)>,
    /// As `secrets`.
    pub(super) configs: BTreeMap<String, (String, String)>,
}

impl Identifiers {
    /// Puts identifiers where the plan has names.
    fn bind(&self, spec: &ServiceSpec) -> ServiceSpec {
        let mut spec = spec.clone();
        for network in &mut spec.task_template.networks {
            if let Some(id) = self.networks.get(&network.target).filter(|id| !id.is_empty()) {
                network.target.clone_from(id);
            }
        }
        let Some(container) = &mut spec.task_template.container_spec else {
            return spec;
        };
        for used in &mut container.secrets {
            if let Some((name, id)) = self.secrets.get(&used.secret_name) {
                used.secret_id = id.clone().into();
                used.secret_name.clone_from(name);
            }
        }
        for used in &mut container.configs {
            if let Some((name, id)) = self.configs.get(&used.config_name) {
                used.config_id = id.clone().into();
                used.config_name.clone_from(name);
            }
        }
        spec
    }
}

/// Compares a plan with what is there.
///
/// # Errors
/// Something external is missing, or something differs that cannot be changed.
pub(super) async fn look(client: &Client, plan: &StackPlan, stack: &str, prune: bool) -> Result<Changes> {
    let mut known = external(client, plan).await?;
    let pruned = if prune {
        superfluous(client, plan, stack).await?
    } else {
        Vec::new()
    };
    let networks = networks::look(client, plan, &mut known.networks).await?;
    let secrets = contents::look(client, Kind::Secret, stack, &plan.secrets).await?;
    let configs = contents::look(client, Kind::Config, stack, &plan.configs).await?;
    let names = |step: &Step| (step.base.clone(), (step.name.clone(), step.id().to_owned()));
    known.secrets.extend(secrets.iter().map(names));
    known.configs.extend(configs.iter().map(names));
    let mut services = Vec::new();
    for spec in &plan.services {
        services.push(ServiceStep {
            before: find(client, &spec.name).await?,
            spec: spec.clone(),
        });
    }
    Ok(Changes {
        prune: pruned,
        networks,
        secrets,
        configs,
        services,
        known,
    })
}

async fn external(client: &Client, plan: &StackPlan) -> Result<Identifiers> {
    let mut known = Identifiers::default();
    for name in &plan.external_networks {
        let path = format!("/networks/{}?scope=swarm", escape(name));
        let id = text(&required(client, &path, name).await?["Id"]);
        known.networks.insert(name.clone(), id);
    }
    for (kind, names, known) in [
        (Kind::Secret, &plan.external_secrets, &mut known.secrets),
        (Kind::Config, &plan.external_configs, &mut known.configs),
    ] {
        for name in names {
            let path = format!("/{}/{}", kind.path(), escape(name));
            let id = text(&required(client, &path, name).await?["ID"]);
            known.insert(name.clone(), (name.clone(), id));
        }
    }
    Ok(known)
}

async fn required(client: &Client, path: &str, name: &str) -> Result<serde_json::Value> {
    let found = client.get(path).await;
    found.with_context(|| format!("the file names {name} as external, so it must be there: create it first"))
}

async fn superfluous(client: &Client, plan: &StackPlan, stack: &str) -> Result<Vec<Service>> {
    let kept: BTreeSet<&str> = plan.services.iter().map(|spec| spec.name.as_str()).collect();
    let mut services = services(client, stack).await?;
    services.retain(|service| !kept.contains(service.spec.name.as_str()));
    Ok(services)
}

async fn find(client: &Client, name: &str) -> Result<Option<Service>> {
    match client.fetch(&format!("/services/{}", escape(name))).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
