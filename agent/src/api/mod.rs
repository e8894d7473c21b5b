//! The Docker Engine HTTP API: the one control surface of the daemon.
//!
//! Each endpoint family is a module with `pub fn routes() -> Router<App>`, merged in [`routes`]. Requests arrive with or
//! without a `/vX.Y` prefix; [`version`] strips it before routing, so handlers only ever see bare paths.
//!
//! Infrastructure that handlers share: [`error::ApiError`] (JSON `{"message"}`), [`params::Params`] (query string with
//! Docker's booleans), [`filters::Filters`] (both JSON forms), [`body::Json`]/[`body::OptionalJson`] (request bodies),
//! [`stream`] (bodies whose headers leave at once), [`progress`] (one JSON object per line), [`hijack`] (upgrades).

pub mod archives;
pub mod blocking;
pub mod body;
pub mod build;
pub(crate) mod cluster_events;
pub mod containers;
pub mod convert;
pub mod distribution;
pub mod error;
pub mod events;
pub mod exec;
pub mod filters;
pub mod hijack;
pub mod image_json;
pub mod images;
pub mod info;
mod info_swarm;
mod leader;
mod listening;
pub mod materials;
mod network_peers;
pub mod network_view;
pub mod networks;
mod node_stream;
pub mod nodes;
pub mod params;
pub mod progress;
pub mod rebalance;
pub mod service_defaults;
mod service_image;
pub mod service_logs;
pub mod services;
pub mod state;
pub mod stream;
pub mod stubs;
pub mod swarm;
pub mod system;
pub mod task_exec;
pub mod tasks;
pub mod time;
pub mod types;
pub mod version;
pub mod volumes;

use axum::Router;
use axum::extract::DefaultBodyLimit;

pub use error::{ApiError, ApiResult};
pub use state::{App, AppState};

/// Bodies that are parsed as JSON may not be larger than this (a secret is at most 500 KiB, a config 1000 KiB).
pub(crate) const JSON_BODY_LIMIT: usize = 4 << 20;

/// The complete service: version handling around every route, JSON errors for everything unknown.
pub fn router(app: App) -> Router {
    let leader = axum::middleware::from_fn_with_state(app.clone(), leader::route);
    version::wrap(routes().layer(leader).with_state(app))
}

fn routes() -> Router<App> {
    Router::new()
        .merge(archives::routes())
        .merge(build::routes())
        .merge(containers::routes())
        .merge(distribution::routes())
        .merge(events::routes())
        .merge(exec::routes())
        .merge(images::routes())
        .merge(info::routes())
        .merge(materials::routes())
        .merge(networks::routes())
        .merge(nodes::routes())
        .merge(service_logs::routes())
        .merge(services::routes())
        .merge(stubs::routes())
        .merge(rebalance::routes())
        .merge(swarm::routes())
        .merge(system::routes())
        .merge(task_exec::routes())
        .merge(tasks::routes())
        .merge(volumes::routes())
        .fallback(page_not_found)
        .method_not_allowed_fallback(page_not_found)
        .layer(DefaultBodyLimit::max(JSON_BODY_LIMIT))
}

async fn page_not_found() -> ApiError {
    ApiError::not_found("page not found")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    async fn get(path: &str) -> (StatusCode, String) {
        let inner = Router::new().merge(stubs::routes()).fallback(page_not_found);
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = version::wrap(inner).oneshot(request).await.unwrap();
        let status = response.status();
        assert!(response.headers().contains_key("Api-Version"));
        (
            status,
            String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap(),
        )
    }

    #[tokio::test]
    async fn versioned_and_bare_paths_reach_the_same_handler() {
        for path in ["/plugins", "/v1.24/plugins", "/v1.44/plugins?x=y"] {
            assert_eq!(get(path).await, (StatusCode::OK, "[]".to_owned()), "{path}");
        }
    }

    #[tokio::test]
    async fn unknown_paths_and_versions_are_json_errors() {
        let unknown = get("/v1.44/nonsense").await;
        assert_eq!(
            unknown,
            (
                StatusCode::NOT_FOUND,
                r#"{"message":"page not found"}"#.to_owned()
            )
        );
        assert_eq!(get("/v1.99/plugins").await.0, StatusCode::BAD_REQUEST);
        assert_eq!(get("/session").await.0, StatusCode::NOT_IMPLEMENTED);
    }
}
