//! `stack deploy --dry-run`: what a deployment would do, in lines.
//!
//! ```text
//! + config st_c-2 (a new version of st_c)
//! ~ service st_web
//!     image: web:1 -> web:2
//! - service st_old
//! ```

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;

use super::super::client::Client;
use super::super::container::text;
use super::contents::{Action, Kind};
use super::difference::{Difference, differences, with_pin_of};
use super::look::{Changes, ServiceStep, look};
use crate::compose::StackPlan;

/// Prints what a deployment would do. Nothing is changed.
///
/// # Errors
/// What a deployment would be refused for before it changes anything.
pub(super) async fn print(client: &Client, plan: &StackPlan, stack: &str, prune: bool) -> Result<()> {
    let changes = look(client, plan, stack, prune).await?;
    let networks = network_names(client).await?;
    let lines = lines(&changes, &networks);
    if lines.is_empty() {
        println!("The stack {stack} is as the files say: nothing to do.");
    }
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

/// Names of networks by their identifiers: what is there already is described by them.
async fn network_names(client: &Client) -> Result<BTreeMap<String, String>> {
    let list = client.get("/networks").await?;
    let pair = |network: &Value| (text(&network["Id"]), text(&network["Name"]));
    Ok(list.as_array().into_iter().flatten().map(pair).collect())
}

fn lines(changes: &Changes, networks: &BTreeMap<String, String>) -> Vec<String> {
    let mut lines = Vec::new();
    let removed = changes.prune.iter();
    lines.extend(removed.map(|service| format!("- service {}", service.spec.name)));
    let added = changes.networks.iter();
    lines.extend(added.map(|network| format!("+ network {}", network.name)));
    for (kind, steps) in [(Kind::Secret, &changes.secrets), (Kind::Config, &changes.configs)] {
        for step in steps {
            match step.action {
                Action::Keep { .. } => {}
                Action::Relabel { .. } => lines.push(format!("~ {} {}: labels", kind.word(), step.name)),
                Action::Create { .. } => lines.push(format!("+ {}", step.describe(kind))),
            }
        }
    }
    for step in &changes.services {
        lines.extend(service(step, changes, networks));
    }
    lines
}

fn service(step: &ServiceStep, changes: &Changes, networks: &BTreeMap<String, String>) -> Vec<String> {
    let name = &step.spec.name;
    let Some(before) = &step.before else {
        return vec![format!("+ service {name}")];
    };
    let after = with_pin_of(&before.spec, &step.bound(&changes.known));
    if after == before.spec {
        return Vec::new();
    }
    let mut lines = vec![format!("~ service {name}")];
    let fields = differences(&before.spec, &after, networks);
    lines.extend(
        fields
            .iter()
            .map(Difference::to_string)
            .map(|field| format!("    {field}")),
    );
    lines
}
