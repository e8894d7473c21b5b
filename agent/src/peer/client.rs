//! Requests to other nodes.
//!
//! A connection carries one request: it is made with the certificate of the moment and there is never one of which nobody
//! knows whether it still leads anywhere. A request is sent when the node has let this one in; one that is refused by then
//! for an old certificate is not lost (`manager::peer`). A way that breaks is noticed within seconds (`listener::keep_alive`).

use std::io;
use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use manager::peer::{Credentials, PeerStream};
use proto::NodeId;
use proto::object::Peer;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::listener::keep_alive;
use super::members::{Members, address};
use crate::api::error::ApiError;

/// Connecting and shaking hands may take this long.
const CONNECT: Duration = Duration::from_secs(3);
/// The head of the answer may take this long.
const ANSWER: Duration = Duration::from_secs(30);
/// The text of a refusal is read up to here.
const REFUSAL: usize = 64 << 10;

/// A request was not answered, or not with a success.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It was removed, or never was one.
    #[error("node {0} is not part of the cluster")]
    Unknown(NodeId),
    /// The managers know no address of it.
    #[error("the address of node {0} is not known")]
    NoAddress(String),
    /// It does not take the connection, or is not who it should be.
    #[error("connect to node {node}")]
    Connect {
        /// Its name.
        node: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It has ended the connection, or the way to it is broken.
    #[error("speak with node {node}")]
    Broken {
        /// Its name.
        node: String,
        /// What happened.
        #[source]
        source: hyper::Error,
    },
    /// It took the request and says nothing.
    #[error("node {node} does not answer within {} s", ANSWER.as_secs())]
    Silent {
        /// Its name.
        node: String,
    },
    /// It said no.
    #[error("{message}")]
    Refused {
        /// Status of its answer.
        status: StatusCode,
        /// What it says.
        message: String,
    },
}

/// Speaks to other nodes as this one.
#[derive(Debug, Clone)]
pub struct Client {
    credentials: Credentials,
    members: Members,
}

impl Client {
    /// Speaks with these credentials to the nodes that are known.
    pub fn new(credentials: Credentials, members: Members) -> Self {
        Self { credentials, members }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.credentials.node()
    }

    /// The nodes that can be spoken to.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Sends a request to a node; the answer whatever it is, its body as it comes. An answer 101 can be upgraded.
    ///
    /// # Errors
    /// All but [`CallError::Refused`].
    pub async fn send(
        &self,
        node: &NodeId,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, CallError> {
        let peer = self
            .members
            .get(node)
            .ok_or_else(|| CallError::Unknown(node.clone()))?;
        let stream = self.connect(&peer).await?;
        let name = || peer.hostname.clone();
        let broken = |source| CallError::Broken { node: name(), source };
        request
            .headers_mut()
            .insert(HOST, hyper::header::HeaderValue::from_static("node"));
        let exchange = async {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(broken)?;
            // Ends with the answer's body, with what it was upgraded to, or with the way.
            tokio::spawn(connection.with_upgrades());
            sender.send_request(request).await.map_err(broken)
        };
        let answered = timeout(ANSWER, exchange).await;
        answered.unwrap_or_else(|_| Err(CallError::Silent { node: name() }))
    }

    /// [`Client::send`] for an answer that must be a success, or an upgrade.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn ask(&self, node: &NodeId, request: Request<Body>) -> Result<Response<Incoming>, CallError> {
        let answer = self.send(node, request).await?;
        let status = answer.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(answer);
        }
        let message = refusal(answer.into_body()).await;
        Err(CallError::Refused {
            status,
            message: message.unwrap_or_else(|| status.to_string()),
        })
    }

    async fn connect(&self, peer: &Peer) -> Result<PeerStream, CallError> {
        let address = address(peer).ok_or_else(|| CallError::NoAddress(peer.hostname.clone()))?;
        let open = async || {
            let stream = TcpStream::connect(address).await?;
            keep_alive(&stream)?;
            Ok(stream)
        };
        let late = |_| Err(io::ErrorKind::TimedOut.into());
        let connect = self.credentials.connect(open, &peer.node_id);
        let connected = timeout(CONNECT, connect).await.unwrap_or_else(late);
        connected.map_err(|source| CallError::Connect {
            node: peer.hostname.clone(),
            source,
        })
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused { status, message } => Self::new(status, message),
            CallError::Silent { .. } => Self::from_chain(StatusCode::GATEWAY_TIMEOUT, &error),
            other => Self::from_chain(StatusCode::BAD_GATEWAY, &other),
        }
    }
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

async fn refusal(body: Incoming) -> Option<String> {
    let body = http_body_util::Limited::new(body, REFUSAL);
    let bytes = timeout(CONNECT, body.collect()).await.ok()?.ok()?.to_bytes();
    Some(serde_json::from_slice::<Refusal>(&bytes).ok()?.message)
}
