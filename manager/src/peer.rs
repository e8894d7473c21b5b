//! Connections between any two nodes of the cluster: mutual TLS under its root, both sides known by their certificates.
//!
//! Whoever holds this node's certificate publishes it as [`Speaker`], again with each renewal; [`Credentials`] follow it.
//! What is spoken, and who may say it, is not for this module.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use proto::{ClusterId, NodeId};
use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::ca::Certificate;
use crate::tls::server::{Shown, for_peers};
use crate::tls::{Cut, TlsError, client, shown};

/// Who has not said who it is within this time is sent away.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// As whom this node speaks at the moment, and whom it believes.
pub struct Speaker {
    root: String,
    own: Arc<CertifiedKey>,
    certificate: Certificate,
    server: Arc<ServerConfig>,
}

impl Speaker {
    /// The node whose certificate and key these are, under the root in PEM.
    pub(crate) fn new(
        root: &str,
        own: Arc<CertifiedKey>,
        certificate: Certificate,
    ) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self {
            root: root.to_owned(),
            server: for_peers(root, Shown::new(own.clone()))?,
            own,
            certificate,
        }))
    }
}

/// This node's certificate with its key, as it is at the moment.
#[derive(Debug, Clone)]
pub struct Credentials(watch::Receiver<Arc<Speaker>>);

impl Credentials {
    pub(crate) fn follow(speaker: &watch::Sender<Arc<Speaker>>) -> Self {
        Self(speaker.subscribe())
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.0.borrow().certificate.node.clone()
    }

    /// Shakes hands with a node that has connected; says who it is. The connection breaks when `end` comes.
    ///
    /// # Errors
    /// The other side is slow (3 s), speaks no TLS 1.3, or shows no certificate of a node under the root.
    pub async fn accept(
        &self,
        stream: TcpStream,
        end: impl FnOnce(&Certificate) -> EndOfConnection,
    ) -> io::Result<(PeerStream, Certificate)> {
        let acceptor = TlsAcceptor::from(self.0.borrow().server.clone());
        let stream = within(acceptor.accept(stream)).await?;
        let certificate = shown(stream.get_ref().1.peer_certificates())
            .ok_or_else(|| io::Error::other("the certificate is none of a node"))?;
        let end = end(&certificate);
        Ok((PeerStream(Cut::new(TlsStream::Server(stream), end)), certificate))
    }

    /// Shakes hands with the node to which `stream` is connected.
    ///
    /// # Errors
    /// The other side is slow (3 s), or is not that node.
    pub async fn connect(&self, stream: TcpStream, node: &NodeId) -> io::Result<PeerStream> {
        let speaker = self.0.borrow().clone();
        let cluster: ClusterId = speaker.certificate.cluster.clone();
        let config = client::to_node(&speaker.root, cluster, node.clone(), speaker.own.clone());
        let connector = TlsConnector::from(config.map_err(io::Error::other)?);
        // Every node's certificate goes by its identifier.
        let name = ServerName::try_from(node.to_string()).map_err(io::Error::other)?;
        let stream = within(connector.connect(name, stream)).await?;
        Ok(PeerStream(Cut::new(
            TlsStream::Client(stream),
            std::future::pending(),
        )))
    }
}

/// When a connection shall break.
pub type EndOfConnection = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection between two nodes.
pub struct PeerStream(Cut<TlsStream<TcpStream>>);

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerStream").finish_non_exhaustive()
    }
}

impl fmt::Debug for Speaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Speaker")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

async fn within<T>(shaking: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let shaken = tokio::time::timeout(HANDSHAKE, shaking).await;
    shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use proto::spec::NodeRole;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::ca::RootCa;
    use crate::tls::certified;

    fn speaker(root: &RootCa, cluster: &str, node: &str, role: NodeRole) -> watch::Sender<Arc<Speaker>> {
        let signed = root.issue(&cluster.into(), &node.into(), role, time::Duration::DAY);
        let signed = signed.unwrap();
        let key = certified(&signed.cert, &signed.key).unwrap();
        let certificate = Certificate::read(key.end_entity_cert().unwrap()).unwrap();
        watch::Sender::new(Speaker::new(root.cert(), key, certificate).unwrap())
    }

    /// What the server and the client make of each other; the server is node `s` of cluster `c`.
    async fn meet(
        server: &watch::Sender<Arc<Speaker>>,
        client: &watch::Sender<Arc<Speaker>>,
        expected: &str,
    ) -> (io::Result<Certificate>, io::Result<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Credentials::follow(server);
        let serve = async {
            let (stream, _) = listener.accept().await?;
            let never = |_: &Certificate| -> EndOfConnection { Box::pin(std::future::pending()) };
            let (mut stream, certificate) = server.accept(stream, never).await?;
            stream.write_all(b"hello").await?;
            stream.shutdown().await?;
            Ok(certificate)
        };
        let client = Credentials::follow(client);
        let ask = async {
            let stream = TcpStream::connect(address).await?;
            let mut stream = client.connect(stream, &expected.into()).await?;
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await?;
            Ok(heard)
        };
        tokio::join!(serve, ask)
    }

    #[tokio::test]
    async fn nodes_of_one_cluster_know_each_other() {
        let root = RootCa::generate().unwrap();
        let server = speaker(&root, "c", "s", NodeRole::Worker);
        let client = speaker(&root, "c", "w", NodeRole::Worker);
        let (seen, heard) = meet(&server, &client, "s").await;
        let seen = seen.unwrap();
        assert_eq!((seen.node.as_str(), seen.role), ("w", NodeRole::Worker));
        assert_eq!(heard.unwrap(), b"hello");
    }

    #[tokio::test]
    async fn another_node_than_the_expected_is_not_spoken_to() {
        let root = RootCa::generate().unwrap();
        let client = speaker(&root, "c", "w", NodeRole::Worker);
        for (cluster, node) in [("c", "other"), ("d", "s")] {
            let server = speaker(&root, cluster, node, NodeRole::Manager);
            let (_, heard) = meet(&server, &client, "s").await;
            assert!(heard.is_err(), "{node} of {cluster} is taken for s of c");
        }
    }

    #[tokio::test]
    async fn another_root_is_refused_by_both_sides() {
        let (root, foreign) = (RootCa::generate().unwrap(), RootCa::generate().unwrap());
        let server = speaker(&root, "c", "s", NodeRole::Worker);
        let client = speaker(&foreign, "c", "w", NodeRole::Manager);
        let (seen, heard) = meet(&server, &client, "s").await;
        assert!(seen.is_err() && heard.is_err(), "{seen:?} {heard:?}");
        let (seen, _) = meet(&client, &server, "w").await;
        assert!(seen.is_err());
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_shown_from_then_on() {
        let root = RootCa::generate().unwrap();
        let server = speaker(&root, "c", "s", NodeRole::Worker);
        let client = speaker(&root, "c", "w", NodeRole::Worker);
        client.send_replace(speaker(&root, "c", "w", NodeRole::Manager).borrow().clone());
        let (seen, _) = meet(&server, &client, "s").await;
        assert_eq!(seen.unwrap().role, NodeRole::Manager);
    }
}
