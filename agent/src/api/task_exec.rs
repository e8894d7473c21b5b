//! `/tasks/{id}/exec`: processes in a task's container, on whatever node it is. Docker has nothing like it.
//!
//! As `/containers/{id}/exec` and `/exec/{id}`, but below the task: `POST /tasks/{id}/exec` prepares,
//! `POST …/exec/{exec}/start` runs on the connection, `…/resize` and `…/json` do as their likes. The manager passes each of
//! them on to the task's node, where [`node_routes`] answers.

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use axum::routing::{any, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::body::{Json as JsonBody, OptionalJson};
use super::containers::{DetachKeys, size};
use super::error::{ApiError, ApiResult};
use super::exec;
use super::hijack::Hijack;
use super::params::Params;
use super::state::App;
use super::types::exec::{ExecConfig, ExecInspect, ExecStart};
use super::version::MAXIMUM;
use crate::engine::EngineError;
use crate::peer::proxy;

/// Routes of this module.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/tasks/{id}/exec", post(create))
        .route("/tasks/{id}/exec/{*rest}", any(further))
}

/// Routes at the port between nodes: tasks are named by their whole identifiers.
pub fn node_routes() -> Router<App> {
    Router::new()
        .route("/v1/tasks/{id}/exec", post(create_here))
        .route("/v1/tasks/{id}/exec/{exec}/start", post(start_here))
        .route("/v1/tasks/{id}/exec/{exec}/resize", post(resize_here))
        .route("/v1/tasks/{id}/exec/{exec}/json", get(inspect_here))
}

async fn create(State(app): State<App>, Path(id): Path<String>, request: Request) -> ApiResult<Response> {
    at_node(app, &id, "", request).await
}

async fn further(
    State(app): State<App>,
    Path((id, rest)): Path<(String, String)>,
    request: Request,
) -> ApiResult<Response> {
    at_node(app, &id, &format!("/{rest}"), request).await
}

/// The answer of the task's node.
async fn at_node(app: App, id: &str, rest: &str, request: Request<Body>) -> ApiResult<Response> {
    let (manager, client) = app.manager()?;
    let task = manager.control().task(id)?;
    if task.node_id.as_str().is_empty() {
        return Err(ApiError::conflict(format!("task {} has no node yet", task.id)));
    }
    let query = request.uri().query().map(|query| format!("?{query}"));
    let uri = format!("/v1/tasks/{}/exec{rest}{}", task.id, query.unwrap_or_default());
    let uri: Uri = uri.parse().map_err(|_| ApiError::bad_request("invalid path"))?;
    if task.node_id != *manager.node_id() {
        return Ok(proxy::pass_on(&client, &task.node_id, uri, request).await);
    }
    let answer = node_routes()
        .fallback(page_not_found)
        .with_state(app)
        .oneshot(proxy::anew(request, uri))
        .await;
    match answer {
        Ok(answer) => Ok(answer),
        Err(never) => match never {},
    }
}

async fn page_not_found() -> ApiError {
    ApiError::not_found("page not found")
}

async fn create_here(
    State(app): State<App>,
    Path(task): Path<String>,
    JsonBody(config): JsonBody<ExecConfig>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    DetachKeys::parse(&config.detach_keys)?;
    let exec = app.engine.exec_create(&container(&app, &task)?, config).await?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": exec }))))
}

async fn start_here(
    State(app): State<App>,
    Path((task, id)): Path<(String, String)>,
    hijack: Hijack,
    OptionalJson(start): OptionalJson<ExecStart>,
) -> ApiResult<Response> {
    of_task(&app, &task, &id).await?;
    exec::begin(&app, &id, MAXIMUM, hijack, start).await
}

async fn resize_here(
    State(app): State<App>,
    Path((task, id)): Path<(String, String)>,
    params: Params,
) -> ApiResult<StatusCode> {
    of_task(&app, &task, &id).await?;
    let (rows, columns) = size(&params)?;
    app.engine.exec_resize(&id, rows, columns).await?;
    Ok(StatusCode::CREATED)
}

async fn inspect_here(
    State(app): State<App>,
    Path((task, id)): Path<(String, String)>,
) -> ApiResult<Json<ExecInspect>> {
    of_task(&app, &task, &id).await.map(Json)
}

/// The container of a task of this node.
fn container(app: &App, task: &str) -> ApiResult<String> {
    let mut tasks = app.engine.tasks().into_iter();
    let found = tasks.find(|(_, of)| of.task_id == task);
    let found = found.map(|(id, _)| id.to_string());
    found.ok_or_else(|| ApiError::conflict(format!("task {task} has no container on its node")))
}

/// An exec that belongs to the task.
async fn of_task(app: &App, task: &str, id: &str) -> ApiResult<ExecInspect> {
    let exec = app.engine.exec_inspect(id).await?;
    match exec.container_id == container(app, task)? {
        true => Ok(exec),
        false => Err(EngineError::NoSuchExec(id.to_owned()).into()),
    }
}
