//! `/images/*`: list, inspect, history, tag, remove, prune. Archives are in [`super::archives`].
//!
//! Image names contain `/` and `:`, so one catch-all route takes the path and the action is split off its end by hand.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use storage::image::{ImageUse, RemoveOptions, Removed};
use storage::{Image, ImageId, Reference, Storage};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::blocking::call;
use super::error::{ApiError, ApiResult};
use super::filters::Filters;
use super::params::Params;
use super::state::App;
use super::{archives, image_json};
use crate::engine::Engine;

const LIST_FILTERS: &[&str] = &[
    "reference",
    "label",
    "label!",
    "dangling",
    "before",
    "since",
    "until",
];
const PRUNE_FILTERS: &[&str] = &["dangling", "label", "label!", "until"];

/// Routes of this module.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/images/json", get(list))
        .route("/images/prune", post(prune))
        .route("/images/{*rest}", get(get_one).post(post_one).delete(remove))
}

/// `/images/a/b:c/json` → (`a/b:c`, `json`).
fn split(rest: &str) -> ApiResult<(&str, &str)> {
    rest.rsplit_once('/')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| ApiError::not_found("page not found"))
}

async fn get_one(State(app): State<App>, Path(rest): Path<String>) -> ApiResult<Response> {
    let (name, action) = split(&rest)?;
    match action {
        "json" => inspect(app, name.to_owned()).await,
        "history" => history(app, name.to_owned()).await,
        "get" => archives::save(app, vec![name.to_owned()]).await,
        _ => Err(ApiError::not_found("page not found")),
    }
}

async fn post_one(State(app): State<App>, Path(rest): Path<String>, params: Params) -> ApiResult<Response> {
    let (name, action) = split(&rest)?;
    match action {
        "tag" => tag(app, name.to_owned(), params).await,
        "push" => Err(ApiError::not_implemented(
            "pushing to a registry is not built yet; carry images with `image save` and `image load`",
        )),
        _ => Err(ApiError::not_found("page not found")),
    }
}

async fn list(State(app): State<App>, params: Params) -> ApiResult<Json<Vec<Value>>> {
    let filters = params.filters(LIST_FILTERS)?;
    let storage = app.storage.clone();
    let mut images = call(move || select(&storage, &filters)).await?;
    images.sort_by(|a, b| b.created.cmp(&a.created));
    let digests = params.flag("digests");
    Ok(Json(
        images
            .iter()
            .map(|image| image_json::summary(image, digests))
            .collect(),
    ))
}

fn select(storage: &Storage, filters: &Filters) -> ApiResult<Vec<Image>> {
    let dangling = filters.flag("dangling")?;
    let before = filters
        .values("before")
        .next()
        .map(|name| created_of(storage, name))
        .transpose()?;
    let since = filters
        .values("since")
        .next()
        .map(|name| created_of(storage, name))
        .transpose()?;
    let until = filters
        .values("until")
        .next()
        .map(super::time::moment)
        .transpose()?;
    let mut images = storage.images().list()?;
    images.retain(|image| {
        let created = created(image);
        filters.labels("label", &image.config.config.labels)
            && filters.excluded_labels(&image.config.config.labels)
            && dangling.is_none_or(|wanted| wanted == image.refs.is_empty())
            && before.is_none_or(|limit| created < limit)
            && since.is_none_or(|limit| created > limit)
            && until.is_none_or(|limit| created < limit)
    });
    if filters.contains("reference") {
        for image in &mut images {
            image
                .refs
                .retain(|reference| filters.any("reference", |pattern| matches(reference, pattern)));
        }
        images.retain(|image| !image.refs.is_empty());
    }
    Ok(images)
}

fn created_of(storage: &Storage, name: &str) -> ApiResult<OffsetDateTime> {
    Ok(created(&storage.images().get(name)?))
}

fn created(image: &Image) -> OffsetDateTime {
    OffsetDateTime::parse(&image.created, &Rfc3339).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Docker's `reference` filter: a glob over the familiar name, with or without tag, where `*` stops at `/`.
fn matches(reference: &Reference, pattern: &str) -> bool {
    let normal = pattern.parse::<Reference>().map(|wanted| wanted.familiar());
    let names = [
        reference.familiar(),
        reference.familiar_repository(),
        reference.to_string(),
    ];
    names.iter().any(|name| glob(pattern.as_bytes(), name.as_bytes()))
        || normal.is_ok_and(|wanted| names.contains(&wanted))
}

fn glob(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            glob(rest, name)
                || name
                    .split_first()
                    .is_some_and(|(&c, tail)| c != b'/' && glob(pattern, tail))
        }
        (Some((b'?', rest)), Some((c, tail))) => *c != b'/' && glob(rest, tail),
        (Some((p, rest)), Some((c, tail))) => p == c && glob(rest, tail),
        _ => false,
    }
}

async fn inspect(app: App, name: String) -> ApiResult<Response> {
    let storage = app.storage.clone();
    let image = call(move || storage.images().get(&name)).await?;
    Ok(Json(image_json::inspect(&image)).into_response())
}

async fn history(app: App, name: String) -> ApiResult<Response> {
    let storage = app.storage.clone();
    let entries = call(move || storage.images().history(&name)).await?;
    let lines: Vec<Value> = entries
        .into_iter()
        .map(|entry| {
            let tags = if entry.tags.is_empty() {
                Value::Null
            } else {
                json!(entry.tags)
            };
            json!({
                "Id": entry.id, "Created": entry.created, "CreatedBy": entry.created_by, "Tags": tags,
                "Size": entry.size, "Comment": entry.comment,
            })
        })
        .collect();
    Ok(Json(lines).into_response())
}

async fn tag(app: App, name: String, params: Params) -> ApiResult<Response> {
    let repository = params
        .filled("repo")
        .ok_or_else(|| ApiError::bad_request("repository name is missing"))?;
    let reference: Reference = repository.parse()?;
    let reference = match params.filled("tag") {
        Some(tag) => reference.with_tag(tag)?,
        None => reference.tagged(),
    };
    let familiar = reference.familiar();
    let storage = app.storage.clone();
    let image = call(move || {
        storage.images().tag(&name, &reference)?;
        storage.images().get(&name)
    });
    let image = image.await?;
    publish(&app.engine, "tag", &image.id.to_string(), &familiar);
    Ok(StatusCode::CREATED.into_response())
}

async fn remove(
    State(app): State<App>,
    Path(name): Path<String>,
    params: Params,
) -> ApiResult<Json<Vec<Removed>>> {
    let options = RemoveOptions {
        force: params.flag("force"),
        no_prune: params.flag("noprune"),
    };
    let (storage, engine) = (app.storage.clone(), app.engine.clone());
    let removed = call(move || {
        storage
            .images()
            .remove(&name, options, &|id| image_use(&engine, id))
    })
    .await?;
    announce(&app.engine, &removed);
    Ok(Json(removed))
}

async fn prune(State(app): State<App>, params: Params) -> ApiResult<Json<Value>> {
    let filters = params.filters(PRUNE_FILTERS)?;
    let only_dangling = filters.flag("dangling")?.unwrap_or(true);
    let until = filters
        .values("until")
        .next()
        .map(super::time::moment)
        .transpose()?;
    let (storage, engine) = (app.storage.clone(), app.engine.clone());
    let (removed, freed) = call(move || {
        let selected = |image: &Image| {
            (!only_dangling || image.refs.is_empty())
                && filters.labels("label", &image.config.config.labels)
                && filters.excluded_labels(&image.config.config.labels)
                && until.is_none_or(|limit| created(image) < limit)
        };
        storage.images().prune(&selected, &|id| image_use(&engine, id))
    })
    .await?;
    announce(&app.engine, &removed);
    let removed = if removed.is_empty() {
        Value::Null
    } else {
        json!(removed)
    };
    Ok(Json(json!({ "ImagesDeleted": removed, "SpaceReclaimed": freed })))
}

fn image_use(engine: &Engine, id: &ImageId) -> Option<ImageUse> {
    let container = engine.image_users(&id.to_string()).into_iter().next()?;
    let running = engine
        .watch(container.as_str())
        .is_ok_and(|state| state.borrow().status.is_active());
    Some(ImageUse {
        container: container.to_string(),
        running,
    })
}

fn announce(engine: &Engine, removed: &[Removed]) {
    for one in removed {
        match one {
            Removed::Untagged(name) => publish(engine, "untag", name, name),
            Removed::Deleted(id) => publish(engine, "delete", id, id),
        }
    }
}

/// Tells the event stream of an image.
pub(super) fn publish(engine: &Engine, action: &str, id: &str, name: &str) {
    let attributes = BTreeMap::from([("name".to_owned(), name.to_owned())]);
    engine.publish_event("local", "image", action, id, attributes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_action_is_the_last_segment() {
        assert_eq!(
            split("host:5000/a/b:c/json").unwrap(),
            ("host:5000/a/b:c", "json")
        );
        assert!(split("json").is_err());
    }

    #[test]
    fn reference_patterns() {
        let reference: Reference = "docker.io/library/busybox:1.36".parse().unwrap();
        for pattern in [
            "busybox",
            "busybox:*",
            "busy*",
            "busybox:1.36",
            "docker.io/library/busybox:1.36",
        ] {
            assert!(matches(&reference, pattern), "{pattern}");
        }
        for pattern in ["busybox:latest", "box", "other*"] {
            assert!(!matches(&reference, pattern), "{pattern}");
        }
        let deep: Reference = "a/b:c".parse().unwrap();
        assert!(matches(&deep, "a/*") && !matches(&deep, "*"));
    }
}
