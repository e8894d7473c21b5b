//! `/containers/{id}/exec` and `/exec/*`.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde_json::{Value, json};

use super::body::{Json as Body, OptionalJson};
use super::containers::{DetachKeys, pump, size, stream_type};
use super::error::ApiResult;
use super::hijack::Hijack;
use super::params::Params;
use super::state::App;
use super::types::exec::{ExecConfig, ExecInspect, ExecStart};
use super::version::ApiVersion;

/// Routes of this module.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/containers/{id}/exec", post(create))
        .route("/exec/{id}/start", post(start))
        .route("/exec/{id}/resize", post(resize))
        .route("/exec/{id}/json", get(inspect))
}

async fn create(
    State(app): State<App>,
    Path(id): Path<String>,
    Body(config): Body<ExecConfig>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    DetachKeys::parse(&config.detach_keys)?;
    let exec = app.engine.exec_create(&id, config).await?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": exec }))))
}

async fn start(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
    Path(id): Path<String>,
    hijack: Hijack,
    OptionalJson(start): OptionalJson<ExecStart>,
) -> ApiResult<Response> {
    begin(&app, &id, version, hijack, start).await
}

/// Runs a prepared process on the connection. Errors are answered before it stops being HTTP.
pub(super) async fn begin(
    app: &App,
    id: &str,
    version: ApiVersion,
    hijack: Hijack,
    start: ExecStart,
) -> ApiResult<Response> {
    let keys = DetachKeys::parse(&app.engine.exec_inspect(id).await?.detach_keys)?;
    Ok(match app.engine.exec_start(id, start).await? {
        None => StatusCode::OK.into_response(),
        Some(process) => hijack.respond(stream_type(process.tty, version), move |client| {
            pump(client, process, keys)
        }),
    })
}

async fn resize(State(app): State<App>, Path(id): Path<String>, params: Params) -> ApiResult<StatusCode> {
    let (rows, cols) = size(&params)?;
    app.engine.exec_resize(&id, rows, cols).await?;
    Ok(StatusCode::CREATED)
}

async fn inspect(State(app): State<App>, Path(id): Path<String>) -> ApiResult<Json<ExecInspect>> {
    Ok(Json(app.engine.exec_inspect(&id).await?))
}
