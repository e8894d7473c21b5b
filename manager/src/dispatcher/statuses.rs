//! Reports of many tasks in few transactions.
//!
//! Reports that arrive while the store is busy are written together. A task's state only grows, whatever the order of
//! the reports, and only its own node reports it.

use proto::object::TaskStatus;
use proto::{NodeId, Task, TaskId};
use tokio::sync::{mpsc, oneshot};

use crate::state::{Reader, Store, StoreError, WriteTx};

/// Reports that wait at most; then the nodes wait.
const QUEUE: usize = 1000;

/// What a node says of some of its tasks.
#[derive(Debug)]
struct Report {
    node: NodeId,
    statuses: Vec<(TaskId, TaskStatus)>,
    written: oneshot::Sender<Result<(), String>>,
}

/// The queue of reports. Its writer ends when it is dropped.
#[derive(Debug)]
pub(super) struct Statuses {
    queue: mpsc::Sender<Report>,
}

impl Statuses {
    pub(super) fn start(store: Store) -> Self {
        let (queue, reports) = mpsc::channel(QUEUE);
        tokio::spawn(write_all(store, reports));
        Self { queue }
    }

    /// Returns once the store has the statuses.
    pub(super) async fn report(
        &self,
        node: NodeId,
        statuses: Vec<(TaskId, TaskStatus)>,
    ) -> Result<(), String> {
        let (written, answer) = oneshot::channel();
        let gone = || "the dispatcher has ended".to_owned();
        self.queue
            .send(Report {
                node,
                statuses,
                written,
            })
            .await
            .map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

async fn write_all(store: Store, mut reports: mpsc::Receiver<Report>) {
    let mut waiting = Vec::new();
    while reports.recv_many(&mut waiting, QUEUE).await > 0 {
        let result = write(&store, &waiting)
            .await
            .map_err(|error| crate::files::chain(&error));
        for report in waiting.drain(..) {
            // A node that has gone does not wait for the answer.
            let _ = report.written.send(result.clone());
        }
    }
}

async fn write(store: &Store, reports: &[Report]) -> Result<(), StoreError> {
    let mut batch = store.batch().await;
    for report in reports {
        for (task, status) in &report.statuses {
            batch.update(|tx| apply(tx, &report.node, task, status)).await?;
        }
    }
    batch.commit().await
}

fn apply(tx: &mut WriteTx<'_>, node: &NodeId, id: &TaskId, status: &TaskStatus) -> Result<(), StoreError> {
    let Some(task) = tx.get::<Task>(id) else {
        return Ok(());
    };
    if task.node_id != *node || task.status.state > status.state || task.status == *status {
        return Ok(());
    }
    tx.modify(id, |task: &mut Task| task.status = status.clone())
}
