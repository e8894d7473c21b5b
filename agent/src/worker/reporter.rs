//! What became of the tasks, on its way to the manager.
//!
//! Controllers put statuses in; the session takes them out in batches. A status that the manager has not acknowledged
//! goes back in unless the task has moved on since, so a lost session loses nothing. Of one task only the newest status
//! is kept: states only grow, so the newest says it all.

use std::collections::BTreeMap;
use std::sync::Mutex;

use proto::TaskId;
use proto::object::TaskStatus;
use tokio::sync::Notify;

/// Statuses that wait to be reported.
#[derive(Debug, Default)]
pub struct Reporter {
    pending: Mutex<BTreeMap<TaskId, TaskStatus>>,
    wake: Notify,
}

impl Reporter {
    /// Queues a status.
    pub fn put(&self, task: TaskId, status: TaskStatus) {
        self.lock().insert(task, status);
        self.wake.notify_one();
    }

    /// Waits until there is something to report and takes all of it.
    pub async fn take(&self) -> Vec<(TaskId, TaskStatus)> {
        loop {
            let batch: Vec<_> = std::mem::take(&mut *self.lock()).into_iter().collect();
            if !batch.is_empty() {
                return batch;
            }
            self.wake.notified().await;
        }
    }

    /// Puts an unacknowledged batch back; newer statuses win.
    pub fn give_back(&self, batch: Vec<(TaskId, TaskStatus)>) {
        let mut pending = self.lock();
        for (task, status) in batch {
            pending.entry(task).or_insert(status);
        }
        drop(pending);
        self.wake.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<TaskId, TaskStatus>> {
        self.pending
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::TaskState;

    fn status(state: TaskState) -> TaskStatus {
        TaskStatus {
            state,
            ..TaskStatus::default()
        }
    }

    #[tokio::test]
    async fn a_lost_batch_comes_back_without_undoing_newer_statuses() {
        let reporter = Reporter::default();
        reporter.put("a".into(), status(TaskState::Starting));
        reporter.put("b".into(), status(TaskState::Starting));
        let batch = reporter.take().await;
        assert_eq!(batch.len(), 2);
        reporter.put("a".into(), status(TaskState::Running));
        reporter.give_back(batch);
        let again: BTreeMap<_, _> = reporter.take().await.into_iter().collect();
        assert_eq!(again["a"].state, TaskState::Running);
        assert_eq!(again["b"].state, TaskState::Starting);
    }
}
