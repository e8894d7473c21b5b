//! `stack rm`: everything under a stack's label, but its volumes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use proto::Task;
use serde_json::{Value, json};

use super::super::client::{Client, is_not_found, query};
use super::super::container::text;
use super::label;

/// What the server is asked between two looks: the API has no event for a task that is gone.
const PAUSE: Duration = Duration::from_millis(50);

/// Removes a stack's services, secrets, configs and networks. Volumes stay.
pub(crate) async fn remove(client: &Client, stack: &str) -> Result<()> {
    let query = query(&[("filters", &json!({"label": [label(stack)]}).to_string())]);
    let mut found = false;
    for (kind, singular) in [
        ("services", "service"),
        ("secrets", "secret"),
        ("configs", "config"),
        ("networks", "network"),
    ] {
        let list = client.get(&format!("/{kind}{query}")).await?;
        for object in list.as_array().into_iter().flatten() {
            found = true;
            let id = object["ID"]
                .as_str()
                .or(object["Id"].as_str())
                .unwrap_or_default();
            let name = object["Spec"]["Name"]
                .as_str()
                .or(object["Name"].as_str())
                .unwrap_or_default();
            println!("Removing {singular} {name}");
            remove_one(client, kind, id).await?;
        }
    }
    if !found {
        eprintln!("Nothing found in stack: {stack}");
    }
    Ok(())
}

/// Waits until no task of the stack runs anywhere, and nothing of it waits on this node's disk for the agent's next start.
/// What a lost node still runs cannot be waited for: it is named.
pub(crate) async fn wait_gone(client: &Client, stack: &str) -> Result<()> {
    let filters = json!({"label": [label(stack)]}).to_string();
    let tasks = format!("/tasks{}", query(&[("filters", &filters)]));
    let containers = format!(
        "/containers/json{}",
        query(&[("all", "1"), ("filters", &filters)])
    );
    let mut named = BTreeSet::new();
    loop {
        let mut left: Vec<Task> = client.fetch(&tasks).await?;
        left.retain(|task| !task.status.state.is_terminal());
        let lost = if left.is_empty() {
            BTreeMap::new()
        } else {
            lost_nodes(client).await?
        };
        let (lost_ones, left): (Vec<_>, Vec<_>) = left
            .into_iter()
            .partition(|task| lost.contains_key(task.node_id.as_str()));
        for task in lost_ones {
            if named.insert(task.id.clone()) {
                let node = &lost[task.node_id.as_str()];
                eprintln!(
                    "task {} is on the node {node}, which is down: it ends when the node is back",
                    task.name()
                );
            }
        }
        let here = client.get(&containers).await?;
        if left.is_empty() && here.as_array().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Nodes that are down: their names by their identifiers.
async fn lost_nodes(client: &Client) -> Result<BTreeMap<String, String>> {
    let nodes = client.get("/nodes").await?;
    let down = |node: &&Value| node["Status"]["State"] == "down";
    let names = |node: &Value| (text(&node["ID"]), text(&node["Description"]["Hostname"]));
    Ok(nodes
        .as_array()
        .into_iter()
        .flatten()
        .filter(down)
        .map(names)
        .collect())
}

/// What is still in use by tasks that stop is tried again until they have stopped.
pub(super) async fn remove_one(client: &Client, kind: &str, id: &str) -> Result<()> {
    const TRIES: u32 = 300;
    let path = format!("/{kind}/{id}");
    for _ in 0..TRIES {
        match client.delete(&path).await {
            Ok(_) => return Ok(()),
            Err(error) if is_not_found(&error) => return Ok(()),
            Err(error)
                if !error.to_string().contains("in use")
                    && !error.to_string().contains("active endpoints") =>
            {
                return Err(error);
            }
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
        }
    }
    client.delete(&path).await.map(drop)
}
