//! The block `Swarm` of `/info`: this node's part in a cluster.

use manager::{Leader, Manager, ManagerError};
use serde_json::{Value, json};

use super::state::App;
use crate::cluster::{Part, WorkerPart};

/// The block with its name.
pub(super) fn block(app: &App) -> Value {
    let swarm = match app.cluster.part() {
        Part::None => absent("inactive"),
        Part::Locked => absent("locked"),
        Part::Manager(manager) => of_manager(&manager),
        Part::Worker(worker) => of_worker(&worker),
    };
    json!({ "Swarm": swarm })
}

/// A locked manager does not even know which node it is.
fn absent(state: &str) -> Value {
    json!({
        "NodeID": "", "NodeAddr": "", "LocalNodeState": state, "ControlAvailable": false, "Error": "",
        "RemoteManagers": null,
    })
}

/// A worker knows of the cluster where its managers are, and no more.
fn of_worker(worker: &WorkerPart) -> Value {
    let remote = worker.managers().into_iter();
    let remote: Vec<Value> = remote
        .map(|manager| json!({ "NodeID": manager.node, "Addr": manager.address }))
        .collect();
    json!({
        "NodeID": worker.node(),
        "NodeAddr": worker.address(),
        "LocalNodeState": "active",
        "ControlAvailable": false,
        "Error": worker.trouble(),
        "RemoteManagers": remote,
    })
}

fn of_manager(manager: &Manager) -> Value {
    let control = manager.control();
    let nodes = control.nodes();
    let managers: Vec<_> = nodes
        .iter()
        .filter_map(|node| node.manager_status.as_ref().map(|m| (node, m)))
        .collect();
    let remote: Vec<Value> = managers
        .iter()
        .map(|(node, status)| json!({ "NodeID": node.id, "Addr": status.addr }))
        .collect();
    let own = nodes.iter().find(|node| node.id == *manager.node_id());
    let trouble = match manager.leader() {
        Leader::Unknown => ManagerError::NoLeader.to_string(),
        Leader::This | Leader::Other(_) => String::new(),
    };
    let mut swarm = json!({
        "NodeID": manager.node_id(),
        "NodeAddr": own.map(|node| node.status.addr.clone()).unwrap_or_default(),
        "LocalNodeState": "active",
        "ControlAvailable": true,
        "Error": trouble,
        "RemoteManagers": remote,
        "Nodes": nodes.len(),
        "Managers": managers.len(),
    });
    if let Ok(cluster) = control.cluster()
        && let Ok(Value::Object(mut cluster)) = serde_json::to_value(&cluster)
    {
        // Docker shows the cluster here as well, without what lets others in.
        cluster.remove("JoinTokens");
        swarm["Cluster"] = Value::Object(cluster);
    }
    swarm
}
