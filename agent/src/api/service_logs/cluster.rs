//! The lines of tasks on whatever nodes.
//!
//! A node that is not there makes the answer partial; the answer says so, in a line on stderr in the name of one of the
//! node's tasks: the stock command line wants every line to be a task's.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use manager::state::{Event, Filter, Key, Kind, Reader, Store, WatchStream};
use proto::{Node, NodeId, Task, TaskState};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::line::Line;
use super::{Whose, local, merge, remote};
use crate::api::listening::{From, Subject, listen};
use crate::api::node_stream::Lost;
use crate::engine::{Engine, LogEntry, LogOptions, StdStream, TaskRef};
use crate::peer::Client;

/// What is needed to ask every node.
#[derive(Debug, Clone)]
pub(super) struct Nodes {
    pub(super) engine: Arc<Engine>,
    pub(super) store: Store,
    pub(super) client: Client,
    pub(super) whose: Whose,
    pub(super) options: LogOptions,
}

impl Nodes {
    /// Not following: lines in order of time, and then what is missing. Following: lines as they come, also from nodes that get
    /// a task later.
    pub(super) fn lines(self) -> BoxStream<'static, Line> {
        match self.options.follow {
            true => listen(self).boxed(),
            false => self.in_order().boxed(),
        }
    }

    fn in_order(self) -> impl Stream<Item = Line> {
        let (lost, mut missing) = mpsc::unbounded_channel();
        let parts = self.asked().into_iter().map(|node| {
            let lost = lost.clone();
            let lines = self.lines_of(&node, self.options.clone());
            let told = move |line: Result<Line, Lost>| {
                let line = line.map_err(|Lost| lost.send(node.clone()));
                std::future::ready(line.ok())
            };
            lines.filter_map(told).boxed()
        });
        let lines = merge::in_order(parts.collect());
        drop(lost);
        let notes = stream::once(async move {
            let mut nodes = BTreeSet::new();
            while let Some(node) = missing.recv().await {
                nodes.insert(node);
            }
            stream::iter(self.note(&nodes))
        });
        lines.chain(notes.flatten())
    }

    /// The lines of one node.
    fn lines_of(&self, node: &NodeId, options: LogOptions) -> BoxStream<'static, Result<Line, Lost>> {
        if *node == self.client.node() {
            let lines = local::lines(self.engine.clone(), self.whose.clone(), options);
            return lines.map(Ok).boxed();
        }
        remote::lines(&self.client, &self.store, node.clone(), &self.whose, &options).boxed()
    }

    /// The nodes that have, or have had, a task.
    fn asked(&self) -> BTreeSet<NodeId> {
        let assigned = |task: &Arc<Task>| !task.node_id.as_str().is_empty();
        let tasks = self.tasks().into_iter().filter(assigned);
        tasks.map(|task| task.node_id.clone()).collect()
    }

    fn tasks(&self) -> Vec<Arc<Task>> {
        self.store.view(|tx| match &self.whose {
            Whose::Service(id) => tx.by_key::<Task>(Key::Service(id.clone())),
            Whose::Task(id) => tx.get::<Task>(id.as_str()).into_iter().collect(),
        })
    }

    /// The line that says which nodes are missing; none if nobody misses anything of them.
    fn note(&self, nodes: &BTreeSet<NodeId>) -> Option<Line> {
        let tasks = self.tasks();
        let missed = |node: &&NodeId| tasks.iter().any(|task| task.node_id == **node && has_log(task));
        let missed: Vec<&NodeId> = nodes.iter().filter(missed).collect();
        let of_first = |task: &&Arc<Task>| Some(&&task.node_id) == missed.first() && has_log(task);
        let task = tasks.iter().find(of_first)?;
        let names = missed.iter().map(|node| self.name(node));
        Some(note(task, &names.collect::<Vec<_>>()))
    }

    fn name(&self, node: &NodeId) -> String {
        let found = self.store.view(|tx| tx.get::<Node>(node));
        let name = found.map(|node| node.description.hostname.clone());
        name.filter(|name| !name.is_empty())
            .unwrap_or_else(|| node.to_string())
    }
}

/// The lines that are followed.
impl Subject for Nodes {
    type Item = Line;
    type Moment = OffsetDateTime;

    fn own(&self) -> NodeId {
        self.client.node()
    }

    fn store(&self) -> &Store {
        &self.store
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.asked().into_iter().collect()
    }

    /// Changes of the tasks that are meant.
    fn changes(&self) -> WatchStream {
        let whose = self.whose.clone();
        let only = move |event: &Event| match event {
            Event::Task(change) => {
                let task = change.object();
                whose.has(task.service_id.as_str(), task.id.as_str())
            }
            _ => false,
        };
        self.store.watch(Filter::kinds(&[Kind::Task]).only(only))
    }

    fn part(&self, node: &NodeId, from: From<OffsetDateTime>) -> BoxStream<'static, Result<Line, Lost>> {
        let mut options = self.options.clone();
        if from != From::Beginning {
            // Whatever starts later is new from its first line.
            options.tail = None;
        }
        if let From::Return(Some(last)) = from {
            options.since = Some(last + time::Duration::NANOSECOND);
        }
        self.lines_of(node, options)
    }

    fn moment(line: &Line) -> OffsetDateTime {
        line.entry.time
    }

    fn missing(&self, node: &NodeId) -> Option<Line> {
        self.note(&BTreeSet::from([node.clone()]))
    }
}

/// Whether somebody who asks for the logs would miss the task's: it runs, or it has ended of its own.
fn has_log(task: &Task) -> bool {
    let states = [TaskState::Running, TaskState::Complete, TaskState::Failed];
    !task.node_id.as_str().is_empty() && states.contains(&task.status.state)
}

/// SwarmKit's words.
fn note(task: &Task, nodes: &[String]) -> Line {
    let reasons = nodes.iter().map(|node| format!("node {node} is not available"));
    let reasons = reasons.collect::<Vec<_>>().join(", ");
    let text = format!(
        "warning: incomplete log stream. some logs could not be retrieved for the following reasons: {reasons}\n"
    );
    Line {
        task: Arc::new(TaskRef {
            task_id: task.id.to_string(),
            service_id: task.service_id.to_string(),
            node_id: task.node_id.to_string(),
            lease: None,
        }),
        entry: LogEntry {
            stream: StdStream::Stderr,
            time: OffsetDateTime::now_utc(),
            line: text.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tasks_that_have_written_are_missed() {
        let mut task = Task {
            node_id: "n".into(),
            ..Task::default()
        };
        for (state, missed) in [
            (TaskState::Assigned, false),
            (TaskState::Running, true),
            (TaskState::Failed, true),
            (TaskState::Shutdown, false),
        ] {
            task.status.state = state;
            assert_eq!(has_log(&task), missed, "{state:?}");
        }
        let line = note(&task, &["a".into(), "b".into()]);
        let text = String::from_utf8_lossy(&line.entry.line).into_owned();
        assert!(
            text.ends_with("reasons: node a is not available, node b is not available\n"),
            "{text}"
        );
    }
}
