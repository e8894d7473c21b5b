//! The port between nodes, TCP 7946: HTTP/1.1 over mutual TLS 1.3 under the cluster's root, with one table of who may call
//! what. The managers reach nodes through it (logs, exec, events), nodes reach each other, followers reach the leader.
//!
//! - [`Peers`]: the port for the life of the daemon; [`Membership`] while this node is part of a cluster
//! - [`Members`]: the nodes of the cluster, as the dispatcher tells them
//! - `listener`: connections, how many, and for how long
//! - `access`: the table, and the judgement of each request
//! - [`routes`]: what is served
//! - [`Client`]: requests to other nodes
//! - [`proxy`], [`scope`]: requests of the API that another manager answers

mod access;
mod client;
mod crowd;
mod listener;
mod members;
pub mod proxy;
pub mod routes;
pub mod scope;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use manager::listen::listen;
use manager::peer::Credentials;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

pub use access::Caller;
pub use client::{CallError, Client};
pub use members::Members;

/// A request waits so long for a node that is about to serve.
const START: Duration = Duration::from_secs(3);

/// The port between nodes could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address} for other nodes")]
pub struct ListenError {
    /// Where.
    address: SocketAddr,
    /// Why not.
    #[source]
    source: io::Error,
}

/// The port between nodes, for the life of the daemon.
#[derive(Debug, Default)]
pub struct Peers {
    port: u16,
    members: Members,
    /// What is served; nothing before the daemon has opened all its rooms.
    router: watch::Sender<Option<Router>>,
    client: Mutex<Option<Client>>,
}

/// A port that is taken and not served yet.
#[derive(Debug)]
pub struct Bound(TcpListener);

/// The port in use by a member of a cluster. Dropping it ends its connections.
#[derive(Debug)]
pub struct Membership {
    peers: Arc<Peers>,
    listener: Option<AbortOnDropHandle<()>>,
}

impl Peers {
    /// Will listen on this TCP port.
    pub fn new(port: u16) -> Arc<Self> {
        Arc::new(Self {
            port,
            ..Self::default()
        })
    }

    /// The TCP port, as the node's description names it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The nodes of the cluster.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// For requests to other nodes; `None` while this node is in no cluster.
    pub fn client(&self) -> Option<Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says what is served from now on; `None` when the daemon ends.
    pub fn serve(&self, router: Option<Router>) {
        self.router.send_replace(router);
    }

    /// Takes the port on an address of this host.
    ///
    /// # Errors
    /// [`ListenError`], if somebody else has it.
    pub async fn bind(&self, ip: IpAddr) -> Result<Bound, ListenError> {
        let address = SocketAddr::new(ip, self.port);
        let bound = listen(address).await;
        bound.map(Bound).map_err(|source| ListenError { address, source })
    }

    /// Serves the port as the node of these credentials.
    pub fn begin(self: &Arc<Self>, bound: Bound, credentials: Credentials) -> Membership {
        let client = Client::new(credentials.clone(), self.members.clone());
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
        let listener = listener::listen(bound.0, credentials, self.clone());
        Membership {
            peers: self.clone(),
            listener: Some(AbortOnDropHandle::new(tokio::spawn(listener))),
        }
    }

    /// Returns what is served once it is, and the cluster's nodes are known: a node counts as ready a moment earlier.
    /// `None` if that takes too long.
    async fn ready(&self) -> Option<Router> {
        let ready = async {
            self.members.known().await;
            let mut router = self.router.subscribe();
            // The sender is ours: it cannot be gone.
            router.wait_for(Option::is_some).await.ok()?.clone()
        };
        timeout(START, ready).await.ok()?
    }
}

impl Membership {
    /// Ends the port with its connections; it is free afterwards.
    pub async fn end(mut self) {
        if let Some(listener) = self.listener.take() {
            listener.abort();
            // It was aborted: there is nothing to learn from how it ended.
            let _ = listener.await;
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.peers
            .client
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}
