//! Start, stop, restart, kill, wait.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;
use futures::stream;

use crate::api::error::{ApiError, ApiResult};
use crate::api::params::Params;
use crate::api::state::App;
use crate::api::stream::{JSON, streaming};
use crate::api::types::container::{WaitError, WaitResponse};
use crate::engine::{ExitStatus, WaitCondition};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/containers/{id}/start", post(start))
        .route("/containers/{id}/stop", post(stop))
        .route("/containers/{id}/restart", post(restart))
        .route("/containers/{id}/kill", post(kill))
        .route("/containers/{id}/wait", post(wait))
}

async fn start(State(app): State<App>, Path(id): Path<String>, params: Params) -> ApiResult<StatusCode> {
    if params.filled("checkpoint").is_some() || params.filled("checkpoint-dir").is_some() {
        return Err(ApiError::not_implemented("checkpoints are not built"));
    }
    app.engine.start(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn stop(State(app): State<App>, Path(id): Path<String>, params: Params) -> ApiResult<StatusCode> {
    app.engine
        .stop(&id, params.number("t")?, params.filled("signal"))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn restart(State(app): State<App>, Path(id): Path<String>, params: Params) -> ApiResult<StatusCode> {
    app.engine
        .restart(&id, params.number("t")?, params.filled("signal"))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn kill(State(app): State<App>, Path(id): Path<String>, params: Params) -> ApiResult<StatusCode> {
    app.engine
        .kill(&id, params.text("signal").unwrap_or_default())
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The headers leave when the subscription holds: `docker run` sends its start only then.
async fn wait(State(app): State<App>, Path(id): Path<String>, params: Params) -> ApiResult<Response> {
    let condition = match params.text("condition") {
        None | Some("" | "not-running") => WaitCondition::NotRunning,
        Some("next-exit") => WaitCondition::NextExit,
        Some("removed") => WaitCondition::Removed,
        Some(other) => return Err(ApiError::bad_request(format!("invalid condition: {other:?}"))),
    };
    let waiter = app.engine.wait(&id, condition)?;
    Ok(streaming(JSON, stream::once(async move { answer(waiter.await) })))
}

fn answer(status: ExitStatus) -> Bytes {
    let answer = WaitResponse {
        status_code: i64::from(status.code),
        error: status.error.map(|message| WaitError { message }),
    };
    // Plain words and a number: there is nothing in it that cannot be written.
    let mut line = serde_json::to_vec(&answer).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
