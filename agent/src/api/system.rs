//! `/_ping`, `/version`: who is speaking.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::state::App;
use super::version;

/// Version of the product.
pub const PRODUCT_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Routes of this module.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/_ping", get(ping).head(ping))
        .route("/version", get(version))
}

/// Every command of the stock CLI begins here; the headers steer its negotiation and its choice of builder.
async fn ping(State(app): State<App>, method: Method) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-store, must-revalidate"),
    );
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert("Builder-Version", HeaderValue::from_static("1"));
    headers.insert("Swarm", HeaderValue::from_static(app.swarm_header()));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    if method == Method::HEAD {
        headers.into_response()
    } else {
        (headers, "OK").into_response()
    }
}

async fn version(State(app): State<App>) -> Json<Value> {
    let host = &app.host;
    let details = json!({
        "ApiVersion": version::MAXIMUM.to_string(),
        "Arch": host.architecture,
        "BuildTime": "",
        "Experimental": "false",
        "GitCommit": "",
        "GoVersion": "none (Rust)",
        "KernelVersion": host.kernel,
        "MinAPIVersion": version::MINIMUM.to_string(),
        "Os": "linux",
    });
    let runtime = json!({ "Name": "runtime", "Version": PRODUCT_VERSION, "Details": { "GitCommit": "" } });
    Json(json!({
        "Platform": { "Name": "Shoal" },
        "Components": [{ "Name": "Engine", "Version": PRODUCT_VERSION, "Details": details }, runtime],
        "Version": PRODUCT_VERSION,
        "ApiVersion": version::MAXIMUM.to_string(),
        "MinAPIVersion": version::MINIMUM.to_string(),
        "GitCommit": "",
        "GoVersion": "none (Rust)",
        "Os": "linux",
        "Arch": host.architecture,
        "KernelVersion": host.kernel,
        "BuildTime": "",
    }))
}
