//! Many nodes at once, as they tell: those that are there, those that come later, and those that come back. Of each that is
//! lost it is said once that it is missing.

use std::collections::BTreeMap;

use futures::StreamExt;
use futures::stream::BoxStream;
use manager::state::{Store, WatchStream};
use proto::NodeId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::node_stream::{Lost, is_down};

/// Items in flight from the nodes to the client.
const DEPTH: usize = 256;

/// What is listened for.
pub(super) trait Subject: Send + Sync + 'static {
    /// What nodes tell.
    type Item: Send + 'static;
    /// When it was.
    type Moment: Copy + Send + 'static;

    /// This node, which is always there.
    fn own(&self) -> NodeId;
    /// Where it stands which nodes are there.
    fn store(&self) -> &Store;
    /// The nodes that have something to tell now.
    fn nodes(&self) -> Vec<NodeId>;
    /// Comes when these may be others.
    fn changes(&self) -> WatchStream;
    /// What one of them tells.
    fn part(&self, node: &NodeId, from: From<Self::Moment>) -> BoxStream<'static, Result<Self::Item, Lost>>;
    /// When an item was.
    fn moment(item: &Self::Item) -> Self::Moment;
    /// What is said of a node that is not there; `None` if nobody misses anything of it.
    fn missing(&self, node: &NodeId) -> Option<Self::Item>;
}

/// From where on a node tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From<M> {
    /// It is there from the beginning.
    Beginning,
    /// It has come later.
    Arrival,
    /// It is asked once more. The moment is its last item's, if it had told any.
    Return(Option<M>),
}

/// What all nodes tell, until nobody listens any more or the store is gone.
pub(super) fn listen<S: Subject>(subject: S) -> ReceiverStream<S::Item> {
    let (sender, receiver) = mpsc::channel(DEPTH);
    let (ended, ends) = mpsc::channel(DEPTH);
    let listening = Listening {
        subject,
        sender,
        known: BTreeMap::new(),
        ended,
        ends,
    };
    tokio::spawn(listening.run());
    ReceiverStream::new(receiver)
}

struct Listening<S: Subject> {
    subject: S,
    sender: mpsc::Sender<S::Item>,
    known: BTreeMap<NodeId, Known<S::Moment>>,
    ended: mpsc::Sender<End<S::Moment>>,
    ends: mpsc::Receiver<End<S::Moment>>,
}

/// A node has stopped telling.
struct End<M> {
    node: NodeId,
    /// When its last item was.
    last: Option<M>,
    lost: bool,
}

/// A node that has, or should have, been asked.
struct Known<M> {
    open: bool,
    /// Somebody was told that it is missing.
    noted: bool,
    /// It was asked before; when its last item was.
    asked: Option<Option<M>>,
}

impl<M> Default for Known<M> {
    fn default() -> Self {
        Self {
            open: false,
            noted: false,
            asked: None,
        }
    }
}

impl<S: Subject> Listening<S> {
    async fn run(mut self) {
        let mut changes = self.subject.changes();
        self.ask(From::Beginning).await;
        loop {
            tokio::select! {
                () = self.sender.closed() => return,
                change = changes.next() => {
                    if change.is_none() {
                        return;
                    }
                    while changes.try_next().is_some() {}
                    self.ask(From::Arrival).await;
                }
                Some(End { node, last, lost }) = self.ends.recv() => {
                    let known = self.known.entry(node.clone()).or_default();
                    known.open = false;
                    known.asked = Some(last.or(known.asked.flatten()));
                    if lost {
                        self.note(&node).await;
                    }
                }
            }
        }
    }

    /// Asks the nodes that are not being listened to; those for the first time from there on.
    async fn ask(&mut self, first: From<S::Moment>) {
        for node in self.subject.nodes() {
            let known = self.known.entry(node.clone()).or_default();
            if known.open {
                continue;
            }
            if node != self.subject.own() && is_down(self.subject.store(), &node) {
                self.note(&node).await;
                continue;
            }
            (known.open, known.noted) = (true, false);
            let from = known.asked.map_or(first, From::Return);
            let part = self.subject.part(&node, from);
            let (sender, ended) = (self.sender.clone(), self.ended.clone());
            tokio::spawn(forward::<S>(part, node, sender, ended));
        }
    }

    async fn note(&mut self, node: &NodeId) {
        let known = self.known.entry(node.clone()).or_default();
        if known.noted {
            return;
        }
        if let Some(missing) = self.subject.missing(node) {
            known.noted = true;
            // Nobody listens any more: noticed by the loop.
            let _ = self.sender.send(missing).await;
        }
    }
}

async fn forward<S: Subject>(
    mut part: BoxStream<'static, Result<S::Item, Lost>>,
    node: NodeId,
    sender: mpsc::Sender<S::Item>,
    ended: mpsc::Sender<End<S::Moment>>,
) {
    let mut last = None;
    let lost = loop {
        let next = tokio::select! {
            () = sender.closed() => return,
            next = part.next() => next,
        };
        match next {
            Some(Ok(item)) => {
                last = Some(S::moment(&item));
                if sender.send(item).await.is_err() {
                    return;
                }
            }
            Some(Err(Lost)) => break true,
            None => break false,
        }
    };
    // The listener may have ended first.
    let _ = ended.send(End { node, last, lost }).await;
}
