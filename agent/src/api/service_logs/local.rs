//! The lines of this node's tasks.

use std::collections::HashSet;
use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::line::Line;
use super::{DEPTH, Whose, merge};
use crate::api::types::event::EventMessage;
use crate::engine::{Engine, LogOptions, LogStream, TaskRef};

/// Not following: lines of all tasks in order of time. Following: lines as they come, also of tasks that start later.
pub(super) fn lines(engine: Arc<Engine>, whose: Whose, options: LogOptions) -> BoxStream<'static, Line> {
    match options.follow {
        true => followed(engine, whose, options).boxed(),
        false => stream::once(async move { in_order(&engine, &whose, &options).await })
            .flatten()
            .boxed(),
    }
}

async fn in_order(engine: &Engine, whose: &Whose, options: &LogOptions) -> impl Stream<Item = Line> + use<> {
    let mut parts = Vec::new();
    for (container, task) in tasks(engine, whose) {
        // A container that goes away meanwhile has no log to show.
        if let Ok(entries) = engine.logs(&container, options.clone()).await {
            let task = Arc::new(task);
            let lines = entries.map(move |entry| Line {
                task: task.clone(),
                entry,
            });
            parts.push(lines.boxed());
        }
    }
    merge::in_order(parts)
}

/// Each start of a container is a chance that a new task has joined.
fn followed(engine: Arc<Engine>, whose: Whose, options: LogOptions) -> impl Stream<Item = Line> {
    let (sender, receiver) = mpsc::channel(DEPTH);
    tokio::spawn(async move {
        let mut events = engine.events();
        let mut known = HashSet::new();
        let mut options = options;
        loop {
            for (container, task) in tasks(&engine, &whose) {
                if known.insert(container.clone())
                    && let Ok(lines) = engine.logs(&container, options.clone()).await
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

fn tasks(engine: &Engine, whose: &Whose) -> Vec<(String, TaskRef)> {
    let all = engine.tasks().into_iter();
    let wanted = all.filter(|(_, task)| whose.has(&task.service_id, &task.task_id));
    wanted.map(|(id, task)| (id.to_string(), task)).collect()
}

async fn forward(mut lines: LogStream, task: Arc<TaskRef>, sender: mpsc::Sender<Line>) {
    loop {
        let next = tokio::select! {
            () = sender.closed() => return,
            next = lines.next() => next,
        };
        let Some(entry) = next else { return };
        let task = task.clone();
        if sender.send(Line { task, entry }).await.is_err() {
            return;
        }
    }
}

async fn next_start(events: &mut broadcast::Receiver<EventMessage>) {
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
