//! `/containers/*`: everything a client does with containers, as thin handlers over the engine.

mod detach;
mod lifecycle;
mod logs;
mod streams;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{any, delete, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::blocking::call;
use super::body::Json as Body;
use super::error::{ApiError, ApiResult};
use super::params::Params;
use super::state::App;
use super::types::container::{ContainerSummary, CreateBody, CreateResponse, TopResponse};
use super::types::inspect::ContainerInspect;
use crate::engine::{CreateContainer, LIST_FILTERS, ListOptions, RemoveOptions, Status};

pub(super) use detach::DetachKeys;
pub(super) use streams::{pump, size, stream_type};

const PRUNE_FILTERS: &[&str] = &["label", "label!", "until"];

/// Routes of this module.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/containers/json", get(list))
        .route("/containers/create", post(create))
        .route("/containers/prune", post(prune))
        .route("/containers/{id}", delete(remove))
        .route("/containers/{id}/json", get(inspect))
        .route("/containers/{id}/top", get(top))
        .route("/containers/{id}/changes", get(changes))
        .route("/containers/{id}/rename", post(rename))
        .route("/containers/{id}/logs", get(logs::logs))
        .route("/containers/{id}/attach", post(streams::attach))
        .route("/containers/{id}/resize", post(streams::resize))
        .merge(lifecycle::routes())
        .merge(unbuilt())
}

fn unbuilt() -> Router<App> {
    Router::new()
        .route(
            "/containers/{id}/pause",
            post(|| no("pausing containers is not built yet")),
        )
        .route(
            "/containers/{id}/unpause",
            post(|| no("pausing containers is not built yet")),
        )
        .route(
            "/containers/{id}/update",
            post(|| no("updating a container's limits is not built yet")),
        )
        .route(
            "/containers/{id}/stats",
            get(|| no("statistics of containers are not built yet")),
        )
        .route(
            "/containers/{id}/export",
            get(|| no("exporting containers is not built yet")),
        )
        .route(
            "/containers/{id}/archive",
            any(|| no("copying from and to containers is not built yet")),
        )
        .route(
            "/containers/{id}/attach/ws",
            get(|| no("attaching over a websocket is not built yet")),
        )
        .route(
            "/containers/{id}/checkpoints",
            any(|| no("checkpoints are not built")),
        )
}

async fn no(message: &'static str) -> ApiError {
    ApiError::not_implemented(message)
}

async fn create(
    State(app): State<App>,
    params: Params,
    Body(body): Body<CreateBody>,
) -> ApiResult<(StatusCode, Json<CreateResponse>)> {
    if let Some(platform) = params.filled("platform") {
        check_platform(platform)?;
    }
    let request = CreateContainer {
        name: params.filled("name").map(str::to_owned),
        config: body.config,
        host_config: body.extras.host_config,
        networking: body.extras.networking_config,
        ..Default::default()
    };
    let created = app.engine.create(request).await?;
    let response = CreateResponse {
        id: created.id.to_string(),
        warnings: created.warnings,
    };
    Ok((StatusCode::CREATED, Json(response)))
}

/// `os[/architecture[/variant]]`: this engine runs what the machine runs.
pub(super) fn check_platform(platform: &str) -> ApiResult<()> {
    let mut parts = platform.split('/');
    let os = parts.next().unwrap_or_default();
    let architecture = parts.next().unwrap_or(storage::image::host_architecture());
    if os == "linux" && architecture == storage::image::host_architecture() {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "platform {platform:?} is not that of this machine"
    )))
}

async fn list(State(app): State<App>, params: Params) -> ApiResult<Json<Vec<ContainerSummary>>> {
    let limit: i64 = params.number("limit")?.unwrap_or(0);
    let options = ListOptions {
        all: params.flag("all"),
        // Docker's command line sends -1 for "no limit".
        limit: usize::try_from(limit).unwrap_or(0),
        size: params.flag("size"),
        filters: params.filters(&LIST_FILTERS)?,
    };
    Ok(Json(app.engine.list(&options).await?))
}

async fn inspect(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<Json<ContainerInspect>> {
    Ok(Json(app.engine.inspect(&id, params.flag("size")).await?))
}

async fn top(State(app): State<App>, Path(id): Path<String>, params: Params) -> ApiResult<Json<TopResponse>> {
    Ok(Json(
        app.engine
            .top(&id, params.text("ps_args").unwrap_or_default())
            .await?,
    ))
}

/// `docker diff`.
async fn changes(State(app): State<App>, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    let container = app.engine.inspect(&id, false).await?;
    let mounts: Vec<String> = container
        .mounts
        .iter()
        .map(|mount| mount.destination.clone())
        .collect();
    let (storage, id) = (app.storage.clone(), container.id);
    let changes = call(move || storage.snapshots().diff(&id)).await?;
    let rows = changes
        .iter()
        .filter(|change| !is_mount_point(&change.path, &mounts))
        .map(|change| json!({ "Path": change.path, "Kind": change.kind as u8 }));
    Ok(Json(Value::Array(rows.collect())))
}

/// Places that the engine made for its own mounts are no change of the container's.
fn is_mount_point(path: &str, mounts: &[String]) -> bool {
    const OWN: [&str; 6] = [
        "/dev",
        "/proc",
        "/sys",
        "/etc/hostname",
        "/etc/hosts",
        "/etc/resolv.conf",
    ];
    OWN.contains(&path) || mounts.iter().any(|mount| mount == path)
}

async fn rename(State(app): State<App>, Path(id): Path<String>, params: Params) -> ApiResult<StatusCode> {
    app.engine
        .rename(&id, params.text("name").unwrap_or_default())
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove(State(app): State<App>, Path(id): Path<String>, params: Params) -> ApiResult<StatusCode> {
    if params.flag("link") {
        return Err(ApiError::not_implemented(
            "links are not supported by this engine",
        ));
    }
    let options = RemoveOptions {
        force: params.flag("force"),
        volumes: params.flag("v"),
    };
    app.engine.remove(&id, options).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes every container that does not run.
async fn prune(State(app): State<App>, params: Params) -> ApiResult<Json<Value>> {
    let filters = params.filters(PRUNE_FILTERS)?;
    let until = filters
        .values("until")
        .next()
        .map(super::time::moment)
        .transpose()?;
    let all = app
        .engine
        .list(&ListOptions {
            all: true,
            size: true,
            ..Default::default()
        })
        .await?;
    let stopped = [Status::Created, Status::Exited, Status::Dead].map(Status::as_str);
    let (mut deleted, mut reclaimed) = (Vec::new(), 0);
    for row in all
        .into_iter()
        .filter(|row| stopped.contains(&row.state.as_str()))
    {
        let old = until.is_none_or(|until| row.created < until.unix_timestamp());
        let labelled = filters.labels("label", &row.labels) && filters.excluded_labels(&row.labels);
        // One that was started, or removed, meanwhile is left to whoever did it.
        if old && labelled && app.engine.remove(&row.id, RemoveOptions::default()).await.is_ok() {
            reclaimed += row.size_rw.unwrap_or(0);
            deleted.push(row.id);
        }
    }
    Ok(Json(
        json!({ "ContainersDeleted": deleted, "SpaceReclaimed": reclaimed }),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_machines_own_platform() {
        let own = storage::image::host_architecture();
        for good in ["linux", &format!("linux/{own}"), &format!("linux/{own}/v8")] {
            assert!(check_platform(good).is_ok(), "{good}");
        }
        for bad in ["windows", "linux/s390x", "windows/amd64"] {
            assert!(check_platform(bad).unwrap_err().message.contains(bad));
        }
    }
}
