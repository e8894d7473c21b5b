//! The only part of a manager that talks to nodes: sessions, heartbeats, assignments down, statuses up.
//!
//! Input: nodes, tasks and what they need in the store; the nodes' reports. Output: to each node what it must know;
//! in the store whether a node is there and what became of its tasks.
//!
//! - [`Dispatcher`]: the gRPC service, served over any byte stream
//! - `in_process`: the way of this node to it
//! - `caller`: who speaks
//! - `sessions`: who is registered, and who has missed its heartbeats
//! - `assignments`: what one node must know, and the changes of that
//! - `endpoint`: how a service is reached
//! - `member`: where a task is on its networks
//! - `receipts`: which nodes have put into force what they were told
//! - `statuses`: reports of many tasks in few transactions
//! - `attachments`: containers that no service asked for, on the cluster's networks

mod assignments;
mod attachments;
#[cfg(test)]
mod attachments_tests;
mod caller;
mod endpoint;
mod in_process;
mod member;
#[cfg(test)]
mod peers_tests;
mod receipts;
mod service;
mod sessions;
#[cfg(test)]
mod sessions_tests;
mod statuses;
#[cfg(test)]
mod test_ways;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use proto::wire::dispatcher_server::DispatcherServer;
use proto::{Cluster, NodeId};
use tonic::Request;

use crate::contacts::Contacts;
use crate::scheduler::loads::Loads;
use crate::state::{Reader, Store, StoreError};
pub(crate) use caller::Caller;
pub(crate) use in_process::Door;
use receipts::Receipts;
use sessions::Sessions;
use statuses::Statuses;

/// Between two heartbeats where the cluster does not say.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Heartbeats that a node may miss before it counts as lost.
const MISSED: u32 = 3;
/// How long a node has to register for the first time.
const REGISTRATION: Duration = Duration::from_secs(30);
/// How long nodes that were there have to register with a manager that has just begun to lead. They try again within two
/// seconds.
const RETURN: Duration = Duration::from_secs(10);

/// The dispatcher. Cheap to clone: all clones are the same one. Its sessions end when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Dispatcher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    sessions: Sessions,
    statuses: Statuses,
    loads: Loads,
    receipts: Receipts,
    contacts: Contacts,
}

impl Dispatcher {
    /// A dispatcher over the store that knows no node yet.
    pub fn new(store: Store) -> Self {
        let contacts = Contacts::default();
        let shared = Arc::new(Shared {
            sessions: Sessions::new(store.clone(), contacts.clone()),
            contacts,
            statuses: Statuses::start(store.clone()),
            loads: Loads::default(),
            receipts: Receipts::default(),
            store,
        });
        Self { shared }
    }

    /// This manager begins to lead. Nodes that were ready under an earlier leader are unknown until they register; those
    /// that do not, in time, are down.
    ///
    /// # Errors
    /// The store refused the change.
    pub async fn lead(&self) -> Result<(), StoreError> {
        self.shared.contacts.begin();
        for node in sessions::doubt_all(&self.shared.store).await? {
            self.shared.sessions.expect(node, RETURN);
        }
        Ok(())
    }

    /// Gives a node that has not registered no more than this time to do so.
    pub(crate) fn hurry(&self, node: &NodeId, within: Duration) {
        self.shared.sessions.hurry(node, within);
    }

    /// Takes that back: the node is only slow.
    pub(crate) fn relax(&self, node: &NodeId) {
        self.shared.sessions.relax(node);
    }

    /// The gRPC service, to be served over any connection.
    pub fn service(&self) -> DispatcherServer<impl proto::wire::dispatcher_server::Dispatcher> {
        DispatcherServer::new(self.clone())
    }

    /// A request that whoever runs this process makes in a node's name, to be given to the service without a wire.
    pub fn in_process_request<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(Caller::InProcess);
        request
    }

    /// A way to this dispatcher for the node in this process: a pipe in memory, and the same messages as over a wire.
    pub(crate) fn door(&self) -> Door {
        Door::open(self)
    }

    /// How busy the nodes say that they are.
    pub fn loads(&self) -> Loads {
        self.shared.loads.clone()
    }

    /// When the nodes were heard last.
    pub fn contacts(&self) -> Contacts {
        self.shared.contacts.clone()
    }

    /// A node that has just joined shall register.
    pub(crate) fn expect(&self, node: NodeId) {
        self.shared.sessions.expect(node, REGISTRATION);
    }

    /// Ends every session: nodes register again, with whoever leads then.
    pub fn end_sessions(&self) {
        self.shared.sessions.end_all();
    }

    /// Whether the node has a session.
    pub fn has_session(&self, node: &NodeId) -> bool {
        self.shared.sessions.has(node)
    }
}

/// Between two heartbeats, as the cluster says.
fn heartbeat_period(store: &Store) -> Duration {
    let cluster = store.view(|tx| tx.all::<Cluster>().into_iter().next());
    period_of(cluster.as_deref())
}

/// The same, of this cluster.
pub(crate) fn period_of(cluster: Option<&Cluster>) -> Duration {
    let nanoseconds =
        cluster.and_then(|cluster| cluster.spec.dispatcher.as_ref().map(|d| d.heartbeat_period));
    let period = nanoseconds
        .and_then(|nanoseconds| u64::try_from(nanoseconds).ok())
        .filter(|&n| n > 0);
    period.map_or(HEARTBEAT, Duration::from_nanos)
}
