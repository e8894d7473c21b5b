//! Logs that are on other nodes: they do not travel yet, so each such task says in one line where its log is.

use std::sync::Arc;

use bytes::Bytes;
use proto::{Task, TaskState};
use time::OffsetDateTime;

use super::state::App;
use crate::engine::{LogEntry, StdStream, TaskRef};

/// One line on stderr in the name of each task of another node that `wanted` picks.
pub(super) fn notes(app: &App, wanted: impl Fn(&TaskRef) -> bool) -> Vec<(Arc<TaskRef>, LogEntry)> {
    let Some(manager) = app.cluster.manager() else {
        return Vec::new();
    };
    let control = manager.control();
    let own = manager.node_id();
    let tasks = control.tasks().into_iter();
    let elsewhere = tasks.filter(|task| task.node_id != *own && has_log(task));
    let noted = elsewhere.map(|task| (Arc::new(reference(&task)), task));
    let noted = noted.filter(|(reference, _)| wanted(reference));
    noted
        .map(|(reference, task)| {
            let node = control.node(task.node_id.as_str());
            let name = node.map_or_else(
                |_| task.node_id.to_string(),
                |node| node.description.hostname.clone(),
            );
            (reference, note(&task, &name))
        })
        .collect()
}

/// Whether somebody who asks for the service's logs would miss it: it runs, or it has ended of its own.
fn has_log(task: &Task) -> bool {
    let states = [TaskState::Running, TaskState::Complete, TaskState::Failed];
    !task.node_id.as_str().is_empty() && states.contains(&task.status.state)
}

fn reference(task: &Task) -> TaskRef {
    TaskRef {
        task_id: task.id.to_string(),
        service_id: task.service_id.to_string(),
        node_id: task.node_id.to_string(),
    }
}

fn note(task: &Task, node: &str) -> LogEntry {
    let container = task.status.container_status.as_ref();
    let container = container.map_or("", |status| status.container_id.as_str());
    let text = format!(
        "warning: incomplete log: this task is on node {node}; `logs {}` shows it there\n",
        container.get(..12).unwrap_or(container)
    );
    LogEntry {
        stream: StdStream::Stderr,
        time: OffsetDateTime::now_utc(),
        line: Bytes::from(text),
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
        let text = note(&task, "node2").line;
        assert!(String::from_utf8_lossy(&text).contains("is on node node2"));
    }
}
