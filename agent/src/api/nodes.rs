//! `/nodes`: the machines of the cluster.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use proto::{Node, NodeSpec};

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

async fn inspect(State(app): State<App>, Path(id): Path<String>) -> ApiResult<Json<Arc<Node>>> {
    Ok(Json(app.control()?.node(&id)?))
}

async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
    body::Spec(spec): body::Spec<NodeSpec>,
) -> ApiResult<()> {
    Ok(app.control()?.update_node(&id, version(&params)?, spec).await?)
}

async fn remove(State(app): State<App>, Path(id): Path<String>, params: Params) -> ApiResult<()> {
    Ok(app.control()?.remove_node(&id, params.flag("force")).await?)
}
