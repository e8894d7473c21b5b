//! `/volumes/*`: create, list, inspect, remove, prune.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use storage::{CreateVolume, Volume};

use super::blocking::call;
use super::body::OptionalJson;
use super::error::{ApiError, ApiResult};
use super::filters::Filters;
use super::params::Params;
use super::state::App;
use super::version::ApiVersion;
use crate::engine::Engine;
use crate::transfer::{slow, volume_move};

const LIST_FILTERS: &[&str] = &["dangling", "driver", "label", "label!", "name"];
const PRUNE_FILTERS: &[&str] = &["label", "label!", "all"];
/// From this version on, pruning spares named volumes unless `all` is given.
const SPARES_NAMED: ApiVersion = ApiVersion::new(1, 42);

/// Routes of this module.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/volumes", get(list))
        .route("/volumes/create", post(create))
        .route("/volumes/prune", post(prune))
        .route("/volumes/{name}/move", post(move_to))
        .route("/volumes/{name}", get(inspect).delete(remove).put(update))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct CreateBody {
    name: Option<String>,
    driver: Option<String>,
    driver_opts: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
    cluster_volume_spec: Option<Value>,
}

/// A volume in the API's JSON.
pub fn volume_json(volume: &Volume) -> Value {
    let options = if volume.options.is_empty() {
        Value::Null
    } else {
        json!(volume.options)
    };
    let labels = if volume.labels.is_empty() {
        Value::Null
    } else {
        json!(volume.labels)
    };
    json!({
        "CreatedAt": volume.created_at, "Driver": volume.driver, "Labels": labels,
        "Mountpoint": volume.mountpoint, "Name": volume.name, "Options": options, "Scope": volume.scope,
    })
}

async fn create(
    State(app): State<App>,
    OptionalJson(body): OptionalJson<CreateBody>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    if body.cluster_volume_spec.is_some_and(|spec| !spec.is_null()) {
        return Err(ApiError::not_implemented("cluster volumes are not built yet"));
    }
    let request = CreateVolume {
        name: body.name.filter(|name| !name.is_empty()),
        driver: body.driver.unwrap_or_default(),
        options: body.driver_opts.unwrap_or_default(),
        labels: body.labels.unwrap_or_default(),
    };
    let storage = app.storage.clone();
    let volume = call(move || storage.volumes().create(request)).await?;
    publish(&app.engine, "create", &volume.name);
    Ok((StatusCode::CREATED, Json(volume_json(&volume))))
}

async fn list(State(app): State<App>, params: Params) -> ApiResult<Json<Value>> {
    let filters = params.filters(LIST_FILTERS)?;
    let dangling = filters.flag("dangling")?;
    let storage = app.storage.clone();
    let mut volumes = call(move || storage.volumes().list()).await?;
    volumes.retain(|volume| {
        wanted(&filters, volume)
            && dangling.is_none_or(|wanted| wanted == app.engine.volume_users(&volume.name).is_empty())
    });
    let volumes: Vec<Value> = volumes.iter().map(volume_json).collect();
    Ok(Json(json!({ "Volumes": volumes, "Warnings": null })))
}

fn wanted(filters: &Filters, volume: &Volume) -> bool {
    filters.exact("driver", &volume.driver)
        && filters.substring("name", &volume.name)
        && filters.labels("label", &volume.labels)
        && filters.excluded_labels(&volume.labels)
}

async fn inspect(State(app): State<App>, Path(name): Path<String>) -> ApiResult<Json<Value>> {
    let storage = app.storage.clone();
    let volume = call(move || storage.volumes().get(&name)).await?;
    Ok(Json(volume_json(&volume)))
}

async fn remove(State(app): State<App>, Path(name): Path<String>, params: Params) -> ApiResult<StatusCode> {
    let force = params.flag("force");
    let (storage, engine, gone) = (app.storage.clone(), app.engine.clone(), name.clone());
    call(move || {
        storage
            .volumes()
            .remove(&gone, force, &|name| users(&engine, name))
    })
    .await?;
    publish(&app.engine, "destroy", &name);
    Ok(StatusCode::NO_CONTENT)
}

/// Moves a volume and the tasks that use it to another node of the cluster. What is refused is a status code; what fails
/// later is `error` in the answer's JSON, for which blanks are sent while the work goes on.
async fn move_to(State(app): State<App>, Path(name): Path<String>, params: Params) -> ApiResult<Response> {
    let to = params.filled("to");
    let to = to.ok_or_else(|| ApiError::bad_request("say to which node with \"to\""))?;
    let moving = volume_move::begin(&app, &name, params.filled("from"), to).await?;
    Ok(slow::answer(
        async move { volume_move::finish(&app, moving).await },
    ))
}

async fn update(Path(name): Path<String>) -> ApiError {
    ApiError::bad_request(format!(
        "volume {name} is not a cluster volume: only those can be updated"
    ))
}

async fn prune(
    State(app): State<App>,
    version: axum::Extension<ApiVersion>,
    params: Params,
) -> ApiResult<Json<Value>> {
    let filters = params.filters(PRUNE_FILTERS)?;
    let all = filters.flag("all")?.unwrap_or(version.0 < SPARES_NAMED);
    let (storage, engine) = (app.storage.clone(), app.engine.clone());
    let (names, freed) = call(move || {
        let selected = |volume: &Volume| (all || volume.anonymous) && wanted(&filters, volume);
        storage.volumes().prune(&selected, &|name| users(&engine, name))
    })
    .await?;
    for name in &names {
        publish(&app.engine, "destroy", name);
    }
    Ok(Json(json!({ "VolumesDeleted": names, "SpaceReclaimed": freed })))
}

fn users(engine: &Engine, volume: &str) -> Vec<String> {
    engine
        .volume_users(volume)
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// Tells the event stream of a volume.
pub(crate) fn publish(engine: &Engine, action: &str, name: &str) {
    let attributes = BTreeMap::from([("driver".to_owned(), "local".to_owned())]);
    engine.publish_event("local", "volume", action, name, attributes);
}
