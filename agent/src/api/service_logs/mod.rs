//! `/services/{id}/logs` and `/tasks/{id}/logs`: the logs of a service's tasks, on whatever nodes, as one stream.
//!
//! - `local`: the lines of this node's tasks; [`of_node`] serves them to managers
//! - `remote`: those of another node's
//! - `cluster`: all of them, and what is missing
//! - `line`: one line, as clients read it and as it travels; `merge`: several streams as one

mod cluster;
mod line;
mod local;
mod merge;
mod remote;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::get;
use futures::StreamExt;
use proto::Task;

use super::error::{ApiError, ApiResult};
use super::params::Params;
use super::state::App;
use super::stream::{MULTIPLEXED_STREAM, RAW_STREAM, streaming};
use super::time::moment;
use crate::engine::LogOptions;
use cluster::Nodes;
use line::Style;

pub(super) use line::timestamp;

/// Where nodes serve the lines of their tasks to managers.
pub(crate) const NODE_PATH: &str = "/v1/logs";
/// Lines in flight from the containers to the client.
const DEPTH: usize = 256;

/// Routes of this module.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/services/{id}/logs", get(of_service))
        .route("/tasks/{id}/logs", get(of_task))
}

/// `GET /v1/logs?service=ID` or `?task=ID` at the port between nodes: what the tasks of this node have written.
///
/// # Errors
/// Neither a service nor a task is named, or the options make no sense.
pub(crate) async fn of_node(State(app): State<App>, params: Params) -> ApiResult<Response> {
    let whose = match (params.filled("service"), params.filled("task")) {
        (Some(id), None) => Whose::Service(id.to_owned()),
        (None, Some(id)) => Whose::Task(id.to_owned()),
        _ => return Err(ApiError::bad_request("either a service or a task is needed")),
    };
    let lines = local::lines(app.engine.clone(), whose, log_options(&params)?);
    let lines = lines.map(|line| line.write(Style::COMPLETE));
    Ok(streaming(MULTIPLEXED_STREAM, lines))
}

/// Which tasks are meant, by identifier.
#[derive(Debug, Clone)]
enum Whose {
    Service(String),
    Task(String),
}

impl Whose {
    fn has(&self, service: &str, task: &str) -> bool {
        match self {
            Self::Service(id) => id == service,
            Self::Task(id) => id == task,
        }
    }

    /// As [`of_node`] reads it.
    fn query(&self) -> String {
        match self {
            Self::Service(id) => format!("service={id}"),
            Self::Task(id) => format!("task={id}"),
        }
    }
}

async fn of_service(State(app): State<App>, Path(id): Path<String>, params: Params) -> ApiResult<Response> {
    let service = app.control()?.service(&id)?;
    let tty = service
        .spec
        .task_template
        .container_spec
        .as_ref()
        .is_some_and(|spec| spec.tty);
    answer(&app, Whose::Service(service.id.to_string()), tty, &params)
}

async fn of_task(State(app): State<App>, Path(id): Path<String>, params: Params) -> ApiResult<Response> {
    let task: Arc<Task> = app.control()?.task(&id)?;
    let tty = task.spec.container_spec.as_ref().is_some_and(|spec| spec.tty);
    answer(&app, Whose::Task(task.id.to_string()), tty, &params)
}

fn answer(app: &App, whose: Whose, tty: bool, params: &Params) -> ApiResult<Response> {
    let options = log_options(params)?;
    let style = Style {
        tty,
        timestamps: params.flag("timestamps"),
        details: params.flag("details"),
    };
    let (manager, client) = app.manager()?;
    let nodes = Nodes {
        engine: app.engine.clone(),
        store: manager.store().clone(),
        client,
        whose,
        options,
    };
    let content_type = if tty { RAW_STREAM } else { MULTIPLEXED_STREAM };
    let lines = nodes.lines().map(move |line| line.write(style));
    Ok(streaming(content_type, lines))
}

/// Which lines a request wants.
pub(super) fn log_options(params: &Params) -> ApiResult<LogOptions> {
    let (stdout, stderr) = (params.flag("stdout"), params.flag("stderr"));
    if !stdout && !stderr {
        return Err(ApiError::bad_request(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let moment_of = |key| match params.filled(key) {
        None | Some("0") => Ok(None),
        Some(text) => moment(text).map(Some),
    };
    let tail = match params.filled("tail") {
        None | Some("all") => None,
        Some(_) => params.number("tail")?,
    };
    Ok(LogOptions {
        stdout,
        stderr,
        since: moment_of("since")?,
        until: moment_of("until")?,
        tail,
        follow: params.flag("follow"),
    })
}
