//! `stack rm`: everything under a stack's label, but its volumes.

use anyhow::Result;
use serde_json::json;

use super::super::client::{Client, is_not_found, query};
use super::label;

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

/// Nothing of the stack shall wait on the disk for the agent's next start.
pub(crate) async fn wait_gone(client: &Client, stack: &str) {
    let filters = json!({"label": [label(stack)]}).to_string();
    let path = format!(
        "/containers/json{}",
        query(&[("all", "1"), ("filters", &filters)])
    );
    for _ in 0..300 {
        match client.get(&path).await {
            Ok(list) if list.as_array().is_some_and(|list| !list.is_empty()) => {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            _ => return,
        }
    }
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
