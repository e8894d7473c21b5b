//! Watchers of which there is one for each node, and of which most changes concern one.
//!
//! To ask each of a thousand watchers about each change would make a change cost as much as there are nodes; so the change
//! is asked once whom it concerns.

use std::collections::BTreeMap;

use proto::NodeId;
use tokio::sync::mpsc;

use super::watch::Event;

/// Whom a change concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience<'a> {
    /// No node.
    Nobody,
    /// These nodes, which may be one.
    Nodes([&'a NodeId; 2]),
    /// Every node.
    Everybody,
    /// Every node but this one.
    AllBut(&'a NodeId),
}

/// Watchers that are alike but for their nodes. To be made as a `static`: circles are told apart by their place.
#[derive(Debug)]
pub struct Circle {
    /// Whom a change concerns. Asked inside the commit, once for each change: it must be quick.
    pub audience: for<'a> fn(&'a Event) -> Audience<'a>,
}

type Senders = Vec<mpsc::UnboundedSender<Event>>;

/// The watchers of each circle, by node; in the nodes' order, which a simulation must be able to repeat.
#[derive(Debug, Default)]
pub(super) struct Circles {
    list: Vec<(&'static Circle, BTreeMap<NodeId, Senders>)>,
}

impl Circles {
    /// Adds a watcher, and forgets those of its circle that are gone.
    pub(super) fn add(
        &mut self,
        circle: &'static Circle,
        node: NodeId,
        sender: mpsc::UnboundedSender<Event>,
    ) {
        let place = self
            .list
            .iter()
            .position(|(known, _)| std::ptr::eq(*known, circle));
        let place = place.unwrap_or_else(|| {
            self.list.push((circle, BTreeMap::new()));
            self.list.len() - 1
        });
        let watchers = &mut self.list[place].1;
        watchers.retain(|_, senders| {
            senders.retain(|sender| !sender.is_closed());
            !senders.is_empty()
        });
        watchers.entry(node).or_default().push(sender);
    }

    /// Tells every change to those whom it concerns, in order.
    pub(super) fn tell(&self, events: &[Event]) {
        for (circle, watchers) in &self.list {
            for event in events {
                match (circle.audience)(event) {
                    Audience::Nobody => {}
                    Audience::Nodes([one, two]) => {
                        send(watchers.get(one), event);
                        if one != two {
                            send(watchers.get(two), event);
                        }
                    }
                    Audience::Everybody => watchers.values().for_each(|senders| send(Some(senders), event)),
                    Audience::AllBut(node) => {
                        let others = watchers.iter().filter(|(watched, _)| *watched != node);
                        others.for_each(|(_, senders)| send(Some(senders), event));
                    }
                }
            }
        }
    }
}

/// Who is gone is forgotten when the next one comes.
fn send(senders: Option<&Senders>, event: &Event) {
    for sender in senders.into_iter().flatten() {
        let _ = sender.send(event.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Filter, Reader, Store, StoreError};
    use super::*;
    use crate::state::Change;
    use proto::{Service, Task};

    static BY_NODE: Circle = Circle {
        audience: |event| match event {
            Event::Task(change) => {
                let now = &change.object().node_id;
                Audience::Nodes([change.old().map_or(now, |old| &old.node_id), now])
            }
            Event::Service(Change::Remove(_)) => Audience::Nobody,
            Event::Service(_) => Audience::Everybody,
            Event::Node(change) => Audience::AllBut(&change.object().id),
            _ => Audience::Nobody,
        },
    };

    fn told(stream: &mut crate::state::WatchStream) -> usize {
        std::iter::from_fn(|| stream.try_next()).count()
    }

    #[tokio::test]
    async fn each_hears_what_concerns_it_and_nobody_hears_it_twice() {
        let store = Store::in_memory();
        let of = |node: &str| store.watch(Filter::of_node(&BY_NODE, node.into()));
        let (mut a, mut b, mut again) = (of("a"), of("b"), of("a"));
        let task = |node: &str| Task {
            id: "t".into(),
            node_id: node.into(),
            ..Task::default()
        };
        store.update(|tx| tx.create(task("a"))).await.unwrap();
        assert_eq!((told(&mut a), told(&mut b), told(&mut again)), (1, 0, 1));
        let moved: Result<(), StoreError> = store
            .update(|tx| tx.modify("t", |task: &mut Task| task.node_id = "b".into()))
            .await;
        moved.unwrap();
        assert_eq!(
            (told(&mut a), told(&mut b)),
            (1, 1),
            "where it was and where it is"
        );
        let service = Service {
            id: "s".into(),
            ..Service::default()
        };
        store.update(|tx| tx.create(service)).await.unwrap();
        assert_eq!((told(&mut a), told(&mut b)), (1, 1));
        store.update(|tx| tx.remove::<Service>("s")).await.unwrap();
        let node = proto::Node {
            id: "a".into(),
            ..proto::Node::default()
        };
        store.update(|tx| tx.create(node)).await.unwrap();
        assert_eq!((told(&mut a), told(&mut b)), (0, 1));
        drop(again);
        // The next watcher clears away who is gone; those who stay are told as before.
        let mut late = of("c");
        store.update(|tx| tx.remove::<Task>("t")).await.unwrap();
        assert_eq!((told(&mut a), told(&mut b), told(&mut late)), (0, 1, 0));
        assert!(store.view(|tx| tx.all::<Task>()).is_empty());
    }
}
