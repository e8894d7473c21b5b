//! What a node answers to others of its images.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_ENCODING;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use storage::{DiffId, Digest, Encoding, ImageId, Offer, Storage};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::resolve::{self, Resolved};
use crate::api::App;
use crate::api::blocking::{body_from, call};
use crate::api::error::{ApiError, ApiResult};
use crate::api::params::Params;

/// What the node says of an image; 404 if it does not have it.
pub const OFFER: &str = "/v1/images/offer";
/// Which image a name means in the cluster; only a manager's word counts.
pub const RESOLVE: &str = "/v1/images/resolve";
/// An image's configuration, byte for byte.
pub const CONFIG: &str = "/v1/images/config";
/// The manifest that an image came with, byte for byte.
pub const MANIFEST: &str = "/v1/images/manifest";
/// A layer's tar; 503 while too many are on their way.
pub const LAYER: &str = "/v1/images/layer";
/// The word for a compressed layer.
pub(super) const ZSTD: &str = "zstd";

/// Layers that leave at once; each keeps a thread and, where compressed, most of a processor busy.
const LEAVING: usize = 6;
/// Who finds them all busy waits so long for a place; then another node may have the layer already.
const QUEUE: Duration = Duration::from_secs(2);

/// Routes of this module.
pub fn routes() -> Router<App> {
    let places = Arc::new(Semaphore::new(LEAVING));
    Router::new()
        .route(OFFER, get(offer))
        .route(RESOLVE, get(resolve))
        .route(CONFIG, get(config))
        .route(MANIFEST, get(manifest))
        .route(
            LAYER,
            get(move |State(app): State<App>, params: Params| layer(app, params, places.clone())),
        )
}

/// What this node says of an image.
pub(super) async fn own_offer(storage: &Storage, name: &str) -> ApiResult<Offer> {
    let (storage, name) = (storage.clone(), name.to_owned());
    call(move || storage.images().offer(&name)).await
}

async fn offer(State(app): State<App>, params: Params) -> ApiResult<Json<Offer>> {
    let name = params.filled("name").unwrap_or_default();
    own_offer(&app.storage, name).await.map(Json)
}

async fn resolve(State(app): State<App>, params: Params) -> ApiResult<Json<Resolved>> {
    let name = params.filled("name").unwrap_or_default();
    if app.cluster.manager().is_none() {
        return Err(ApiError::unavailable("this node is not a swarm manager"));
    }
    let client = app.cluster.peers().client();
    let resolved = resolve::resolve(&app.storage, client.as_ref(), None, name).await;
    let none = || ApiError::not_found(format!("No such image: {name}"));
    resolved.map(Json).ok_or_else(none)
}

async fn config(State(app): State<App>, params: Params) -> ApiResult<Vec<u8>> {
    let id = ImageId(digest(&params)?);
    let storage = app.storage.clone();
    call(move || {
        let image = storage.images().get(&id.to_string())?;
        storage.images().config_bytes(&image.id)
    })
    .await
}

async fn manifest(State(app): State<App>, params: Params) -> ApiResult<Vec<u8>> {
    let id = ImageId(digest(&params)?);
    let storage = app.storage.clone();
    let bytes = call(move || {
        let image = storage.images().get(&id.to_string())?;
        storage.images().manifest_bytes(&image)
    });
    let none = || ApiError::not_found(format!("image {id} has no manifest"));
    bytes.await?.ok_or_else(none)
}

async fn layer(app: App, params: Params, places: Arc<Semaphore>) -> ApiResult<Response> {
    let layer = DiffId(digest(&params)?);
    let place = timeout(QUEUE, places.acquire_owned()).await.map_err(|_| {
        ApiError::unavailable("too many layers leave this node at once; another may have it by now")
    })?;
    let place = place.map_err(|error| ApiError::internal(&error))?;
    let storage = app.storage.clone();
    let encoding = call(move || storage.layers().encoding(&layer)).await?;
    let storage = app.storage.clone();
    let body = body_from(move |to| {
        let _place = place;
        let sent = storage.layers().send(&layer, encoding, to);
        sent.map_err(io::Error::other)
    });
    Ok(match encoding {
        Encoding::Plain => body.into_response(),
        Encoding::Zstd => ([(CONTENT_ENCODING, ZSTD)], body).into_response(),
    })
}

fn digest(params: &Params) -> ApiResult<Digest> {
    let text = params.filled("id").unwrap_or_default();
    text.parse::<Digest>()
        .map_err(|error| ApiError::bad_request(error.to_string()))
}
