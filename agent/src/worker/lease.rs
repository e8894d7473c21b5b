//! Leases of tasks whose service asked for fencing: they end by themselves when this node has had no contact with the
//! managers for too long.
//!
//! A contact is a heartbeat that was answered by a manager which most managers agree to follow, and it counts from when
//! they agreed, or from the sending of the heartbeat if that was earlier. From then on the managers may count, too, until
//! they replace the tasks. Shims hold the leases ([`crate::engine`]): nothing need be kept on disk, and a task ends in time
//! although no agent lives.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::api::error::chain;
use crate::engine::{BootTime, ContainerId, Engine};

/// A lease is extended when this part of it is gone, not with every heartbeat.
const PART: u32 = 10;
/// How long a shim may take for its answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// This node's last contact with the managers.
pub type Contact = watch::Receiver<Option<BootTime>>;

/// Notes a contact; an earlier one than is known says nothing.
pub fn note(contact: &watch::Sender<Option<BootTime>>, at: BootTime) {
    contact.send_if_modified(|last| {
        let is_newer = last.is_none_or(|last| at > last);
        if is_newer {
            *last = Some(at);
        }
        is_newer
    });
}

/// Waits until a task with such a lease may start. Until when, at first.
pub async fn granted(mut contact: Contact, lease: Duration) -> BootTime {
    let lasts = |at: &Option<BootTime>| at.is_some_and(|at| at.after(lease) > BootTime::now());
    match contact.wait_for(lasts).await.map(|at| *at) {
        Ok(Some(at)) => at.after(lease),
        // The worker has ended.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

/// Extends the leases of all containers that have one, as long as there is contact. Never returns.
pub async fn keep(engine: Arc<Engine>, mut contact: Contact) {
    let mut extended: HashMap<ContainerId, BootTime> = HashMap::new();
    loop {
        let Ok(()) = contact.changed().await else {
            return std::future::pending().await;
        };
        let Some(at) = *contact.borrow_and_update() else {
            continue;
        };
        let leased = leased(&engine);
        extended.retain(|id, _| leased.iter().any(|(leased, _)| leased == id));
        let due = leased.into_iter().filter(|(id, lease)| {
            let last = extended.get(id);
            last.is_none_or(|last| at >= last.after(*lease / PART))
        });
        let mut done: FuturesUnordered<_> = due.map(|(id, lease)| extend(&engine, id, lease, at)).collect();
        while let Some(id) = done.next().await {
            extended.extend(id.map(|id| (id, at)));
        }
    }
}

/// Containers that run under a lease, and how long it is.
fn leased(engine: &Engine) -> Vec<(ContainerId, Duration)> {
    let tasks = engine.tasks().into_iter();
    tasks
        .filter_map(|(id, task)| Some((id, Duration::from_nanos(task.lease?))))
        .filter(|(id, _)| engine.is_running(id))
        .collect()
}

/// The container, if its lease was extended.
async fn extend(engine: &Engine, id: ContainerId, lease: Duration, contact: BootTime) -> Option<ContainerId> {
    let extended = engine.extend_lease(id.as_str(), contact.after(lease));
    match timeout(PATIENCE, extended).await {
        Ok(Ok(())) => Some(id),
        // It is ending, or will be tried again with the next contact.
        Ok(Err(error)) => {
            tracing::debug!(container.id = %id, "the lease was not extended: {}", chain(&error));
            None
        }
        Err(_) => {
            tracing::warn!(container.id = %id, "the lease was not extended: its shim does not answer");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_starts_on_a_lease_that_lasts_and_counts_from_the_contact() {
        let (lease, contact) = (Duration::from_secs(60), watch::Sender::new(None));
        let waiting = tokio::spawn(granted(contact.subscribe(), lease));
        let now = BootTime::now();
        note(&contact, now.before(Duration::from_secs(61)));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "that contact is too long ago");
        note(&contact, now);
        note(&contact, now.before(Duration::from_secs(5)));
        assert_eq!(waiting.await.unwrap(), now.after(lease));
    }
}
