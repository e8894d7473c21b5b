//! Channels to the managers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::ClusterId;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::record::{self, Credentials};
use super::{RemoteError, RemoteManager};
use crate::ca::Certificate;
use crate::files::chain;
use crate::peer::{self, Speaker};
use crate::tls::client::{connect, trusting};
use crate::tls::{Cut, TlsError, certified};

/// The port of the managers.
const PORT: u16 = 2377;
/// A silent connection is asked this often whether it still is one …
const KEEPALIVE: Duration = Duration::from_secs(2);
/// … and has this long to answer.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(5);

/// Where the managers are, and as whom to speak to them.
#[derive(Debug)]
pub(super) struct Link {
    state_dir: PathBuf,
    cluster: ClusterId,
    /// The first is the next to be tried.
    managers: Mutex<Vec<RemoteManager>>,
    /// Connections are made with the last one, and end when there is another.
    current: watch::Sender<(Arc<ClientConfig>, Certificate)>,
    /// The same for connections with other nodes.
    peer: watch::Sender<Arc<Speaker>>,
}

impl Link {
    /// The link of the node whose membership is in the directory.
    pub(super) fn open(state_dir: &Path) -> Result<Arc<Self>, RemoteError> {
        let joined = record::load(state_dir)?.ok_or(RemoteError::Missing)?;
        let credentials = record::credentials(state_dir)?;
        let current = speaker(&credentials, &joined.cluster)?;
        let peer = peer(&credentials)?;
        Ok(Arc::new(Self {
            state_dir: state_dir.to_owned(),
            cluster: joined.cluster,
            managers: Mutex::new(joined.managers),
            current: watch::Sender::new(current),
            peer: watch::Sender::new(peer),
        }))
    }

    /// The managers that are known, the one that is spoken to first.
    pub(super) fn managers(&self) -> Vec<RemoteManager> {
        self.managers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// This node's certificate.
    pub(super) fn certificate(&self) -> Certificate {
        self.current.borrow().1.clone()
    }

    /// The root, the certificate and the key as they are kept.
    pub(super) fn credentials(&self) -> Result<Credentials, RemoteError> {
        record::credentials(&self.state_dir)
    }

    /// Keeps new credentials; connections are made anew with them.
    pub(super) fn replace(&self, credentials: &Credentials) -> Result<(), RemoteError> {
        let current = speaker(credentials, &self.cluster)?;
        let peer = peer(credentials)?;
        record::save_credentials(&self.state_dir, credentials)?;
        self.current.send_replace(current);
        self.peer.send_replace(peer);
        Ok(())
    }

    /// As whom this node speaks to others, also after a renewal.
    pub(super) fn peer(&self) -> peer::Credentials {
        peer::Credentials::follow(&self.peer)
    }

    /// A channel that connects when it is used, and again when its connection has ended.
    pub(super) fn channel(self: &Arc<Self>) -> Channel {
        let link = self.clone();
        let connector = service_fn(move |_: Uri| {
            let link = link.clone();
            async move { link.connect().await }
        });
        endpoint().connect_with_connector_lazy(connector)
    }

    /// Tries the managers in turn.
    async fn connect(&self) -> io::Result<TokioIo<Cut<TlsStream<TcpStream>>>> {
        let mut failures = Vec::new();
        for manager in self.managers() {
            let mut current = self.current.subscribe();
            let config = current.borrow_and_update().0.clone();
            match connect(manager.address, config).await {
                Ok(stream) => {
                    let renewed = async move {
                        // Without a sender there is nobody who uses the connection.
                        let _ = current.changed().await;
                    };
                    return Ok(TokioIo::new(Cut::new(stream, renewed)));
                }
                Err(error) => failures.push(format!("{}: {}", manager.address, chain(&error))),
            }
            self.managers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .rotate_left(1);
        }
        Err(io::Error::new(io::ErrorKind::NotConnected, failures.join("; ")))
    }
}

/// The addresses of managers as a user writes them.
pub(super) fn addresses(texts: &[String]) -> Result<Vec<SocketAddr>, RemoteError> {
    if texts.is_empty() {
        return Err(RemoteError::NoAddress);
    }
    let parse = |text: &String| {
        let parsed = text
            .parse::<SocketAddr>()
            .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::from((ip, PORT))));
        parsed.map_err(|_| RemoteError::Address(text.clone()))
    };
    texts.iter().map(parse).collect()
}

/// A channel over one connection, for a few calls.
pub(super) async fn once(stream: TlsStream<TcpStream>) -> Result<Channel, String> {
    let mut stream = Some(stream);
    let connector = service_fn(move |_: Uri| {
        let stream = stream.take().map(TokioIo::new);
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted)) }
    });
    let channel = endpoint().connect_with_connector(connector).await;
    channel.map_err(|error| chain(&error))
}

/// Reads the node's certificate, which must be the key's.
pub(super) fn certificate(credentials: &Credentials) -> Result<Certificate, RemoteError> {
    let key = certified(&credentials.cert, &credentials.key)?;
    Ok(Certificate::read(key.end_entity_cert().map_err(TlsError::from)?)?)
}

fn speaker(
    credentials: &Credentials,
    cluster: &ClusterId,
) -> Result<(Arc<ClientConfig>, Certificate), RemoteError> {
    let key = certified(&credentials.cert, &credentials.key)?;
    let certificate = Certificate::read(key.end_entity_cert().map_err(TlsError::from)?)?;
    let config = trusting(&credentials.root, Some(cluster.clone()), Some(key))?;
    Ok((config, certificate))
}

fn peer(credentials: &Credentials) -> Result<Arc<Speaker>, RemoteError> {
    let key = certified(&credentials.cert, &credentials.key)?;
    let certificate = Certificate::read(key.end_entity_cert().map_err(TlsError::from)?)?;
    Ok(Speaker::new(&credentials.root, key, certificate)?)
}

fn endpoint() -> Endpoint {
    // The name is never resolved; the connector knows where the managers are.
    Endpoint::from_static("http://manager.internal")
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_ANSWER)
        .keep_alive_while_idle(true)
}
