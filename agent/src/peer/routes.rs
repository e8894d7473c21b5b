//! What the port between nodes serves. Each route has its entry in the table of `access`; one without is answered to nobody.

use axum::extract::State;
use axum::middleware::from_fn;
use axum::routing::{any, get};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{access, proxy};
use crate::api::error::{ApiError, ApiResult};
use crate::api::{App, cluster_events, service_logs, task_exec};
use crate::transfer::{images, volumes};

/// The complete service.
pub fn router(app: App) -> Router {
    guarded(
        Router::new()
            .route("/v1/ping", get(ping))
            .route(service_logs::NODE_PATH, get(service_logs::of_node))
            .route(cluster_events::NODE_PATH, get(cluster_events::of_node))
            .merge(task_exec::node_routes())
            .route("/api/{*path}", any(proxy::receive))
            .merge(images::routes())
            .merge(volumes::routes()),
    )
    .with_state(app)
}

/// Puts the table before routes.
pub(super) fn guarded<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes
        .route_layer(from_fn(access::check))
        .fallback(page_not_found)
        .method_not_allowed_fallback(page_not_found)
}

/// Says who this is.
async fn ping(State(app): State<App>) -> ApiResult<Json<Value>> {
    let client = app.cluster.peers().client();
    let client = client.ok_or_else(|| ApiError::unavailable("this node has left the cluster"))?;
    Ok(Json(json!({ "NodeID": client.node() })))
}

async fn page_not_found() -> ApiError {
    ApiError::not_found("page not found")
}
