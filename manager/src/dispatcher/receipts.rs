//! Which nodes have put into force what they were told.
//!
//! ```text
//! ask ─n─> every stream: takes in what the store has changed, sends it, notes (n, last message)
//!     <── the node acknowledges that message ── it is in force there
//! ```
//! Questions that come while a stream is busy are answered together: a stream only ever looks at the latest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::join_all;
use proto::NodeId;
use tokio::sync::watch;

/// The streams of assignments whose nodes acknowledge what they get.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    question: watch::Sender<u64>,
    /// By session.
    streams: Arc<Mutex<BTreeMap<Arc<str>, Arc<Stream>>>>,
}

/// How far one node has come.
#[derive(Debug)]
struct Stream {
    node: NodeId,
    /// The latest question, and the message after which the node knows all that the store knew then.
    told: watch::Sender<(u64, u64)>,
    /// The latest message that is in force.
    acknowledged: watch::Sender<u64>,
}

/// The stream's own end. When it is dropped, nobody waits for the node any more.
#[derive(Debug)]
pub(super) struct Receipt {
    session: Arc<str>,
    stream: Arc<Stream>,
    streams: Arc<Mutex<BTreeMap<Arc<str>, Arc<Stream>>>>,
    question: watch::Receiver<u64>,
}

impl Receipts {
    /// A stream begins for a session.
    pub(super) fn begin(&self, session: Arc<str>, node: NodeId) -> Receipt {
        let stream = Arc::new(Stream {
            node,
            told: watch::Sender::default(),
            acknowledged: watch::Sender::default(),
        });
        lock(&self.streams).insert(session.clone(), stream.clone());
        Receipt {
            session,
            stream,
            streams: self.streams.clone(),
            question: self.question.subscribe(),
        }
    }

    /// The session's node has put into force what it was told up to this message.
    pub(super) fn acknowledge(&self, session: &str, message: u64) {
        if let Some(stream) = lock(&self.streams).get(session) {
            stream.acknowledged.send_if_modified(|known| {
                let later = message > *known;
                *known = message.max(*known);
                later
            });
        }
    }

    /// Waits until every node but one has put into force what the store says now. Nodes that are lost meanwhile do not count.
    pub(super) async fn all_but(&self, node: &NodeId) {
        let mut question = 0;
        self.question.send_modify(|last| {
            *last += 1;
            question = *last;
        });
        let streams: Vec<_> = lock(&self.streams)
            .values()
            .filter(|stream| stream.node != *node)
            .map(|stream| (stream.told.subscribe(), stream.acknowledged.subscribe()))
            .collect();
        join_all(
            streams
                .into_iter()
                .map(|(mut told, mut acknowledged)| async move {
                    // An error says that the stream has ended.
                    let Ok(message) = told
                        .wait_for(|(answered, _)| *answered >= question)
                        .await
                        .map(|told| told.1)
                    else {
                        return;
                    };
                    let _ = acknowledged.wait_for(|known| *known >= message).await;
                }),
        )
        .await;
    }
}

impl Receipt {
    /// The latest question. What the store says after this call answers it.
    pub(super) fn question(&mut self) -> u64 {
        *self.question.borrow_and_update()
    }

    /// Returns when there is another question.
    pub(super) async fn asked(&mut self) {
        if self.question.changed().await.is_err() {
            // The dispatcher is ending.
            std::future::pending().await
        }
    }

    /// The node has been sent all that the store said when the question was looked at; this message was the last.
    pub(super) fn told(&mut self, question: u64, message: u64) {
        self.stream.told.send_replace((question, message));
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let mut streams = lock(&self.streams);
        // A later stream of the same session has its own.
        if streams
            .get(&self.session)
            .is_some_and(|stream| Arc::ptr_eq(stream, &self.stream))
        {
            streams.remove(&self.session);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn answer_with(receipt: &mut Receipt, message: u64) {
        let question = receipt.question();
        receipt.told(question, message);
    }

    #[tokio::test]
    async fn an_answer_needs_every_other_node_that_is_there() {
        let receipts = Receipts::default();
        let mut one = receipts.begin("s1".into(), "one".into());
        let mut two = receipts.begin("s2".into(), "two".into());
        let _asker = receipts.begin("s3".into(), "asker".into());
        answer_with(&mut one, 7);
        receipts.acknowledge("s1", 7);
        let asker = "asker".into();
        let mut answer = Box::pin(receipts.all_but(&asker));
        assert!((&mut answer).now_or_never().is_none());
        answer_with(&mut one, 7);
        assert!((&mut answer).now_or_never().is_none(), "two has not been told");
        answer_with(&mut two, 3);
        receipts.acknowledge("s2", 2);
        assert!((&mut answer).now_or_never().is_none(), "two is behind");
        receipts.acknowledge("s2", 3);
        answer.await;
    }

    #[tokio::test]
    async fn who_is_lost_does_not_count() {
        let receipts = Receipts::default();
        let one = receipts.begin("s1".into(), "one".into());
        let asker = "asker".into();
        let mut answer = Box::pin(receipts.all_but(&asker));
        assert!((&mut answer).now_or_never().is_none());
        drop(one);
        answer.await;
    }
}
