//! `/nodes`: the machines of the cluster.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use manager::BoundVolume;
use proto::spec::Availability;
use proto::{Node, NodeSpec};
use serde::Serialize;

use super::body;
use super::error::ApiResult;
use super::filters::Filters;
use super::params::Params;
use super::state::App;
use super::swarm::version;

const FILTERS: &[&str] = &["id", "label", "membership", "name", "node.label", "role"];

/// Routes of this module.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/nodes", get(list))
        .route("/nodes/{id}", get(inspect).delete(remove))
        .route("/nodes/{id}/update", post(update))
}

async fn list(State(app): State<App>, params: Params) -> ApiResult<Json<Vec<Arc<Node>>>> {
    let filters = params.filters(FILTERS)?;
    let mut nodes = app.control()?.nodes();
    nodes.retain(|node| wanted(&filters, node));
    Ok(Json(nodes))
}

fn wanted(filters: &Filters, node: &Node) -> bool {
    filters.prefix("id", node.id.as_str())
        && filters.prefix("name", &node.description.hostname)
        && filters.exact("role", node.spec.role.as_str())
        // Every node that has been let in is accepted; there is no list of those that wait.
        && filters.exact("membership", "accepted")
        && filters.labels("label", &node.description.engine.labels)
        && filters.labels("node.label", &node.spec.labels)
}

/// A node with what Docker's API has no word for.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeView {
    #[serde(flatten)]
    node: Arc<Node>,
    /// Volumes that hold tasks there.
    bound_volumes: Vec<BoundVolume>,
    /// Networks of the cluster whose tasks it cannot take.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
}

async fn inspect(State(app): State<App>, Path(id): Path<String>) -> ApiResult<Json<NodeView>> {
    let control = app.control()?;
    let node = control.node(&id)?;
    Ok(Json(NodeView {
        problems: control.node_problems(&node),
        node,
        bound_volumes: control.bound_volumes(&id)?,
    }))
}

/// Docker's answer is empty; its command line does not look at it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Updated {
    warnings: Vec<String>,
}

async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
    body::Spec(spec): body::Spec<NodeSpec>,
) -> ApiResult<Json<Updated>> {
    let control = app.control()?;
    let was_drained = control.node(&id)?.spec.availability == Availability::Drain;
    control.update_node(&id, version(&params)?, spec).await?;
    let warnings = match was_drained {
        true => Vec::new(),
        false => control.drain_warnings(&id)?,
    };
    Ok(Json(Updated { warnings }))
}

async fn remove(State(app): State<App>, Path(id): Path<String>, params: Params) -> ApiResult<()> {
    Ok(app.control()?.remove_node(&id, params.flag("force")).await?)
}
