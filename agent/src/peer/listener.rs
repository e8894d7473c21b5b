//! Connections from other nodes: who may have how many, and how long they may be silent.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use manager::ca::Certificate;
use manager::listen::accept;
use manager::peer::{Credentials, EndOfConnection, PeerStream};
use proto::NodeId;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::crowd::{Crowd, Place};
use super::{Members, Peers, access};
use crate::api::error::ApiError;

/// Connections that have not shaken hands yet; who comes then waits in the kernel's queue.
const HANDSHAKES: usize = 256;
/// Of those, from one address.
const HANDSHAKES_EACH: usize = 32;
/// Connections of one node.
const CONNECTIONS_EACH: usize = 256;
/// A request's head must be there within this time; so must the next one on a connection that is kept.
const HEAD: Duration = Duration::from_secs(10);
/// Pause when the process can take no more connections.
const PAUSE: Duration = Duration::from_millis(100);
/// A silent connection is asked after this time whether it still is one …
const KEEPALIVE: Duration = Duration::from_secs(2);
/// … and has so many times as long to answer, or to take what is sent.
const KEEPALIVES: u32 = 3;

/// Takes connections for ever; when it is dropped, those that were taken end.
pub(super) async fn listen(listener: TcpListener, credentials: Credentials, peers: Arc<Peers>) {
    let desk = Arc::new(Desk {
        credentials,
        peers,
        strangers: Crowd::new(HANDSHAKES_EACH),
        nodes: Crowd::new(CONNECTIONS_EACH),
    });
    let places = Arc::new(Semaphore::new(HANDSHAKES));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let (stream, address) = match accept(&listener).await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a connection of a node could not be accepted: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(one) = desk.strangers.enter(address.ip()) else {
            continue;
        };
        let desk = desk.clone();
        connections.spawn(async move {
            let shaken = desk.shake(stream).await;
            drop((place, one));
            match shaken {
                Ok(known) => desk.serve(known, address).await,
                Err(error) => tracing::debug!(peer = %address, "refused a connection: {error}"),
            }
        });
    }
}

/// A broken way to the other side is noticed within seconds, also by who only listens.
pub(super) fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVES)?;
    let patience = KEEPALIVE * (KEEPALIVES + 1);
    sockopt::set_tcp_user_timeout(stream, u32::try_from(patience.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

/// What all connections share.
struct Desk {
    credentials: Credentials,
    peers: Arc<Peers>,
    strangers: Crowd<IpAddr>,
    nodes: Crowd<NodeId>,
}

/// A connection whose other end is known.
struct Known {
    stream: PeerStream,
    certificate: Arc<Certificate>,
    _place: Place<NodeId>,
}

impl Desk {
    async fn shake(&self, stream: TcpStream) -> io::Result<Known> {
        keep_alive(&stream)?;
        let members = self.peers.members.clone();
        // Also what has been upgraded ends when the node is removed.
        let end = |certificate: &Certificate| -> EndOfConnection {
            let node = certificate.node.clone();
            Box::pin(async move { removed(&members, &node).await })
        };
        let (mut stream, certificate) = self.credentials.accept(stream, end).await?;
        let place = self.nodes.enter(certificate.node.clone());
        let place = place.ok_or_else(|| io::Error::other("the node has too many connections"))?;
        stream.welcome().await?;
        Ok(Known {
            stream,
            certificate: Arc::new(certificate),
            _place: place,
        })
    }

    async fn serve(&self, known: Known, address: SocketAddr) {
        let Known {
            stream,
            certificate,
            _place,
        } = known;
        let service = service_fn(|request| self.answer(request, certificate.clone(), address));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let served = tokio::select! {
            served = served => served,
            // While an answer is written nothing is read, and the stream does not notice its end.
            () = removed(&self.peers.members, &certificate.node) => return,
        };
        if let Err(error) = served {
            tracing::debug!(peer = %address, "a connection of a node ended: {error}");
        }
    }

    async fn answer(
        &self,
        request: hyper::Request<Incoming>,
        certificate: Arc<Certificate>,
        address: SocketAddr,
    ) -> Result<Response, Infallible> {
        let router = self.peers.ready().await;
        let caller = match access::recognise(&certificate, &self.peers.members, address.ip()) {
            Ok(caller) => caller,
            Err(refusal) => return Ok(refusal.into_response()),
        };
        let Some(router) = router else {
            let starting = ApiError::unavailable("the agent of this node is starting or ending");
            return Ok(starting.into_response());
        };
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(caller);
        router.oneshot(request).await
    }
}

/// Returns when a node is removed. One that is no member already hears so with its first request.
async fn removed(members: &Members, node: &NodeId) {
    members.known().await;
    match members.get(node) {
        Some(_) => members.removed(node).await,
        None => std::future::pending().await,
    }
}
