//! A stack's networks: made where they are missing, and never changed.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use proto::spec::NetworkSpec;
use serde_json::{Value, json};

use super::super::client::{Client, escape, is_not_found};
use super::super::container::text;
use crate::compose::StackPlan;

/// Networks of the plan that are missing; identifiers of the others. Those that are there stay as they are, as with Docker.
pub(super) async fn look(
    client: &Client,
    plan: &StackPlan,
    known: &mut BTreeMap<String, String>,
) -> Result<Vec<NetworkSpec>> {
    let mut missing = Vec::new();
    for spec in &plan.networks {
        let path = format!("/networks/{}?scope=swarm", escape(&spec.name));
        match client.get(&path).await {
            Ok(found) => {
                same_network(&found, spec)?;
                known.insert(spec.name.clone(), text(&found["Id"]));
            }
            Err(error) if is_not_found(&error) => missing.push(spec.clone()),
            Err(error) => return Err(error),
        }
    }
    Ok(missing)
}

/// Makes a network; the answer.
pub(super) async fn create(client: &Client, spec: &NetworkSpec) -> Result<Value> {
    let driver = spec.driver_configuration.clone().unwrap_or_default();
    let pools = spec
        .ipam_options
        .as_ref()
        .map(|options| options.configs.clone())
        .unwrap_or_default();
    let body = json!({
        "Name": spec.name, "Driver": driver.name, "Options": driver.options, "Labels": spec.labels,
        "Internal": spec.internal, "Attachable": spec.attachable, "Scope": "swarm",
        "EnableIPv6": spec.ipv6_enabled, "IPAM": {"Config": pools},
    });
    let answer = client.post("/networks/create", &body).await;
    answer.with_context(|| format!("create network {}", spec.name))
}

/// A network cannot be changed: a file that says something else of it than what is there must not pass without a word.
fn same_network(found: &serde_json::Value, spec: &NetworkSpec) -> Result<()> {
    let driver = spec.driver_configuration.clone().unwrap_or_default();
    let pools = spec.ipam_options.iter().flat_map(|options| &options.configs);
    let known = found["IPAM"]["Config"].as_array().cloned().unwrap_or_default();
    let known_pool = |subnet: &str| subnet.is_empty() || known.iter().any(|pool| pool["Subnet"] == subnet);
    let options = |key: &String, value: &String| found["Options"][key] == json!(value);
    let differs = [
        ("driver", found["Driver"] != json!(driver.name)),
        ("internal", found["Internal"] != json!(spec.internal)),
        ("attachable", found["Attachable"] != json!(spec.attachable)),
        ("enable_ipv6", found["EnableIPv6"] != json!(spec.ipv6_enabled)),
        ("labels", found["Labels"] != json!(spec.labels)),
        ("ipam", pools.into_iter().any(|pool| !known_pool(&pool.subnet))),
        (
            "driver_opts",
            driver.options.iter().any(|(key, value)| !options(key, value)),
        ),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        None => Ok(()),
        Some((key, _)) => bail!(
            "network {} is there with another value of {key}, and a network cannot be changed: give it another name in the \
             file, or remove it first (`agent network rm {}`, when no task is on it)",
            spec.name,
            spec.name
        ),
    }
}
