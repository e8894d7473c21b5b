//! The event bus: every change of every object, in Docker's messages, with a ring of the last for `since`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use time::OffsetDateTime;
use tokio::sync::broadcast;

use super::container::lock;
use super::record::ContainerRecord;
use crate::api::types::event::{Actor, EventMessage};

/// Events remembered for `since` (Docker keeps 256).
const REMEMBERED: usize = 1024;
/// A listener that falls further behind than this loses events.
const BACKLOG: usize = 4096;

/// The bus. Publishing never blocks.
#[derive(Debug)]
pub(crate) struct EventBus {
    ring: Mutex<VecDeque<EventMessage>>,
    sender: broadcast::Sender<EventMessage>,
}

impl EventBus {
    pub(crate) fn new() -> Self {
        Self {
            ring: Mutex::default(),
            sender: broadcast::Sender::new(BACKLOG),
        }
    }

    pub(crate) fn publish(&self, event: EventMessage) {
        let mut ring = lock(&self.ring);
        if ring.len() == REMEMBERED {
            ring.pop_front();
        }
        ring.push_back(event.clone());
        // Sent under the lock, so that a replay and what follows it have neither gap nor overlap. No listener is no error.
        let _ = self.sender.send(event);
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<EventMessage> {
        self.sender.subscribe()
    }

    /// What is remembered from `since` (Unix ns) on, and everything after it.
    pub(crate) fn since(&self, since: i64) -> (Vec<EventMessage>, broadcast::Receiver<EventMessage>) {
        let ring = lock(&self.ring);
        let past = ring
            .iter()
            .filter(|event| event.time_nano >= since)
            .cloned()
            .collect();
        (past, self.sender.subscribe())
    }
}

/// A message about any object; `name` in the attributes is what people see.
pub(crate) fn message(
    scope: &str,
    kind: &str,
    action: &str,
    id: &str,
    attributes: BTreeMap<String, String>,
) -> EventMessage {
    let now = OffsetDateTime::now_utc();
    let nanoseconds = i64::try_from(now.unix_timestamp_nanos()).unwrap_or(i64::MAX);
    // The old fields: containers and images have all three, other objects only the scope and time.
    let old = matches!(kind, "container" | "image");
    let from = attributes.get("image").cloned().unwrap_or_default();
    EventMessage {
        status: if old { action.to_owned() } else { String::new() },
        id: if old { id.to_owned() } else { String::new() },
        from: if kind == "container" { from } else { String::new() },
        kind: kind.to_owned(),
        action: action.to_owned(),
        actor: Actor {
            id: id.to_owned(),
            attributes,
        },
        scope: scope.to_owned(),
        time: now.unix_timestamp(),
        time_nano: nanoseconds,
    }
}

/// A message about a container: its labels, image and name, and `extra`.
pub(crate) fn of_container(record: &ContainerRecord, action: &str, extra: &[(&str, String)]) -> EventMessage {
    let mut attributes = record.config.labels.clone();
    attributes.insert("image".into(), record.config.image.clone());
    attributes.insert("name".into(), record.name.clone());
    for (key, value) in extra {
        attributes.insert((*key).to_owned(), value.clone());
    }
    message("local", "container", action, record.id.as_str(), attributes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::record::tests::sample;

    #[test]
    fn old_and_new_fields_at_once() {
        let event = of_container(&sample(), "die", &[("exitCode", "3".into())]);
        assert_eq!((event.status.as_str(), event.action.as_str()), ("die", "die"));
        assert_eq!(
            (event.from.as_str(), event.id.as_str()),
            ("bb", event.actor.id.as_str())
        );
        assert_eq!(event.actor.attributes["exitCode"], "3");
        assert_eq!(event.actor.attributes["name"], "web");
        assert_eq!(event.time, event.time_nano / 1_000_000_000);
        let network = message("local", "network", "connect", "n", BTreeMap::new());
        assert!(network.status.is_empty() && network.id.is_empty());
    }

    #[tokio::test]
    async fn replay_and_live_meet_without_gap_or_overlap() {
        let bus = EventBus::new();
        for action in ["a", "b"] {
            bus.publish(message("local", "volume", action, "v", BTreeMap::new()));
        }
        let (past, mut live) = bus.since(0);
        bus.publish(message("local", "volume", "c", "v", BTreeMap::new()));
        assert_eq!(
            past.iter().map(|e| e.action.as_str()).collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert_eq!(live.recv().await.unwrap().action, "c");
        assert!(bus.since(i64::MAX).0.is_empty());
    }

    #[test]
    fn the_ring_is_bounded() {
        let bus = EventBus::new();
        for _ in 0..REMEMBERED + 10 {
            bus.publish(message("local", "volume", "x", "v", BTreeMap::new()));
        }
        assert_eq!(bus.since(0).0.len(), REMEMBERED);
    }
}
