//! Makes the agent's objects what a plan says: what is missing is made, what differs is changed, the rest is left alone.

use anyhow::{Context, Result};
use serde_json::Value;

use super::super::client::Client;
use super::super::converge::{Goal, Target};
use super::super::service;
use super::contents::{self, Action, Kind, Step};
use super::look::{Changes, ServiceStep, look};
use super::{networks, remove};
use crate::compose::StackPlan;

/// Makes the agent's objects what the plan says; identifiers of the stack's services.
pub(crate) async fn deploy(
    client: &Client,
    plan: &StackPlan,
    stack: &str,
    prune: bool,
) -> Result<Vec<Target>> {
    let changes = look(client, plan, stack, prune).await?;
    for service in &changes.prune {
        println!("Removing service {}", service.spec.name);
        client.delete(&format!("/services/{}", service.id)).await?;
    }
    let mut made = Made::default();
    let outcome = apply(client, changes, &mut made).await;
    if outcome.is_err() {
        made.undo(client).await;
    }
    outcome
}

async fn apply(client: &Client, mut changes: Changes, made: &mut Made) -> Result<Vec<Target>> {
    for spec in &changes.networks {
        println!("Creating network {}", spec.name);
        let id = made.add("networks", &networks::create(client, spec).await?);
        changes.known.networks.insert(spec.name.clone(), id);
    }
    for (kind, steps, known) in [
        (Kind::Secret, &changes.secrets, &mut changes.known.secrets),
        (Kind::Config, &changes.configs, &mut changes.known.configs),
    ] {
        for step in steps {
            let id = content(client, kind, step, made).await?;
            known.insert(step.base.clone(), (step.name.clone(), id));
        }
    }
    let mut targets = Vec::new();
    for step in &changes.services {
        targets.push(service(client, step, &changes, made).await?);
    }
    contents::collect(client, Kind::Secret, &changes.secrets).await;
    contents::collect(client, Kind::Config, &changes.configs).await;
    Ok(targets)
}

/// What this deployment has created, so that a failure leaves nothing half made.
#[derive(Debug, Default)]
struct Made(Vec<(&'static str, String)>);

impl Made {
    fn add(&mut self, kind: &'static str, answer: &Value) -> String {
        let id = answer["ID"]
            .as_str()
            .or(answer["Id"].as_str())
            .unwrap_or_default();
        self.0.push((kind, id.to_owned()));
        id.to_owned()
    }

    /// Takes it all back, the last one first; what cannot be taken back is said.
    async fn undo(self, client: &Client) {
        for (kind, id) in self.0.into_iter().rev() {
            let outcome = match kind {
                // A service that was updated before the failure has it: it stays.
                "secrets" | "configs" => match client.delete(&format!("/{kind}/{id}")).await {
                    Err(error) if contents::is_held(&error) => Ok(()),
                    outcome => outcome.map(drop),
                },
                _ => remove::remove_one(client, kind, &id).await,
            };
            if let Err(error) = outcome {
                eprintln!("cannot take back /{kind}/{id}: {error:#}");
            }
        }
    }
}

/// Makes a secret or config if it is to be made; its identifier.
async fn content(client: &Client, kind: Kind, step: &Step, made: &mut Made) -> Result<String> {
    match &step.action {
        Action::Keep { id } => Ok(id.clone()),
        Action::Relabel { id, version, body } => {
            let path = format!("/{}/{id}/update?version={version}", kind.path());
            let answer = client.post(&path, body).await;
            answer.with_context(|| format!("update {} {}", kind.word(), step.name))?;
            Ok(id.clone())
        }
        Action::Create { body } => {
            println!("Creating {}", step.describe(kind));
            let answer = client.post(&format!("/{}/create", kind.path()), body).await;
            let answer = answer.with_context(|| format!("create {} {}", kind.word(), step.name))?;
            Ok(made.add(kind.path(), &answer))
        }
    }
}

/// Makes a service, or updates it if its spec has changed.
async fn service(client: &Client, step: &ServiceStep, changes: &Changes, made: &mut Made) -> Result<Target> {
    let spec = step.bound(&changes.known);
    let Some(before) = &step.before else {
        println!("Creating service {}", spec.name);
        let answer = client.post("/services/create", &spec).await;
        let answer = answer.with_context(|| format!("create service {}", spec.name))?;
        service::warn(&answer);
        return Ok(Target::new(made.add("services", &answer), Goal::Update));
    };
    let id = before.id.to_string();
    if spec == before.spec {
        return Ok(Target::new(id, Goal::Present));
    }
    // What is behind the image's name may be another image by now: the manager finds out.
    let version = before.meta.version.index;
    let path = format!("/services/{id}/update?version={version}&ifChanged=1");
    let answer = client.post(&path, &spec).await;
    let answer = answer.with_context(|| format!("update service {}", spec.name))?;
    service::warn(&answer);
    if answer["Unchanged"] == true {
        return Ok(Target::new(id, Goal::Present));
    }
    println!("Updating service {} (id: {id})", spec.name);
    Ok(Target::new(id, Goal::Update))
}
