//! Consensus between managers, over gRPC and mutual TLS.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use proto::ClusterId;
use proto::wire::managers_client::ManagersClient;
use proto::wire::{ConsensusMessage, SnapshotPart};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use tower::service_fn;

use crate::files::chain;
use crate::remote::explain;
use crate::state::consensus::Member;
use crate::state::consensus::message::{Request, Response, SnapshotTransfer, Transport, TransportError};
use crate::tls::client;
use crate::tls::server::{Shown, Trust};

/// A message with its answer may be as many bytes large.
pub(super) const MESSAGE: usize = 64 << 20;
/// Bytes of a snapshot in one part.
const PART: usize = 1 << 20;
/// Who has not answered within this time is connected to anew: the connection may be dead without knowing it.
const ANSWER: Duration = Duration::from_secs(2);
/// The same for a snapshot.
const SNAPSHOT: Duration = Duration::from_secs(60);

/// Ways to the other managers; a connection is made when it is used. Before it is [armed](Wire::arm) there is none.
#[derive(Default)]
pub(crate) struct Wire {
    arms: Arc<OnceLock<Arms>>,
    lines: Arc<Mutex<HashMap<Member, Channel>>>,
}

/// What this manager trusts and shows.
struct Arms {
    trust: Arc<Trust>,
    cluster: ClusterId,
    own: Arc<Shown>,
}

impl Wire {
    /// From now on, managers of this cluster are trusted as other nodes are, and shown what they see.
    pub(crate) fn arm(&self, trust: Arc<Trust>, cluster: &ClusterId, own: Arc<Shown>) {
        self.arms.get_or_init(|| Arms {
            trust,
            cluster: cluster.clone(),
            own,
        });
    }

    /// A channel to a manager. It connects when it is used.
    pub(crate) fn line(&self, to: &Member) -> Channel {
        let mut lines = lock(&self.lines);
        lines
            .entry(to.clone())
            .or_insert_with(|| self.channel(to))
            .clone()
    }

    /// A connection to the member, and to nobody else at its address. An error says why not.
    pub(crate) async fn dial(&self, to: &Member) -> Result<TlsStream<TcpStream>, String> {
        dial(self.arms.clone(), to.clone()).await
    }

    fn channel(&self, to: &Member) -> Channel {
        let (arms, to) = (self.arms.clone(), to.clone());
        let connector = service_fn(move |_: Uri| {
            let stream = dial(arms.clone(), to.clone());
            async move { stream.await.map(TokioIo::new).map_err(io::Error::other) }
        });
        // The name is never resolved; the connector knows where the manager is.
        Endpoint::from_static("http://manager.internal").connect_with_connector_lazy(connector)
    }
}

async fn dial(arms: Arc<OnceLock<Arms>>, to: Member) -> Result<TlsStream<TcpStream>, String> {
    let arms = arms.get().ok_or("this manager has no certificate yet")?;
    let address: SocketAddr = to
        .address
        .parse()
        .map_err(|_| format!("{:?} is not an IP address with a port", to.address))?;
    loop {
        let own = arms.own.current();
        let connected = arms.connect(address, &to, own.clone()).await;
        // Who was renewed meanwhile may be believed no longer by what he showed.
        if connected.is_ok() || Arc::ptr_eq(&own, &arms.own.current()) {
            return connected;
        }
    }
}

impl Arms {
    async fn connect(
        &self,
        address: SocketAddr,
        to: &Member,
        own: Arc<CertifiedKey>,
    ) -> Result<TlsStream<TcpStream>, String> {
        let config = client::trusting(&self.trust.root(), Some(self.cluster.clone()), Some(own));
        let stream = client::connect(address, config.map_err(|error| chain(&error))?).await;
        let stream = stream.map_err(|error| chain(&error))?;
        match client::manager(&stream).map(|certificate| certificate.node) {
            Some(node) if node == to.node || to.node.is_empty() => Ok(stream),
            Some(node) => Err(format!("node {node} is there instead of {}", to.node)),
            None => Err("its certificate cannot be read".to_owned()),
        }
    }
}

impl Transport for Wire {
    fn send(&self, to: &Member, request: Request) -> BoxFuture<'static, Result<Response, TransportError>> {
        let (line, lines, to) = (self.line(to), self.lines.clone(), to.clone());
        Box::pin(async move {
            let client = ManagersClient::new(line)
                .max_decoding_message_size(MESSAGE)
                .max_encoding_message_size(MESSAGE);
            let answer = match request {
                Request::Snapshot(transfer) => {
                    tokio::time::timeout(SNAPSHOT, install(client, transfer)).await
                }
                request => tokio::time::timeout(ANSWER, deliver(client, request)).await,
            };
            let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
            answer.map_err(|status| {
                let dismissed = status.code() == Code::PermissionDenied;
                if !dismissed {
                    lock(&lines).remove(&to);
                }
                TransportError {
                    address: to.address,
                    reason: explain(&status),
                    dismissed,
                }
            })
        })
    }
}

async fn deliver(mut client: ManagersClient<Channel>, request: Request) -> Result<Response, Status> {
    let answer = client
        .deliver(ConsensusMessage {
            json: json(&request)?,
        })
        .await;
    read(&answer?.into_inner())
}

async fn install(
    mut client: ManagersClient<Channel>,
    transfer: SnapshotTransfer,
) -> Result<Response, Status> {
    let data = transfer.data.clone();
    let head = SnapshotPart {
        json: json(&Request::Snapshot(transfer))?,
        data: Vec::new(),
    };
    let body = (0..data.len()).step_by(PART).map(move |start| SnapshotPart {
        json: Vec::new(),
        data: data[start..data.len().min(start + PART)].to_vec(),
    });
    let parts = futures::stream::iter(std::iter::once(head).chain(body));
    read(&client.install_snapshot(parts).await?.into_inner())
}

fn json(request: &Request) -> Result<Vec<u8>, Status> {
    serde_json::to_vec(request).map_err(|error| Status::internal(error.to_string()))
}

fn read(message: &ConsensusMessage) -> Result<Response, Status> {
    serde_json::from_slice(&message.json).map_err(|_| Status::internal("its answer makes no sense"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}
