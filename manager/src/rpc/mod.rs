//! The manager's port for other nodes: [`NodeCa`](proto::wire::node_ca_server),
//! [`Dispatcher`](proto::wire::dispatcher_server) and [`Managers`](proto::wire::managers_server) over mutual TLS.
//!
//! - [`RpcServer`]: from the bound port to the end of its last connection
//! - `access`: who may call what, and what only the leader answers
//! - `managers`: the service between managers; [`Wire`]: its other side

mod access;
mod managers;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use proto::ClusterId;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use crate::ca::{Authority, rotation};
use crate::dispatcher::Dispatcher;
use crate::seat::Seat;
use crate::state::Store;
use crate::state::consensus::message::Transport;
use crate::tls::TlsError;
use crate::tls::server::{self, Shown, Trust};
use access::AccessLayer;
pub(crate) use wire::Wire;

/// Connections that wait to be served.
const QUEUE: usize = 16;
/// A silent connection is asked this often whether it still is one …
const KEEPALIVE: Duration = Duration::from_secs(10);
/// … and has this long to answer.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);

/// What the server serves.
pub(crate) struct Services {
    pub(crate) store: Store,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) cluster: ClusterId,
    pub(crate) seat: Seat,
    /// The way to other managers.
    pub(crate) transport: Arc<dyn Transport>,
}

/// The server at work. Dropping it ends it with its connections.
#[derive(Debug)]
pub(crate) struct RpcServer {
    end: watch::Sender<()>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl RpcServer {
    /// Serves on a bound port the nodes that `trust` believes.
    pub(crate) fn start(
        listener: TcpListener,
        trust: Arc<Trust>,
        own: Arc<Shown>,
        services: Services,
    ) -> Result<Self, TlsError> {
        let config = server::trusting(trust, own)?;
        let (end, ended) = watch::channel(());
        let (taken, connections) = mpsc::channel(QUEUE);
        let reign = services.seat.reign();
        let accept = tokio::spawn(server::accept(listener, config, ended, reign, taken));
        let serve = tokio::spawn(serve(services, ReceiverStream::new(connections)));
        Ok(Self {
            end,
            tasks: Mutex::new(vec![accept, serve]),
        })
    }

    /// Ends the server and its connections; the port is free afterwards.
    pub(crate) async fn shutdown(&self) {
        self.end.send_replace(());
        for task in self.take() {
            task.abort();
            // It was aborted: there is nothing to learn from how it ended.
            let _ = task.await;
        }
    }

    fn take(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for RpcServer {
    fn drop(&mut self) {
        for task in self.take() {
            task.abort();
        }
    }
}

async fn serve(services: Services, connections: ReceiverStream<std::io::Result<server::Connection>>) {
    let Services {
        store,
        dispatcher,
        cluster,
        seat,
        transport,
    } = services;
    let sightings = rotation::write_down(store.clone());
    let connections = connections.inspect(move |connection| {
        let shown = connection
            .as_ref()
            .ok()
            .and_then(|connection| connection.peer().certificate.clone());
        // Without a reader this server has ended.
        shown.map(|certificate| sightings.send(certificate));
    });
    let access = AccessLayer {
        store: store.clone(),
        cluster,
        seat: seat.clone(),
    };
    let managers = managers::Service {
        seat,
        store: store.clone(),
        transport,
    };
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
        .layer(access)
        .add_service(managers.service())
        .add_service(dispatcher.service())
        .add_service(Authority::new(store, dispatcher).service());
    if let Err(error) = server.serve_with_incoming(connections).await {
        let error = crate::files::chain(&error);
        tracing::error!(error, "the cluster's port is no longer served");
    }
}
