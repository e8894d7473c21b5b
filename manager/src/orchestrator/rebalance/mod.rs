//! Spreads services again when a node has come: a task more there, a task less where there were most, one at a time.
//!
//! Input: services, tasks, nodes and the cluster in the store. Output: tasks that take over from others
//! ([`super::handover`] sees to their end). [`plan`](plan::plan) is pure; this loop applies the first of its moves, waits
//! for its end, and plans anew.
//!
//! A service is looked at from when a node joins, returns or is undrained, a manager begins to lead, or a user asks for
//! it, until there is nothing to move or a move has failed. So there is an end to it, whatever the scheduler thinks.
//!
//! Nodes and services have to be at rest for [`SETTLE`] first, unless a user asks: who asks wants it now.

mod judge;
mod plan;
mod preview;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proto::object::{TakeOver, TakeOverReason};
use proto::{Cluster, Node, NodeId, Service, ServiceId, Task, TaskId, TaskState};
use tokio::time::{Instant, sleep_until};

use self::judge::{Judgement, is_open, judge, slot};
use self::plan::{Move, plan};
use super::task::{is_wanted, new_task, task_spec};
use crate::state::{Change, Event, Filter, Kind, ReadTx, Reader, Store, StoreError, WatchStream, WriteTx};

pub(crate) use self::preview::preview;
pub use self::preview::{PlannedMove, RebalancePlan, Unmoved};

/// How long a node has to be there, and a service has to be at rest, before tasks move.
const SETTLE: Duration = Duration::from_secs(30);
/// How many tasks move at a time in the whole cluster; of one service it is one.
const MOST_MOVES: usize = 2;
/// At least so long between two looks: changes of tasks come in crowds.
const PACE: Duration = Duration::from_millis(500);

/// Runs until the store is gone.
///
/// # Errors
/// The store refused a change: this manager leads no longer, or its disk is full.
pub(crate) async fn run(store: Store) -> Result<(), StoreError> {
    let filter = Filter::kinds(&[Kind::Service, Kind::Task, Kind::Node, Kind::Cluster]);
    let now = Instant::now();
    let ((due, settled, requests), events) = store.view_and_watch(filter, |tx| {
        let nodes = tx.all::<Node>().into_iter().filter(|node| is_open(node));
        let settled: BTreeMap<NodeId, Instant> = nodes.map(|node| (node.id.clone(), now + SETTLE)).collect();
        (every_service(&tx), settled, requests(&tx))
    });
    let mut rebalancer = Rebalancer {
        restless: due.iter().map(|id| (id.clone(), now)).collect(),
        store,
        events,
        due,
        settled,
        moving: BTreeMap::new(),
        requests,
    };
    loop {
        let wake = rebalancer.look(Instant::now()).await?;
        // From the end of the look: a long one shall not follow the other, with all writers between them waiting.
        if !rebalancer.wait(wake, Instant::now() + PACE).await {
            return Ok(());
        }
    }
}

struct Rebalancer {
    store: Store,
    events: WatchStream,
    /// Services to look at.
    due: BTreeSet<ServiceId>,
    /// When something last happened to a service that was not a move of ours.
    restless: BTreeMap<ServiceId, Instant>,
    /// From when nodes that are open may be given tasks.
    settled: BTreeMap<NodeId, Instant>,
    /// The task that takes over, and the one that it takes over from.
    moving: BTreeMap<ServiceId, (TaskId, TaskId)>,
    /// How often a user has asked for it.
    requests: u64,
}

/// How a move goes.
enum Progress {
    UnderWay,
    Done,
    Failed,
}

impl Rebalancer {
    /// Looks at every service that is due. Returns when to look again, whatever happens.
    async fn look(&mut self, now: Instant) -> Result<Option<Instant>, StoreError> {
        let mut wake: Option<Instant> = None;
        for id in self.due.clone() {
            match self.progress(&id) {
                Some(Progress::UnderWay) => continue,
                Some(Progress::Failed) => {
                    tracing::info!(service.id = %id, "a task did not come to run where it should move: it stays");
                    self.forget(&id);
                    continue;
                }
                Some(Progress::Done) => drop(self.moving.remove(&id)),
                None => {}
            }
            let later = self.look_at(&id, now).await?;
            wake = [wake, later].into_iter().flatten().min();
        }
        Ok(wake)
    }

    /// Moves one task of a service if it should. Returns when to look again.
    async fn look_at(&mut self, id: &ServiceId, now: Instant) -> Result<Option<Instant>, StoreError> {
        // Before anything else: while the tasks of a large service change, nobody shall go through all of them.
        let rest = self.restless.get(id).map(|since| *since + SETTLE);
        if let Some(at_rest) = rest.filter(|then| *then > now) {
            return Ok(Some(at_rest));
        }
        let settled = |node: &NodeId| self.settled.get(node).is_some_and(|then| *then <= now);
        let judgement = self.store.view(|tx| {
            let service = tx.get::<Service>(id.as_str())?;
            judge(&tx, &tx.all::<Node>(), &service, &settled)
        });
        let Some(judgement) = judgement else {
            self.forget(id);
            return Ok(None);
        };
        if let Some(obstacle) = judgement.obstacle {
            if !obstacle.passes() {
                self.forget(id);
            }
            return Ok(None);
        }
        match plan(judgement.places.clone()).into_iter().next() {
            Some(_) if self.moving.len() >= MOST_MOVES => Ok(None),
            Some(one) => self.start(&judgement, &one).await.map(|()| None),
            None => {
                let next = self.settled.values().copied().filter(|then| *then > now).min();
                if next.is_none() {
                    self.forget(id);
                }
                Ok(next)
            }
        }
    }

    async fn start(&mut self, judgement: &Judgement, one: &Move) -> Result<(), StoreError> {
        let service = &judgement.service;
        match self.store.update(|tx| take_over(tx, service, one)).await {
            Ok(new) => {
                tracing::info!(
                    service.name = %service.spec.name, task.id = %one.task, from = %one.from, to = %one.to,
                    "a task moves, to spread its service"
                );
                self.moving.insert(service.id.clone(), (new, one.task.clone()));
                Ok(())
            }
            Err(error @ StoreError::Propose(_)) => Err(error),
            // Something has changed meanwhile, and an event tells of it.
            Err(_) => Ok(()),
        }
    }

    fn progress(&self, service: &ServiceId) -> Option<Progress> {
        let (new, old) = self.moving.get(service)?;
        let wanted = |id: &TaskId| {
            self.store
                .view(|tx| tx.get::<Task>(id.as_str()).is_some_and(|task| is_wanted(&task)))
        };
        Some(match (wanted(new), wanted(old)) {
            (false, _) => Progress::Failed,
            (true, true) => Progress::UnderWay,
            (true, false) => Progress::Done,
        })
    }

    fn forget(&mut self, service: &ServiceId) {
        self.due.remove(service);
        self.moving.remove(service);
    }

    /// Waits until there is something to look at, and not before `earliest`. Returns whether the store is still there.
    async fn wait(&mut self, wake: Option<Instant>, earliest: Instant) -> bool {
        let mut ready = wake.map(|wake| wake.max(earliest));
        loop {
            let event = tokio::select! {
                biased;
                () = sleep_until(ready.unwrap_or(earliest)), if ready.is_some() => return true,
                event = self.events.next() => event,
            };
            let Some(event) = event else { return false };
            if self.note(&event, Instant::now()) {
                ready = Some(ready.map_or(earliest, |ready| ready.min(earliest)));
            }
        }
    }

    /// Notes an event. Returns whether it is a reason to look.
    fn note(&mut self, event: &Event, now: Instant) -> bool {
        match event {
            Event::Node(change) => self.note_node(change, now),
            Event::Task(change) => {
                let id = &change.object().service_id;
                if !id.is_empty() && !self.moving.contains_key(id) && has_moved_on(change) {
                    self.restless.insert(id.clone(), now);
                }
                self.due.contains(id)
            }
            Event::Service(Change::Remove(service)) => {
                self.restless.remove(&service.id);
                self.forget(&service.id);
                false
            }
            Event::Service(change) => self.due.contains(&change.object().id),
            Event::Cluster(_) => self.note_request(now),
            _ => false,
        }
    }

    /// Notes that a user has asked, if so: what is there now does not have to be at rest first. Obstacles and bounds hold,
    /// and what happens from now on has to come to rest as ever.
    fn note_request(&mut self, now: Instant) -> bool {
        let (requests, services) = self.store.view(|tx| (requests(&tx), every_service(&tx)));
        let asked = requests > self.requests;
        if asked {
            self.requests = requests;
            self.due = services;
            self.restless.clear();
            self.settled.values_mut().for_each(|then| *then = now.min(*then));
        }
        asked
    }

    fn note_node(&mut self, change: &Change<Node>, now: Instant) -> bool {
        let (was, is) = (
            change.old().is_some_and(|node| is_open(node)),
            change.new_object().is_some_and(|node| is_open(node)),
        );
        let id = &change.object().id;
        match (was, is) {
            (false, true) => {
                self.settled.insert(id.clone(), now + SETTLE);
                self.due = self.store.view(|tx| every_service(&tx));
                true
            }
            (true, false) => {
                self.settled.remove(id);
                false
            }
            _ => false,
        }
    }
}

/// Makes the task that takes over, if everything is as it was when the move was planned.
fn take_over(tx: &mut WriteTx<'_>, service: &Arc<Service>, one: &Move) -> Result<TaskId, StoreError> {
    let gone = |kind, id: &str| StoreError::NotFound {
        kind,
        id: id.to_owned(),
    };
    let same = tx
        .get::<Service>(service.id.as_str())
        .is_some_and(|current| current.meta.version == service.meta.version);
    let old = tx.get::<Task>(one.task.as_str()).filter(|task| {
        same && task.desired_state == TaskState::Running && task.status.state == TaskState::Running
    });
    let old = old.ok_or_else(|| gone(Kind::Task, one.task.as_str()))?;
    let open = tx.get::<Node>(one.to.as_str()).is_some_and(|node| is_open(&node));
    if !open {
        return Err(gone(Kind::Node, one.to.as_str()));
    }
    let cluster = tx.all::<Cluster>().into_iter().next();
    let defaults = cluster
        .as_ref()
        .and_then(|cluster| cluster.spec.task_defaults.as_ref());
    let log = defaults.and_then(|defaults| defaults.log_driver.as_ref());
    let mut task = new_task(service, Arc::new(task_spec(service, log)), &slot(service, &old));
    task.node_id = one.to.clone();
    task.takes_over = Some(TakeOver {
        task: old.id.clone(),
        reason: TakeOverReason::Rebalance,
    });
    let id = task.id.clone();
    tx.create(task)?;
    Ok(id)
}

/// Whether a task has come further that counts, or is to.
fn has_moved_on(change: &Change<Task>) -> bool {
    match change {
        // What stops because it shall is the end of something, not the beginning.
        Change::Update { old, new } => {
            is_wanted(old) && (old.status.state != new.status.state || old.desired_state != new.desired_state)
        }
        Change::Create(_) => true,
        // The reaper takes out what has ended long ago.
        Change::Remove(_) => false,
    }
}

fn every_service(tx: &ReadTx<'_>) -> BTreeSet<ServiceId> {
    tx.all::<Service>()
        .into_iter()
        .map(|service| service.id.clone())
        .collect()
}

fn requests(tx: &ReadTx<'_>) -> u64 {
    tx.all::<Cluster>()
        .first()
        .map_or(0, |cluster| cluster.rebalances)
}
