//! `/services/{id}/logs` and `/tasks/{id}/logs`: the logs of all containers of a service on this node, as one stream.
//!
//! What other nodes hold is named first. Not following: lines of all containers in order of time. Following: lines as they come, also of tasks that start later.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use proto::Task;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::error::{ApiError, ApiResult};
use super::logs_elsewhere;
use super::params::Params;
use super::state::App;
use super::stream::{MULTIPLEXED_STREAM, RAW_STREAM, stdcopy_frame, streaming};
use super::time::moment;
use crate::engine::{Engine, LogEntry, LogOptions, LogStream, TaskRef};

/// Lines in flight from the containers to the client.
const DEPTH: usize = 256;

/// Routes of this module.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/services/{id}/logs", get(of_service))
        .route("/tasks/{id}/logs", get(of_task))
}

/// Which containers are meant.
#[derive(Debug, Clone)]
enum Whose {
    Service(String),
    Task(String),
}

impl Whose {
    fn has(&self, task: &TaskRef) -> bool {
        match self {
            Self::Service(id) => *id == task.service_id,
            Self::Task(id) => *id == task.task_id,
        }
    }
}

/// How a line is written.
#[derive(Debug, Clone, Copy)]
struct Style {
    tty: bool,
    timestamps: bool,
    details: bool,
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
    let elsewhere = logs_elsewhere::notes(app, |task| whose.has(task));
    let elsewhere = elsewhere.into_iter().map(|(task, entry)| Line { task, entry });
    let lines: futures::stream::BoxStream<'static, Line> = if options.follow {
        followed(app.engine.clone(), whose, options).boxed()
    } else {
        in_order(app.engine.clone(), whose, options).boxed()
    };
    let content_type = if tty { RAW_STREAM } else { MULTIPLEXED_STREAM };
    Ok(streaming(
        content_type,
        stream::iter(elsewhere)
            .chain(lines)
            .map(move |line| line.write(style)),
    ))
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

/// One line and whose it is.
struct Line {
    task: Arc<TaskRef>,
    entry: LogEntry,
}

impl Line {
    fn write(&self, style: Style) -> Bytes {
        let mut text = Vec::with_capacity(self.entry.line.len() + 160);
        if style.timestamps {
            text.extend_from_slice(timestamp(self.entry.time).as_bytes());
            text.push(b' ');
        }
        if style.details {
            text.extend_from_slice(details(&self.task).as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(&self.entry.line);
        if style.tty {
            text.into()
        } else {
            stdcopy_frame(self.entry.stream, &text)
        }
    }
}

/// What the stock CLI needs to name the task: it cuts this off the line again.
fn details(task: &TaskRef) -> String {
    format!(
        "com.docker.swarm.node.id={},com.docker.swarm.service.id={},com.docker.swarm.task.id={}",
        task.node_id, task.service_id, task.task_id
    )
}

/// Nanoseconds always with nine digits, so that timestamps line up.
pub(super) fn timestamp(moment: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z");
    moment
        .to_offset(time::UtcOffset::UTC)
        .format(&format)
        .unwrap_or_default()
}

/// Lines of all containers, merged by time.
fn in_order(engine: Arc<Engine>, whose: Whose, options: LogOptions) -> impl Stream<Item = Line> {
    stream::once(async move {
        let mut heads = Vec::new();
        for (task, mut lines) in open_all(&engine, &whose, &options).await {
            if let Some(entry) = lines.next().await {
                heads.push((Line { task, entry }, lines));
            }
        }
        stream::unfold(heads, earliest)
    })
    .flatten()
}

type Heads = Vec<(Line, LogStream)>;

async fn earliest(mut heads: Heads) -> Option<(Line, Heads)> {
    let (index, _) = heads
        .iter()
        .enumerate()
        .min_by_key(|(_, (line, _))| line.entry.time)?;
    let task = heads[index].0.task.clone();
    let line = match heads[index].1.next().await {
        Some(entry) => std::mem::replace(&mut heads[index].0, Line { task, entry }),
        None => heads.swap_remove(index).0,
    };
    Some((line, heads))
}

async fn open_all(engine: &Engine, whose: &Whose, options: &LogOptions) -> Vec<(Arc<TaskRef>, LogStream)> {
    let mut streams = Vec::new();
    for (container, task) in engine.tasks().into_iter().filter(|(_, task)| whose.has(task)) {
        // A container that goes away meanwhile has no log to show.
        if let Ok(lines) = engine.logs(container.as_str(), options.clone()).await {
            streams.push((Arc::new(task), lines));
        }
    }
    streams
}

/// Lines as they come. Each start of a container is a chance that a new task has joined.
fn followed(engine: Arc<Engine>, whose: Whose, options: LogOptions) -> impl Stream<Item = Line> {
    let (sender, receiver) = mpsc::channel(DEPTH);
    tokio::spawn(async move {
        let mut events = engine.events();
        let mut known = HashSet::new();
        let mut options = options;
        loop {
            for (container, task) in engine.tasks().into_iter().filter(|(_, task)| whose.has(task)) {
                if known.insert(container.clone())
                    && let Ok(lines) = engine.logs(container.as_str(), options.clone()).await
                {
                    tokio::spawn(forward(lines, Arc::new(task), sender.clone()));
                }
            }
            // Whatever starts from now on is new from its first line.
            options.tail = None;
            tokio::select! {
                () = sender.closed() => return,
                () = next_start(&mut events) => {}
            }
        }
    });
    ReceiverStream::new(receiver)
}

async fn forward(mut lines: LogStream, task: Arc<TaskRef>, sender: mpsc::Sender<Line>) {
    loop {
        tokio::select! {
            () = sender.closed() => return,
            next = lines.next() => match next {
                None => return,
                Some(entry) => {
                    if sender.send(Line { task: task.clone(), entry }).await.is_err() {
                        return;
                    }
                }
            },
        }
    }
}

async fn next_start(events: &mut tokio::sync::broadcast::Receiver<super::types::event::EventMessage>) {
    use tokio::sync::broadcast::error::RecvError;
    loop {
        match events.recv().await {
            Ok(event) if event.kind == "container" && event.action == "start" => return,
            Ok(_) => {}
            // Events were missed: a start may have been among them.
            Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::StdStream;

    fn line(nanos: i128, text: &'static str) -> LogEntry {
        LogEntry {
            stream: StdStream::Stdout,
            time: OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap(),
            line: Bytes::from_static(text.as_bytes()),
        }
    }

    fn task(id: &str) -> Arc<TaskRef> {
        Arc::new(TaskRef {
            task_id: id.into(),
            service_id: "s".into(),
            node_id: "n".into(),
        })
    }

    #[test]
    fn prefixes_as_docker_writes_them() {
        let line = Line {
            task: task("t"),
            entry: line(5, "hello\n"),
        };
        let style = Style {
            tty: true,
            timestamps: true,
            details: true,
        };
        assert_eq!(
            line.write(style),
            "1970-01-01T00:00:00.000000005Z com.docker.swarm.node.id=n,com.docker.swarm.service.id=s,\
             com.docker.swarm.task.id=t hello\n"
        );
        assert_eq!(
            &line.write(Style {
                tty: false,
                timestamps: false,
                details: false
            })[..8],
            b"\x01\0\0\0\0\0\0\x06"
        );
    }

    #[tokio::test]
    async fn lines_are_merged_by_time() {
        let head = |id: &str, entries: Vec<LogEntry>| {
            let mut entries = entries.into_iter();
            (
                Line {
                    task: task(id),
                    entry: entries.next().unwrap(),
                },
                stream::iter(entries).boxed(),
            )
        };
        let heads = vec![
            head("a", vec![line(1, "1"), line(4, "4")]),
            head("b", vec![line(2, "2"), line(3, "3")]),
        ];
        let merged: Vec<Line> = stream::unfold(heads, earliest).collect().await;
        let text: Vec<_> = merged.iter().map(|line| line.entry.line.clone()).collect();
        assert_eq!(text, ["1", "2", "3", "4"]);
    }
}
