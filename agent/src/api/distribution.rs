//! `/distribution/{name}/json`: which image a name means. Docker asks a registry; here the nodes of the cluster are asked.
//!
//! Stock clients ask this before they create or update a service, and write the digest into its image. The digest is the
//! image's ID, which is what nodes give each other images by.

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::blocking::call;
use super::error::{ApiError, ApiResult};
use super::state::App;
use crate::transfer::resolve;

/// Type of the document behind the digest.
const CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";

/// Routes of this module.
pub fn routes() -> Router<App> {
    Router::new().route("/distribution/{*rest}", get(inspect))
}

async fn inspect(State(app): State<App>, Path(rest): Path<String>) -> ApiResult<Json<Value>> {
    let name = rest.strip_suffix("/json");
    let name = name.ok_or_else(|| ApiError::not_found("page not found"))?;
    let client = app.cluster.peers().client();
    let found = resolve::resolve(&app.storage, client.as_ref(), None, name).await;
    let found = found.ok_or_else(|| ApiError::not_found(format!("No such image: {name}")))?;
    let storage = app.storage.clone();
    // What an image that is elsewhere is made for only its own node can tell.
    let here = call(move || {
        let image = storage.images().get(&found.id.to_string())?;
        let size = storage.images().config_bytes(&image.id)?.len();
        Ok::<_, ApiError>((
            json!([{ "architecture": image.config.architecture, "os": "linux" }]),
            size,
        ))
    });
    let (platforms, size) = here.await.unwrap_or_else(|_| (json!([]), 0));
    Ok(Json(json!({
        "Descriptor": { "mediaType": CONFIG_TYPE, "digest": found.id.to_string(), "size": size },
        "Platforms": platforms,
    })))
}
