//! Who is registered, and who has missed its heartbeats.
//!
//! ```text
//! UNKNOWN (a new leader) ─register→ READY ─3 heartbeats missed→ DOWN ─register→ READY
//!         └──── not registered in time ──────────────────────→ DOWN
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use proto::object::{DataPath, NodeDescription, NodeState, NodeStatus};
use proto::{Node, NodeId};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::{MISSED, heartbeat_period};
use crate::contacts::Contacts;
use crate::state::{Reader, Store, StoreError};

/// A timer that rings so much too late says that this process does not get the time that it needs.
const LATE: Duration = Duration::from_millis(100);
/// How often a node that is not heard gets another period because of that.
const RESPITES: u32 = 3;

/// Until a state is written again that was not kept.
const AGAIN: Duration = Duration::from_secs(1);

type Table = Mutex<BTreeMap<NodeId, Entry>>;

/// All sessions, one per node at most.
#[derive(Debug)]
pub(super) struct Sessions {
    store: Store,
    table: Arc<Table>,
    contacts: Contacts,
}

/// A registered node, or one that is expected to register.
#[derive(Debug)]
struct Entry {
    session: Session,
    watchdog: JoinHandle<()>,
    /// Until when a node that has yet to register may take its time, if nothing speaks against it.
    grace: Instant,
}

/// One node's session. Ends when the node registers anew, misses its heartbeats, or the manager wants it to.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) id: Arc<str>,
    pub(super) node: NodeId,
    /// Whether the node has yet to register.
    is_awaited: bool,
    /// When the node counts as lost; `None` once the session has ended.
    deadline: Arc<watch::Sender<Option<Instant>>>,
}

impl Session {
    fn new(node: NodeId, is_awaited: bool, deadline: Instant) -> Self {
        let id = NodeId::random();
        Self {
            id: id.as_str().into(),
            node,
            is_awaited,
            deadline: Arc::new(watch::channel(Some(deadline)).0),
        }
    }

    /// Returns when the session has ended.
    pub(super) async fn ended(&self) {
        // The sender is ours: it cannot be gone.
        let _ = self.deadline.subscribe().wait_for(Option::is_none).await;
    }

    fn deadline(&self) -> Option<Instant> {
        *self.deadline.borrow()
    }

    /// Returns whether the session has not ended. Wakes nobody: who waits for the deadline looks again when it has come,
    /// and those who wait for the end need not hear of every heartbeat.
    fn extend(&self, deadline: Instant) -> bool {
        let mut is_open = false;
        self.deadline.send_if_modified(|current| {
            if let Some(current) = current {
                *current = deadline.max(*current);
                is_open = true;
            }
            false
        });
        is_open
    }

    fn end(&self) {
        self.deadline.send_replace(None);
    }

    /// Returns when the node is lost; never if the session ends otherwise.
    async fn lost(&self, period: Duration) {
        let mut respites = 0;
        while let Some(deadline) = self.deadline() {
            sleep_until(deadline).await;
            let now = Instant::now();
            if self.deadline() != Some(deadline) {
                respites = 0;
                continue;
            }
            // Who is starved all the time has to come to an end, too. Who was stopped has lost no time that counts.
            if now - deadline < LATE || (respites == RESPITES && now - deadline < period) {
                return;
            }
            // This process was stopped or starved: the node may have sent what nobody has read yet.
            respites = (respites + 1).min(RESPITES);
            self.extend(now + period);
        }
        std::future::pending().await
    }
}

impl Sessions {
    pub(super) fn new(store: Store, contacts: Contacts) -> Self {
        Self {
            store,
            contacts,
            table: Arc::default(),
        }
    }

    /// Opens a session: the node is ready, and as it describes itself.
    pub(super) async fn register(
        &self,
        node: NodeId,
        description: NodeDescription,
        address: Option<IpAddr>,
    ) -> Result<Session, StoreError> {
        self.contacts.heard(&node);
        // The session comes first: a watchdog that is about to say the opposite then sees that it is late.
        let lost = Instant::now() + heartbeat_period(&self.store) * MISSED;
        let session = self.open(node, false, lost);
        let change = |current: &mut Node| {
            current.description = NodeDescription {
                tls_info: current.description.tls_info.clone(),
                ..description
            };
            current.status.state = NodeState::Ready;
            current.status.message.clear();
            // It has its certificate: nobody else is to get one for that key.
            current.join_key = None;
            if let Some(address) = address {
                current.status.addr = address.to_string();
            }
        };
        let registered = self.store.update(|tx| tx.modify(&session.node, change)).await;
        if registered.is_err() {
            session.end();
            forget(&self.table, &session);
        }
        registered.map(|()| session)
    }

    /// The node has said which volumes it has.
    pub(super) async fn note_volumes(
        &self,
        session: &Session,
        volumes: Vec<String>,
    ) -> Result<(), StoreError> {
        self.note(session, volumes, |description| &mut description.volumes)
            .await
    }

    /// The node has said what it reaches otherwise than by the cluster's networks.
    pub(super) async fn note_subnets(
        &self,
        session: &Session,
        subnets: Vec<String>,
    ) -> Result<(), StoreError> {
        self.note(session, subnets, |description| &mut description.subnets)
            .await
    }

    /// Writes what the node has said of itself, unless it is known already: each session begins by saying it.
    async fn note(
        &self,
        session: &Session,
        said: Vec<String>,
        field: impl Fn(&mut NodeDescription) -> &mut Vec<String>,
    ) -> Result<(), StoreError> {
        let known = self.store.view(|tx| tx.get::<Node>(&session.node));
        if known.is_some_and(|node| *field(&mut node.description.clone()) == said) {
            return Ok(());
        }
        let change = |node: &mut Node| *field(&mut node.description) = said;
        self.store.update(|tx| tx.modify(&session.node, change)).await
    }

    /// The node is reached otherwise than it has said before.
    pub(super) async fn note_data_path(&self, session: &Session, path: DataPath) -> Result<(), StoreError> {
        let change = |node: &mut Node| node.description.data_path = path;
        self.store.update(|tx| tx.modify(&session.node, change)).await
    }

    /// Gives a node some time to register; then it is down.
    pub(super) fn expect(&self, node: NodeId, within: Duration) {
        self.open(node, true, Instant::now() + within);
    }

    /// Gives a node that has not registered no more than this time.
    pub(super) fn hurry(&self, node: &NodeId, within: Duration) {
        let soon = Instant::now() + within;
        self.adjust(node, |deadline, _| (deadline > soon).then_some(soon));
    }

    /// Gives a node that was hurried the time again that it had: it is only slow.
    pub(super) fn relax(&self, node: &NodeId) {
        self.adjust(node, |deadline, grace| (deadline < grace).then_some(grace));
    }

    /// Gives a node that has yet to register another deadline, if `to` names one. It may register at this very moment.
    fn adjust(&self, node: &NodeId, to: impl FnOnce(Instant, Instant) -> Option<Instant>) {
        let mut table = self.lock();
        let entry = table.get(node).filter(|entry| entry.session.is_awaited);
        let Some((before, grace)) = entry.and_then(|entry| Some((entry.session.deadline()?, entry.grace)))
        else {
            return;
        };
        if let Some(deadline) = to(before, grace) {
            self.put(&mut table, Session::new(node.clone(), true, deadline), grace);
        }
    }

    /// The session with this identifier.
    pub(super) fn get(&self, id: &str) -> Option<Session> {
        self.lock()
            .values()
            .map(|entry| &entry.session)
            .find(|session| &*session.id == id)
            .cloned()
    }

    /// The session of this node, if it has this identifier: a heartbeat looks at no other node's.
    pub(super) fn of(&self, node: &NodeId, id: &str) -> Option<Session> {
        let table = self.lock();
        let session = &table.get(node)?.session;
        (&*session.id == id).then(|| session.clone())
    }

    /// Whether the node has a session.
    pub(super) fn has(&self, node: &NodeId) -> bool {
        self.lock().contains_key(node)
    }

    /// A heartbeat: the node is not lost for so many periods more. Returns the period, unless there is no such session.
    pub(super) fn beat(&self, session: &Session) -> Option<Duration> {
        let period = heartbeat_period(&self.store);
        self.contacts.heard(&session.node);
        session.extend(Instant::now() + period * MISSED).then_some(period)
    }

    /// The node has said good-bye: it is down at once.
    pub(super) async fn leave(&self, node: &NodeId) -> Result<(), StoreError> {
        if let Some(entry) = self.lock().remove(node) {
            entry.session.end();
            entry.watchdog.abort();
        }
        let down = |node: &mut Node| set(&mut node.status, NodeState::Down, "the node has left");
        self.store.update(|tx| tx.modify(node, down)).await
    }

    /// Ends the session of a node that was removed, when called. Does not keep the other sessions alive.
    pub(super) fn dropper(&self, session: &Session) -> impl FnOnce() + Send + use<> {
        let (table, session) = (Arc::downgrade(&self.table), session.clone());
        move || {
            session.end();
            if let Some(table) = table.upgrade() {
                forget(&table, &session);
            }
        }
    }

    /// Ends every session, in the nodes' order: a seed of the simulation is to be one story.
    pub(super) fn end_all(&self) {
        for entry in std::mem::take(&mut *self.lock()).into_values() {
            entry.session.end();
            entry.watchdog.abort();
        }
    }

    fn open(&self, node: NodeId, is_awaited: bool, deadline: Instant) -> Session {
        let session = Session::new(node, is_awaited, deadline);
        self.put(&mut self.lock(), session.clone(), deadline);
        session
    }

    /// From now on it is the node's session.
    fn put(&self, table: &mut BTreeMap<NodeId, Entry>, session: Session, grace: Instant) {
        let watchdog = tokio::spawn(watch_over(
            self.store.clone(),
            Arc::downgrade(&self.table),
            session.clone(),
        ));
        let node = session.node.clone();
        let entry = Entry {
            session,
            watchdog,
            grace,
        };
        if let Some(before) = table.insert(node, entry) {
            before.session.end();
            before.watchdog.abort();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Entry>> {
        lock(&self.table)
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        self.end_all();
    }
}

/// Waits until the node is lost, and says so until the store has it: nobody else would notice that the node is gone.
async fn watch_over(store: Store, table: Weak<Table>, session: Session) {
    session.lost(heartbeat_period(&store)).await;
    tracing::warn!(node.id = %session.node, "node is down: it has missed its heartbeats");
    session.end();
    while let Some(table) = table.upgrade() {
        let down = store.update(|tx| match is_current(&table, &session) {
            true => tx.modify(&session.node, |node: &mut Node| {
                set(&mut node.status, NodeState::Down, "heartbeat failure")
            }),
            false => Ok(()),
        });
        match down.await {
            Ok(()) | Err(StoreError::NotFound { .. }) => return forget(&table, &session),
            Err(error) => {
                let error = crate::files::chain(&error);
                tracing::warn!(node.id = %session.node, error, "the node's state was not kept");
            }
        }
        drop(table);
        // Who leads no longer ends its sessions, and their watchdogs with them.
        sleep(AGAIN).await;
    }
}

fn is_current(table: &Table, session: &Session) -> bool {
    lock(table)
        .get(&session.node)
        .is_some_and(|entry| entry.session.id == session.id)
}

/// Takes the session out of the table, if it is still the node's.
fn forget(table: &Table, session: &Session) {
    if is_current(table, session) {
        lock(table).remove(&session.node);
    }
}

/// After a change of the leader nobody knows who is there. Returns the nodes that have to register.
pub(super) async fn doubt_all(store: &Store) -> Result<Vec<NodeId>, StoreError> {
    let present = |node: &Node| matches!(node.status.state, NodeState::Ready | NodeState::Unknown);
    let nodes: Vec<_> = store
        .view(|tx| tx.all::<Node>())
        .into_iter()
        .filter(|node| present(node))
        .collect();
    let mut batch = store.batch().await;
    for node in nodes.iter().filter(|node| node.status.state == NodeState::Ready) {
        let doubt = |node: &mut Node| {
            set(
                &mut node.status,
                NodeState::Unknown,
                "the manager has just started",
            )
        };
        let doubted: Result<(), StoreError> = batch.update(|tx| tx.modify(&node.id, doubt)).await;
        // Removed meanwhile.
        if !matches!(doubted, Err(StoreError::NotFound { .. })) {
            doubted?;
        }
    }
    batch.commit().await?;
    Ok(nodes.into_iter().map(|node| node.id.clone()).collect())
}

fn set(status: &mut NodeStatus, state: NodeState, message: &str) {
    status.state = state;
    message.clone_into(&mut status.message);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
