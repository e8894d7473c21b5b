//! Endpoints that Docker has and this engine has not: each says so in JSON instead of pretending.
//!
//! `/session` and `/grpc` must be refused for clients to see that BuildKit is absent and fall back to `/build`.

use axum::Router;
use axum::routing::{any, get, post};
use serde_json::{Value, json};

use super::error::ApiError;

/// Routes of this module.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route(
            "/session",
            any(|| {
                no("BuildKit sessions are not built yet; unset DOCKER_BUILDKIT to use the classic builder")
            }),
        )
        .route(
            "/grpc",
            any(|| no("BuildKit is not built yet; unset DOCKER_BUILDKIT to use the classic builder")),
        )
        .route(
            "/auth",
            post(|| no("logging in to a registry is not built yet; load images with `image load`")),
        )
        .route(
            "/images/search",
            get(|| no("searching a registry is not built yet")),
        )
        .route("/plugins", get(|| async { axum::Json(json!([])) }))
        .route("/plugins/privileges", any(|| no("plugins are not built yet")))
        .route("/plugins/pull", any(|| no("plugins are not built yet")))
        .route("/plugins/create", any(|| no("plugins are not built yet")))
        .route(
            "/plugins/{name}/json",
            get(|| async { ApiError::not_found("plugin not found") }),
        )
        .route(
            "/commit",
            post(|| no("making an image of a container is not built yet; use `image build`")),
        )
        .route(
            "/build/cancel",
            post(|| no("cancelling a build by id is not built yet; end the client instead")),
        )
        .route("/build/prune", post(|| async { axum::Json(nothing_cached()) }))
}

async fn no(message: &'static str) -> ApiError {
    ApiError::not_implemented(message)
}

/// The classic builder's cache is made of images; there is no separate one to prune.
fn nothing_cached() -> Value {
    json!({ "CachesDeleted": null, "SpaceReclaimed": 0 })
}
