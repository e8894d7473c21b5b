//! Following the store: every watcher sees each change once, in the order of the commits.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use proto::{Cluster, Config, Network, Node, NodeId, Secret, Service, Task};
use tokio::sync::mpsc;

use super::audience::{Circle, Circles};

use super::object::Kind;

/// What happened to one object.
#[derive(Debug, Clone)]
pub enum Change<T> {
    /// It is new.
    Create(Arc<T>),
    /// It changed.
    Update {
        /// As it was before.
        old: Arc<T>,
        /// As it is now.
        new: Arc<T>,
    },
    /// It is gone; this is how it was last.
    Remove(Arc<T>),
}

impl<T> Change<T> {
    /// The object as it is now, or as it was last.
    pub fn object(&self) -> &Arc<T> {
        match self {
            Self::Create(object) | Self::Update { new: object, .. } | Self::Remove(object) => object,
        }
    }

    /// The object as it was before, if it was there.
    pub fn old(&self) -> Option<&Arc<T>> {
        match self {
            Self::Create(_) => None,
            Self::Update { old, .. } | Self::Remove(old) => Some(old),
        }
    }

    /// The object as it is now, if it is there.
    pub fn new_object(&self) -> Option<&Arc<T>> {
        match self {
            Self::Create(new) | Self::Update { new, .. } => Some(new),
            Self::Remove(_) => None,
        }
    }
}

/// A change of the store.
#[derive(Debug, Clone)]
pub enum Event {
    /// A cluster changed.
    Cluster(Change<Cluster>),
    /// A node changed.
    Node(Change<Node>),
    /// A network changed.
    Network(Change<Network>),
    /// A secret changed.
    Secret(Change<Secret>),
    /// A config changed.
    Config(Change<Config>),
    /// A service changed.
    Service(Change<Service>),
    /// A task changed.
    Task(Change<Task>),
    /// All changes of this version have been told.
    Commit(u64),
}

impl Event {
    /// The kind of the changed object; `None` for the end of a commit.
    pub fn kind(&self) -> Option<Kind> {
        Some(match self {
            Self::Cluster(_) => Kind::Cluster,
            Self::Node(_) => Kind::Node,
            Self::Network(_) => Kind::Network,
            Self::Secret(_) => Kind::Secret,
            Self::Config(_) => Kind::Config,
            Self::Service(_) => Kind::Service,
            Self::Task(_) => Kind::Task,
            Self::Commit(_) => return None,
        })
    }
}

type Predicate = dyn Fn(&Event) -> bool + Send + Sync;

/// Which events a watcher wants.
#[derive(Clone, Default)]
pub struct Filter {
    kinds: Option<Vec<Kind>>,
    commits: bool,
    only: Option<Arc<Predicate>>,
    /// The circle, and the node of this watcher in it.
    circle: Option<(&'static Circle, NodeId)>,
}

impl Filter {
    /// Changes of every kind, without the ends of commits.
    pub fn all() -> Self {
        Self::default()
    }

    /// Changes of these kinds alone.
    pub fn kinds(kinds: &[Kind]) -> Self {
        Self {
            kinds: Some(kinds.to_vec()),
            ..Self::default()
        }
    }

    /// Also [`Event::Commit`] after the changes of each commit. The predicate of [`Self::only`] is not asked about it.
    #[must_use]
    pub fn with_commits(self) -> Self {
        Self {
            commits: true,
            ..self
        }
    }

    /// Only changes of which the predicate holds. It runs inside the commit: it must be quick.
    #[must_use]
    pub fn only(self, predicate: impl Fn(&Event) -> bool + Send + Sync + 'static) -> Self {
        Self {
            only: Some(Arc::new(predicate)),
            ..self
        }
    }

    /// What concerns a node, as the circle says: the watchers of a thousand nodes cost no more than that of one, as long as
    /// most changes concern one node. Nothing else that the filter says counts beside.
    pub fn of_node(circle: &'static Circle, node: NodeId) -> Self {
        Self {
            circle: Some((circle, node)),
            ..Self::default()
        }
    }

    fn wants(&self, event: &Event) -> bool {
        let Some(kind) = event.kind() else {
            return self.commits;
        };
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind))
            && self.only.as_ref().is_none_or(|predicate| predicate(event))
    }
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filter")
            .field("kinds", &self.kinds)
            .field("commits", &self.commits)
            .finish_non_exhaustive()
    }
}

/// The events that one watcher asked for. Ends when the store is dropped.
#[derive(Debug)]
pub struct WatchStream {
    receiver: mpsc::UnboundedReceiver<Event>,
}

impl WatchStream {
    /// The next event; `None` once the store is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }

    /// The next event if there already is one.
    pub fn try_next(&mut self) -> Option<Event> {
        self.receiver.try_recv().ok()
    }
}

impl Stream for WatchStream {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.receiver.poll_recv(context)
    }
}

/// All watchers of one store.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    list: Vec<(Filter, mpsc::UnboundedSender<Event>)>,
    circles: Circles,
}

impl Watchers {
    pub(super) fn add(&mut self, mut filter: Filter) -> WatchStream {
        let (sender, receiver) = mpsc::unbounded_channel();
        match filter.circle.take() {
            Some((circle, node)) => self.circles.add(circle, node, sender),
            None => self.list.push((filter, sender)),
        }
        WatchStream { receiver }
    }

    /// Tells every watcher; forgets those that are gone.
    pub(super) fn tell(&mut self, events: &[Event]) {
        self.list.retain(|(filter, sender)| {
            let wanted = events.iter().filter(|event| filter.wants(event));
            !sender.is_closed() && wanted.cloned().all(|event| sender.send(event).is_ok())
        });
        self.circles.tell(events);
    }
}
