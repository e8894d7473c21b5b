//! From PENDING to ASSIGNED: chooses the node of each task.
//!
//! Input: tasks, nodes and services in the store. Output: the node, generic resources and status of tasks that wait;
//! of those that find no node, a status that says why.
//!
//! - [`constraint`]: placement constraints
//! - [`gate`]: services that wait for others
//! - `filter`, `reason`: which nodes can take a task, and why the others cannot
//! - `neighbours`: affinity and anti-affinity between services; [`volumes`]: tasks go back to their data
//! - `rank`, `tree`: the emptiest node first or the fullest; spread preferences before both
//! - `services`, `gate`, `cluster`, `group`, `pass`: what is known, and one pure pass over it
//! - [`loads`]: how busy nodes are, from their heartbeats
//!
//! Tasks of one service made from one version of its spec are placed together, so that the cost of a task does not
//! grow with their number. There is no timer: what comes while a pass is being written makes the next pass.

mod cluster;
pub mod constraint;
mod filter;
pub mod gate;
mod group;
pub mod loads;
mod neighbours;
mod node;
mod pass;
mod rank;
mod reason;
mod resources;
mod services;
mod tree;
pub mod volumes;

#[cfg(test)]
mod neighbour_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod volume_tests;

use std::sync::Arc;

use proto::object::TaskStatus;
use proto::{Node, Task, TaskState, Timestamp};
use tokio::time::Instant;

use self::cluster::Cluster;
use self::group::{Decision, Outcome};
use self::loads::Loads;
use self::node::is_active;
use crate::state::{Filter, Kind, MAX_CHANGES, Reader, Store, StoreError, WatchStream, WriteTx};

/// Runs until the store is gone.
///
/// # Errors
/// The store refused a change: this manager leads no longer, or its disk is full.
pub(crate) async fn run(store: Store, loads: Loads) -> Result<(), StoreError> {
    let filter = Filter::kinds(&[Kind::Task, Kind::Node, Kind::Service]);
    let (mut cluster, mut events) = store.view_and_watch(filter, |tx| Cluster::load(&tx, loads));
    loop {
        let decisions = cluster.schedule(Instant::now());
        if !decisions.is_empty() {
            apply(&store, &mut cluster, &mut events, decisions).await?;
        }
        if !learn(&mut cluster, &mut events).await {
            return Ok(());
        }
    }
}

/// Learns from the events that are there.
fn catch_up(cluster: &mut Cluster, events: &mut WatchStream) {
    let now = Instant::now();
    while let Some(event) = events.try_next() {
        cluster.note(&event, now);
    }
}

/// Learns from events until there is something to decide. Returns whether the store is still there.
async fn learn(cluster: &mut Cluster, events: &mut WatchStream) -> bool {
    loop {
        catch_up(cluster, events);
        if cluster.has_work() {
            return true;
        }
        match events.next().await {
            Some(event) => cluster.note(&event, Instant::now()),
            None => return false,
        }
    }
}

/// Writes the decisions; takes back those whose task or node has changed meanwhile.
async fn apply(
    store: &Store,
    cluster: &mut Cluster,
    events: &mut WatchStream,
    decisions: Vec<Decision>,
) -> Result<(), StoreError> {
    let mut batch = store.batch().await;
    let mut refused = Vec::new();
    for (number, decision) in decisions.into_iter().enumerate() {
        // Otherwise every task of a large service would be kept twice, until the last one is written.
        if number % MAX_CHANGES == 0 {
            catch_up(cluster, events);
        }
        match batch.update(|tx| decide(tx, &decision)).await {
            Ok(true) => {}
            Ok(false) => refused.push(decision),
            Err(error) => return Err(error),
        }
    }
    batch.commit().await?;
    for decision in refused
        .iter()
        .filter(|decision| matches!(decision.outcome, Outcome::Assign { .. }))
    {
        let current: Option<Arc<Task>> = store.view(|tx| tx.get(decision.task.id.as_str()));
        cluster.take_back(decision, current.as_ref(), Instant::now());
    }
    Ok(())
}

/// Writes one decision. Returns whether it still applied.
fn decide(tx: &mut WriteTx<'_>, decision: &Decision) -> Result<bool, StoreError> {
    let id = decision.task.id.as_str();
    let waits = tx
        .get::<Task>(id)
        .is_some_and(|task| task.status.state == TaskState::Pending && is_active(&task));
    if !waits {
        return Ok(false);
    }
    let now = tx.now();
    match &decision.outcome {
        Outcome::Assign { node, .. }
            if !tx
                .get::<Node>(node.as_str())
                .is_some_and(|node| pass::is_open(&node, &decision.task)) =>
        {
            Ok(false)
        }
        Outcome::Assign { node, given, message } => {
            tx.modify::<Task>(id, |task| {
                task.node_id = node.clone();
                task.generic_resources.clone_from(given);
                task.status = status(now, TaskState::Assigned, (*message).to_owned(), String::new());
            })?;
            Ok(true)
        }
        Outcome::Wait { message, err } => {
            tx.modify::<Task>(id, |task| {
                task.status = status(now, TaskState::Pending, message.clone(), err.clone());
            })?;
            Ok(true)
        }
    }
}

fn status(timestamp: Timestamp, state: TaskState, message: String, err: String) -> TaskStatus {
    TaskStatus {
        timestamp,
        state,
        message,
        err,
        ..TaskStatus::default()
    }
}
