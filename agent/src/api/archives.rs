//! Images coming and going as streams: load, save, import, and the refusal of pull.

use std::io;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use storage::{ImageId, Reference, image::LoadEvent};

use super::blocking::{BodyReader, body_from, call};
use super::error::{ApiError, ApiResult};
use super::images::publish;
use super::params::Params;
use super::progress::{self, Progress};
use super::state::App;

/// Routes of this module.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/images/load", post(load))
        .route("/images/get", get(save_many))
        .route("/images/create", post(create))
}

async fn load(State(app): State<App>, params: Params, body: Body) -> Response {
    let mut archive = BodyReader::new(body);
    let quiet = params.flag("quiet");
    progress::blocking(move |progress| {
        let images = app.storage.images();
        let loaded = images.load(&mut archive, &mut |event| tell(progress, &event, quiet))?;
        for image in loaded {
            let id = image.id.to_string();
            publish(&app.engine, "load", &id, image.refs.first().map_or(&id, |_| &id));
        }
        Ok(())
    })
    .await
}

fn tell(progress: &Progress, event: &LoadEvent, quiet: bool) {
    match event {
        LoadEvent::Layer { .. } if quiet => {}
        LoadEvent::Layer {
            diff_id,
            current,
            total,
        } => {
            let digest = diff_id.to_string();
            let short: String = digest.trim_start_matches("sha256:").chars().take(12).collect();
            progress.send_blocking(json!({
                "status": "Loading layer",
                "progressDetail": { "current": current, "total": total },
                "id": short,
            }));
        }
        LoadEvent::Renamed { reference, old } => {
            let name = reference.familiar();
            progress.stream_blocking(format!(
                "The image {name} already exists, renaming the old one with ID {old} to empty string\n"
            ));
        }
        LoadEvent::Loaded(image) if image.refs.is_empty() => {
            progress.stream_blocking(format!("Loaded image ID: {}\n", image.id));
        }
        LoadEvent::Loaded(image) => {
            for reference in &image.refs {
                progress.stream_blocking(format!("Loaded image: {}\n", reference.familiar()));
            }
        }
    }
}

async fn save_many(State(app): State<App>, params: Params) -> ApiResult<Response> {
    let names: Vec<String> = params
        .all("names")
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        return Err(ApiError::bad_request("no image given to save"));
    }
    save(app, names).await
}

/// A tar of the named images.
pub(super) async fn save(app: App, names: Vec<String>) -> ApiResult<Response> {
    // An unknown name must be an error before the first byte, not a broken archive.
    let (storage, checked) = (app.storage.clone(), names.clone());
    call(move || {
        checked
            .iter()
            .try_for_each(|name| storage.images().get(name).map(drop))
    })
    .await?;
    let storage = app.storage.clone();
    let body = body_from(move |archive| {
        storage
            .images()
            .save(&names, archive)
            .map_err(|error| io::Error::other(error.chain()))
    });
    Ok((StatusCode::OK, [(CONTENT_TYPE, "application/x-tar")], body).into_response())
}

async fn create(State(app): State<App>, params: Params, body: Body) -> ApiResult<Response> {
    let tar = BodyReader::new(body);
    if let Some(platform) = params.filled("platform") {
        super::containers::check_platform(platform)?;
    }
    match (params.filled("fromImage"), params.filled("fromSrc")) {
        (Some(image), _) => pull(app, image, params.filled("tag")).await,
        (None, Some("-")) => import(app, &params, tar).await,
        (None, Some(url)) => Err(ApiError::not_implemented(format!(
            "importing from {url:?} is not supported: download it and pipe it into `image import -`"
        ))),
        (None, None) => Err(ApiError::bad_request("neither fromImage nor fromSrc was given")),
    }
}

/// No registry is spoken to yet. An image that is here already counts as pulled, as an up-to-date one does for Docker.
async fn pull(app: App, image: &str, tag: Option<&str>) -> ApiResult<Response> {
    let reference: Reference = image.parse()?;
    let reference = match tag {
        Some(digest) if digest.contains(':') => format!("{}@{digest}", reference.repository()).parse()?,
        Some(tag) => reference.with_tag(tag)?,
        None => reference.tagged(),
    };
    let name = reference.familiar();
    let (storage, wanted) = (app.storage.clone(), name.clone());
    match call(move || storage.images().get(&wanted)).await {
        // Nobody asked the registry whether it is up to date.
        Ok(_) => Err(ApiError::not_implemented(format!(
            "{name} is here, but pulling from a registry is not built yet: use the image as it is (--pull missing)"
        ))),
        Err(error) if error.status == StatusCode::NOT_FOUND => Err(ApiError::not_found(format!(
            "No such image: {name}: pulling from a registry is not built yet; load it with `image load`, or build it"
        ))),
        Err(error) => Err(error),
    }
}

async fn import(app: App, params: &Params, mut tar: BodyReader) -> ApiResult<Response> {
    let reference = params.filled("repo").map(str::parse::<Reference>).transpose()?;
    let reference = match (reference, params.filled("tag")) {
        (Some(reference), Some(tag)) => Some(reference.with_tag(tag)?),
        (reference, _) => reference.map(|reference| reference.tagged()),
    };
    let options = storage::image::ImportOptions {
        reference,
        changes: params.all("changes").map(str::to_owned).collect(),
        message: params.text("message").unwrap_or_default().to_owned(),
    };
    Ok(progress::blocking(move |progress| {
        let id: ImageId = app.storage.images().import(&mut tar, &options)?;
        publish(&app.engine, "import", &id.to_string(), &id.to_string());
        progress.send_blocking(json!({ "status": id.to_string() }));
        Ok(())
    })
    .await)
}
