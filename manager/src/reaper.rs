//! Takes out tasks that have had their day: tasks wanted REMOVE that have stopped, and of each slot the oldest ended
//! tasks beyond the cluster's history limit.
//!
//! Input: tasks, services and the cluster in the store. Output: removed tasks. Works in batches: 250 ms after the first
//! reason, or at 1000 reasons.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proto::{Cluster, Service, ServiceId, Task, TaskId, TaskState};
use tokio::time::{Instant, sleep_until};

use crate::orchestrator::{SlotKey, is_per_node};
use crate::state::{
    Change, Event, Filter, Key, Kind, ReadTx, Reader, Store, StoreError, StoreObject, WatchStream,
};

/// How long reasons are gathered.
const INTERVAL: Duration = Duration::from_millis(250);
/// How many reasons are gathered at most.
const MAX_REASONS: usize = 1000;
/// Ended tasks kept per slot where the cluster does not say.
const DEFAULT_LIMIT: i64 = 5;

/// Runs until the store is gone.
///
/// # Errors
/// The store refused a change: this manager leads no longer, or its disk is full.
pub(crate) async fn run(store: Store) -> Result<(), StoreError> {
    let filter = Filter::kinds(&[Kind::Task]).only(matters);
    let (reasons, events) = store.view_and_watch(filter, |tx| Reasons::at_start(&tx));
    let mut reaper = Reaper {
        store,
        events,
        reasons,
    };
    loop {
        reaper.reap().await?;
        if !reaper.gather().await {
            return Ok(());
        }
    }
}

/// Whether an event can be a reason to look at a slot.
fn matters(event: &Event) -> bool {
    match event {
        Event::Task(Change::Create(_)) => true,
        Event::Task(Change::Update { new, .. }) => can_go(new) || new.status.state.is_terminal(),
        _ => false,
    }
}

struct Reaper {
    store: Store,
    events: WatchStream,
    reasons: Reasons,
}

/// What to look at.
#[derive(Debug, Default)]
struct Reasons {
    /// Slots that got another task.
    slots: BTreeSet<(ServiceId, SlotKey)>,
    /// Tasks that can go.
    tasks: BTreeSet<TaskId>,
}

impl Reaper {
    async fn reap(&mut self) -> Result<(), StoreError> {
        let Reasons { slots, mut tasks } = std::mem::take(&mut self.reasons);
        self.store.view(|tx| {
            for (service, slot) in slots {
                let verdict = judge_slot(&tx, &service, &slot);
                tasks.extend(verdict.remove);
                if verdict.look_again {
                    self.reasons.slots.insert((service, slot));
                }
            }
        });
        if tasks.is_empty() {
            return Ok(());
        }
        let mut batch = self.store.batch().await;
        for id in tasks {
            match batch.update(|tx| tx.remove::<Task>(id.as_str())).await {
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        batch.commit().await
    }

    /// Gathers reasons. Returns whether the store is still there.
    async fn gather(&mut self) -> bool {
        let mut deadline = None;
        while self.reasons.len() < MAX_REASONS {
            let event = tokio::select! {
                biased;
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => return true,
                event = self.events.next() => event,
            };
            let Some(event) = event else { return false };
            if self.reasons.note(&self.store, &event) && deadline.is_none() {
                deadline = Some(Instant::now() + INTERVAL);
            }
        }
        true
    }
}

impl Reasons {
    fn len(&self) -> usize {
        self.slots.len() + self.tasks.len()
    }

    /// Notes what an event gives reason to. Returns whether it gave any.
    fn note(&mut self, store: &Store, event: &Event) -> bool {
        match event {
            Event::Task(Change::Update { new, .. }) if can_go(new) => self.tasks.insert(new.id.clone()),
            Event::Task(Change::Create(task)) => store.view(|tx| self.note_slot(&tx, task)),
            Event::Task(Change::Update { new, .. }) if new.status.state.is_terminal() => {
                store.view(|tx| self.awaits(&tx, new))
            }
            _ => false,
        }
    }

    /// Of many slots most have one task, which the index tells: those are not looked at.
    fn at_start(tx: &ReadTx<'_>) -> Self {
        let table = Task::table(tx.tables());
        let tasks = table.in_any_order().filter(|task| can_go(task));
        let mut reasons = Self {
            tasks: tasks.map(|task| task.id.clone()).collect(),
            slots: BTreeSet::new(),
        };
        for service in tx.all::<Service>() {
            if is_per_node(&service) {
                let tasks = tx.by_key::<Task>(Key::Service(service.id.to_string()));
                let slots = tasks
                    .iter()
                    .map(|task| (service.id.clone(), SlotKey::of(&service, task)));
                reasons.slots.extend(slots);
            } else if let Ok(limit) = usize::try_from(limit(tx, &service)) {
                let slots = table.slots_with_more_than(limit, service.id.as_str());
                let slots = slots.map(|slot| (service.id.clone(), SlotKey::Number(slot)));
                reasons.slots.extend(slots);
            }
        }
        reasons
    }

    /// Whether the task's slot is to be looked at again when one of its tasks has ended.
    fn awaits(&self, tx: &ReadTx<'_>, task: &Task) -> bool {
        let service = tx.get::<Service>(task.service_id.as_str());
        service.is_some_and(|service| {
            self.slots
                .contains(&(service.id.clone(), SlotKey::of(&service, task)))
        })
    }

    fn note_slot(&mut self, tx: &ReadTx<'_>, task: &Task) -> bool {
        let Some(service) = tx.get::<Service>(task.service_id.as_str()) else {
            return false;
        };
        self.slots
            .insert((service.id.clone(), SlotKey::of(&service, task)))
    }
}

/// Whether the task is to go whatever its slot's history: it is wanted gone and has stopped, or belongs to no service
/// and nobody knows what became of it.
fn can_go(task: &Task) -> bool {
    let state = task.status.state;
    let removed =
        task.desired_state == TaskState::Remove && (state < TaskState::Assigned || state.is_terminal());
    removed || (task.service_id.is_empty() && state == TaskState::Orphaned)
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict {
    remove: Vec<TaskId>,
    /// Whether several tasks still run: one of them is about to end.
    look_again: bool,
}

fn judge_slot(tx: &ReadTx<'_>, service: &ServiceId, slot: &SlotKey) -> Verdict {
    let Some(service) = tx.get::<Service>(service.as_str()) else {
        return Verdict::default();
    };
    let key = match slot {
        SlotKey::Number(number) => Key::Slot(service.id.as_str().to_owned(), *number),
        SlotKey::Node(node) => Key::Node(node.as_str().to_owned()),
    };
    // Most slots have one task, and nothing to give away.
    let limit = limit(tx, &service);
    if usize::try_from(limit).is_ok_and(|limit| Task::table(tx.tables()).count(&key) <= limit) {
        return Verdict::default();
    }
    let mut tasks = tx.by_key::<Task>(key);
    tasks.retain(|task| task.service_id == service.id);
    judge(tasks, limit)
}

/// How many tasks to keep per slot. A service with a number of attempts keeps one more than those: they tell how often
/// a slot was restarted.
fn limit(tx: &ReadTx<'_>, service: &Service) -> i64 {
    let policy = service.spec.task_template.restart_policy.as_ref();
    if let Some(attempts) = policy
        .and_then(|policy| policy.max_attempts)
        .filter(|attempts| *attempts > 0)
    {
        return i64::try_from(attempts).unwrap_or(i64::MAX).saturating_add(1);
    }
    let cluster = tx.all::<Cluster>().into_iter().next();
    let settings = cluster
        .as_ref()
        .and_then(|cluster| cluster.spec.orchestration.as_ref());
    settings
        .and_then(|settings| settings.task_history_retention_limit)
        .unwrap_or(DEFAULT_LIMIT)
}

/// Of one slot's tasks, the oldest ended ones beyond the limit. A negative limit keeps all.
fn judge(mut tasks: Vec<Arc<Task>>, limit: i64) -> Verdict {
    let Ok(limit) = usize::try_from(limit) else {
        return Verdict::default();
    };
    let surplus = tasks.len().saturating_sub(limit);
    if surplus == 0 {
        return Verdict::default();
    }
    tasks.sort_by_key(|task| (task.meta.created_at, task.meta.version));
    let ended = |task: &Arc<Task>| {
        let never = task.status.state < TaskState::Assigned && task.desired_state > TaskState::Complete;
        never || task.status.state.is_terminal()
    };
    let running = tasks.iter().filter(|task| !ended(task)).count();
    let remove = tasks
        .iter()
        .filter(|task| ended(task))
        .take(surplus)
        .map(|task| task.id.clone())
        .collect();
    Verdict {
        remove,
        look_again: running > 1,
    }
}

#[cfg(test)]
mod tests {
    use proto::Timestamp;

    use super::*;

    fn task(age: i64, state: TaskState) -> Arc<Task> {
        let mut task = Task {
            id: TaskId::from(format!("t{age}")),
            ..Task::default()
        };
        task.meta.created_at = Timestamp(time::OffsetDateTime::UNIX_EPOCH - time::Duration::seconds(age));
        task.status.state = state;
        Arc::new(task)
    }

    fn removed(tasks: &[Arc<Task>], limit: i64) -> Vec<String> {
        judge(tasks.to_vec(), limit)
            .remove
            .into_iter()
            .map(String::from)
            .collect()
    }

    #[test]
    fn the_oldest_ended_tasks_beyond_the_limit_go() {
        let tasks = [
            task(1, TaskState::Running),
            task(2, TaskState::Failed),
            task(4, TaskState::Shutdown),
            task(3, TaskState::Failed),
        ];
        assert_eq!(removed(&tasks, 2), ["t4", "t3"]);
        assert_eq!(removed(&tasks, 4), [""; 0]);
        assert_eq!(removed(&tasks, 0), ["t4", "t3", "t2"], "what runs stays");
        assert_eq!(removed(&tasks, -1), [""; 0], "a negative limit keeps all");
    }

    #[test]
    fn a_slot_with_two_running_tasks_is_looked_at_again() {
        let tasks = [
            task(1, TaskState::Running),
            task(2, TaskState::Running),
            task(3, TaskState::Failed),
        ];
        assert_eq!(
            judge(tasks.to_vec(), 1),
            Verdict {
                remove: vec!["t3".into()],
                look_again: true
            }
        );
    }

    #[test]
    fn a_task_to_remove_goes_when_no_node_has_it() {
        let gone = |state| {
            can_go(&Task {
                desired_state: TaskState::Remove,
                status: proto::object::TaskStatus {
                    state,
                    ..Default::default()
                },
                ..Task::default()
            })
        };
        assert!(gone(TaskState::Pending) && gone(TaskState::Shutdown) && gone(TaskState::Failed));
        assert!(!gone(TaskState::Assigned) && !gone(TaskState::Running));
    }
}
