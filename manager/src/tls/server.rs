//! Connections from nodes.
//!
//! A certificate is asked for and not demanded: a node that joins has none. One that is shown must lead to the root and be
//! in its time, or the handshake fails. What a caller without one may do is decided per call (`rpc::access`).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use proto::spec::NodeRole;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::{Cut, PEERS, RPC, TlsError, provider, roots, shown};
use crate::ca::Certificate;
use crate::listen;

/// Who has not said who it is within this time is sent away.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at a time; who comes then waits in the kernel's queue.
const HANDSHAKES: usize = 256;
/// A connection of somebody without a certificate ends after this time: joining takes no longer.
const STRANGER: Duration = Duration::from_secs(60);
/// Pause when the process can take no more connections.
const PAUSE: Duration = Duration::from_millis(100);

/// The certificate that this manager shows; it can be exchanged while the server runs.
#[derive(Debug)]
pub(crate) struct Shown(RwLock<Arc<CertifiedKey>>);

impl Shown {
    pub(crate) fn new(key: Arc<CertifiedKey>) -> Arc<Self> {
        Arc::new(Self(RwLock::new(key)))
    }

    /// What new connections see.
    pub(crate) fn current(&self) -> Arc<CertifiedKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// New connections see this one.
    pub(crate) fn replace(&self, key: Arc<CertifiedKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = key;
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

/// Under which root nodes are believed; it can be exchanged while the server runs.
#[derive(Debug)]
pub(crate) struct Trust(RwLock<Trusted>);

#[derive(Debug)]
struct Trusted {
    root: String,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Trust {
    /// Nodes under this root, in PEM.
    pub(crate) fn new(root: &str) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(RwLock::new(Trusted::new(root)?))))
    }

    /// New connections must lead to this one.
    pub(crate) fn replace(&self, root: &str) -> Result<(), TlsError> {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Trusted::new(root)?;
        Ok(())
    }

    /// The root in PEM.
    pub(crate) fn root(&self) -> String {
        self.read().root.clone()
    }

    fn current(&self) -> Arc<dyn ClientCertVerifier> {
        self.read().verifier.clone()
    }

    fn read(&self) -> RwLockReadGuard<'_, Trusted> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trusted {
    fn new(root: &str) -> Result<Self, TlsError> {
        let builder = WebPkiClientVerifier::builder_with_provider(roots(root)?, provider());
        Ok(Self {
            root: root.to_owned(),
            verifier: builder.allow_unauthenticated().build()?,
        })
    }
}

impl ClientCertVerifier for Trust {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// Nodes have one certificate: they need no hints.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.current().verify_client_cert(cert, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.current().verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.current().verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.current().supported_verify_schemes()
    }
}

/// For nodes under this root, and for strangers.
#[cfg(test)]
pub(crate) fn config(root: &str, own: Arc<Shown>) -> Result<Arc<ServerConfig>, TlsError> {
    trusting(Trust::new(root)?, own)
}

/// For nodes under this root alone, at the port between nodes.
pub(crate) fn for_peers(root: &str, own: Arc<Shown>) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(root)?, provider());
    with_verifier(verifier.build()?, own, PEERS)
}

/// For nodes that are believed when they come, and for strangers.
pub(crate) fn trusting(trust: Arc<Trust>, own: Arc<Shown>) -> Result<Arc<ServerConfig>, TlsError> {
    with_verifier(trust, own, RPC)
}

fn with_verifier(
    verifier: Arc<dyn ClientCertVerifier>,
    own: Arc<Shown>,
    protocols: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(own);
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    // A resumed session would be one whose certificates nobody looks at again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// From where it comes.
    pub(crate) address: SocketAddr,
    /// The certificate that it has shown, verified.
    pub(crate) certificate: Option<Arc<Certificate>>,
}

/// A connection from a node.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Cut<TlsStream<TcpStream>>,
    peer: Peer,
}

impl Connection {
    /// Who is at the other end.
    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }
}

/// Takes connections until the receiver is dropped; when `end` changes or goes, those that were taken end too. Those of
/// nodes that are no managers end with each change of `reign`: they are for the leader alone.
pub(crate) async fn accept(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    end: watch::Receiver<()>,
    reign: watch::Receiver<bool>,
    taken: mpsc::Sender<io::Result<Connection>>,
) {
    let acceptor = TlsAcceptor::from(config);
    let places = Arc::new(Semaphore::new(HANDSHAKES));
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let (stream, address) = match listen::accept(&listener).await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (acceptor, taken) = (acceptor.clone(), taken.clone());
        let end = End {
            server: end.clone(),
            reign: reign.clone(),
        };
        handshakes.spawn(async move {
            let shaken = tokio::time::timeout(HANDSHAKE, shake(stream, address, acceptor, end)).await;
            drop(place);
            match shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                // The server has ended.
                Ok(connection) => drop(taken.send(Ok(connection)).await),
                Err(error) => tracing::debug!(peer = %address, "refused a connection: {error}"),
            }
        });
    }
}

async fn shake(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    end: End,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let certificates = stream.get_ref().1.peer_certificates();
    let certificate = shown(certificates).map(Arc::new);
    if certificates.is_some() && certificate.is_none() {
        return Err(io::Error::other("the certificate is none of a node"));
    }
    let end = end.of(certificate.as_ref().map(|certificate| certificate.role));
    Ok(Connection {
        stream: Cut::new(stream, end),
        peer: Peer { address, certificate },
    })
}

/// What ends connections.
struct End {
    server: watch::Receiver<()>,
    reign: watch::Receiver<bool>,
}

impl End {
    /// The end of a connection of a node with this role, or of somebody without a certificate.
    async fn of(mut self, role: Option<NodeRole>) {
        self.reign.borrow_and_update();
        tokio::select! {
            // The sender's end is ours as well.
            _ = self.server.changed() => {}
            _ = self.reign.changed(), if role == Some(NodeRole::Worker) => {}
            () = tokio::time::sleep(STRANGER), if role.is_none() => {}
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
