//! Connections between any two nodes of the cluster: mutual TLS under its root, both sides known by their certificates.
//!
//! Whoever holds this node's certificate publishes it as [`Speaker`], again with each renewal; [`Credentials`] follow it.
//! What is spoken, and who may say it, is not for this module.
//!
//! Who connects waits for the other side's welcome, one byte. In TLS 1.3 a client has shaken hands before anybody has looked
//! at its certificate (RFC 8446, 4.4.2.4): without that word a request would be sent over a connection that is refused,
//! and nobody could tell whether it has been heard. So whoever is refused because its certificate or its trust is no longer
//! the newest, as at the end of a root's exchange, connects once more with the newest, and nothing has been said yet.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use proto::{ClusterId, NodeId};
use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, TlsStream};

use crate::ca::Certificate;
use crate::tls::server::{Shown, for_peers};
use crate::tls::{Cut, TlsError, WELCOMED_PEERS, client, shown};

/// Who has not said who it is within this time is sent away.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// The welcome. Its value says nothing.
const WELCOME: u8 = 1;

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

/// Looks whether this node keeps another certificate or trust than the speaker's, and publishes it if so.
pub(crate) type LookAgain = Arc<dyn Fn(&Speaker) + Send + Sync>;

/// This node's certificate with its key, as it is at the moment.
#[derive(Clone)]
pub struct Credentials {
    speaker: watch::Receiver<Arc<Speaker>>,
    look_again: Option<LookAgain>,
}

impl Credentials {
    /// Those that are published.
    pub(crate) fn follow(speaker: &watch::Sender<Arc<Speaker>>) -> Self {
        Self {
            speaker: speaker.subscribe(),
            look_again: None,
        }
    }

    /// Others on this node may keep a newer certificate without publishing it.
    pub(crate) fn or_found_by(self, look_again: LookAgain) -> Self {
        Self {
            look_again: Some(look_again),
            ..self
        }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.speaker.borrow().certificate.node.clone()
    }

    /// Shakes hands with a node that has connected; says who it is. It waits to be welcomed. The connection breaks when `end`
    /// comes.
    ///
    /// # Errors
    /// The other side is slow (3 s), speaks no TLS 1.3, or shows no certificate of a node under the root.
    pub async fn accept(
        &self,
        stream: TcpStream,
        end: impl FnOnce(&Certificate) -> EndOfConnection,
    ) -> io::Result<(PeerStream, Certificate)> {
        let shake = async {
            let greeting = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
            // What is the newest after the greeting is no older than what the other side believed when it greeted: who
            // trusts the new root alone does so after every node has got a certificate of it.
            let server = self.speaker.borrow().server.clone();
            greeting.into_stream(server).await
        };
        let stream = within(shake).await?;
        let certificate = shown(stream.get_ref().1.peer_certificates())
            .ok_or_else(|| io::Error::other("the certificate is none of a node"))?;
        let end = end(&certificate);
        Ok((PeerStream(Cut::new(TlsStream::Server(stream), end)), certificate))
    }

    /// Connects to a node by `open`, shakes hands, and waits to be welcomed; again where this node's certificate or trust has
    /// become another meanwhile.
    ///
    /// # Errors
    /// The node is not reached, is slow (3 s) or is not the expected one, or it does not take this node's certificate.
    pub async fn connect<Opening>(&self, open: impl Fn() -> Opening, node: &NodeId) -> io::Result<PeerStream>
    where
        Opening: Future<Output = io::Result<TcpStream>>,
    {
        let mut newest = self.speaker.clone();
        loop {
            let speaker = newest.borrow_and_update().clone();
            let refused = match within(speaker.call(open().await?, node)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            if let Some(look_again) = &self.look_again {
                look_again(&speaker);
            }
            // Nothing was said yet: the other side does not know of the attempt.
            if !newest.has_changed().unwrap_or(false) {
                return Err(refused);
            }
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials").field(&self.speaker).finish()
    }
}

impl Speaker {
    /// This node's certificate.
    pub(crate) fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    async fn call(&self, stream: TcpStream, node: &NodeId) -> io::Result<PeerStream> {
        let cluster: ClusterId = self.certificate.cluster.clone();
        let config = client::to_node(&self.root, cluster, node.clone(), self.own.clone());
        let connector = TlsConnector::from(config.map_err(io::Error::other)?);
        // Every node's certificate goes by its identifier.
        let name = ServerName::try_from(node.to_string()).map_err(io::Error::other)?;
        let mut stream = connector.connect(name, stream).await?;
        if is_welcomed(stream.get_ref().1.alpn_protocol()) {
            stream.read_u8().await?;
        }
        Ok(PeerStream(Cut::new(
            TlsStream::Client(stream),
            std::future::pending(),
        )))
    }
}

/// Who asks for plain HTTP hears no welcome.
fn is_welcomed(protocol: Option<&[u8]>) -> bool {
    protocol == Some(WELCOMED_PEERS)
}

/// When a connection shall break.
pub type EndOfConnection = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection between two nodes.
pub struct PeerStream(Cut<TlsStream<TcpStream>>);

impl PeerStream {
    /// Tells the node that has connected that it is heard from now on.
    ///
    /// # Errors
    /// It has gone.
    pub async fn welcome(&mut self) -> io::Result<()> {
        if is_welcomed(self.0.stream().get_ref().1.alpn_protocol()) {
            self.0.write_u8(WELCOME).await?;
            self.0.flush().await?;
        }
        Ok(())
    }
}

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
    use crate::ca::{RootCa, rotation};
    use crate::tls::certified;

    fn speaker(root: &RootCa, cluster: &str, node: &str, role: NodeRole) -> watch::Sender<Arc<Speaker>> {
        let signed = root.issue(&cluster.into(), &node.into(), role, time::Duration::DAY);
        let signed = signed.unwrap();
        let key = certified(&signed.cert, &signed.key).unwrap();
        let certificate = Certificate::read(key.end_entity_cert().unwrap()).unwrap();
        watch::Sender::new(Speaker::new(root.cert(), key, certificate).unwrap())
    }

    /// The root while it is exchanged for another, and that other one afterwards.
    fn exchange(root: &RootCa) -> (RootCa, RootCa) {
        let mut cluster = proto::Cluster {
            root_ca: Some(root.to_object()),
            ..proto::Cluster::default()
        };
        let before = proto::spec::CaConfig::default();
        let asked = proto::spec::CaConfig {
            force_rotate: 1,
            ..before.clone()
        };
        cluster.spec.ca_config = Some(asked);
        rotation::ask(&mut cluster, &before).unwrap();
        let during = RootCa::from_object(cluster.root_ca.as_ref().unwrap());
        rotation::finish(&mut cluster);
        (during, RootCa::from_object(&cluster.root_ca.unwrap()))
    }

    fn never(_: &Certificate) -> EndOfConnection {
        Box::pin(std::future::pending())
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
            let (mut stream, certificate) = server.accept(stream, never).await?;
            stream.welcome().await?;
            stream.write_all(b"hello").await?;
            stream.shutdown().await?;
            Ok(certificate)
        };
        let client = Credentials::follow(client);
        let ask = async {
            let open = || TcpStream::connect(address);
            let mut stream = client.connect(open, &expected.into()).await?;
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

    /// What a request over one connection comes to, if the exchange of the root begins and ends while the client's greeting
    /// is on its way. `publish` is told of the client's new certificate.
    async fn meet_at_the_end_of_an_exchange(
        old: &RootCa,
        client: Credentials,
        publish: impl FnOnce(Arc<Speaker>),
    ) -> (usize, io::Result<u8>) {
        let (during, after) = exchange(old);
        let server = speaker(old, "c", "s", NodeRole::Worker);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async {
            let (mut requests, mut publish) = (0, Some(publish));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if let Some(publish) = publish.take() {
                    stream.readable().await.unwrap();
                    publish(speaker(&during, "c", "w", NodeRole::Worker).borrow().clone());
                    server.send_replace(speaker(&after, "c", "s", NodeRole::Worker).borrow().clone());
                }
                let Ok((mut stream, _)) = Credentials::follow(&server).accept(stream, never).await else {
                    continue;
                };
                stream.welcome().await.unwrap();
                requests += usize::from(stream.read_u8().await.unwrap() == 7);
                stream.write_u8(8).await.unwrap();
                stream.shutdown().await.unwrap();
                return requests;
            }
        };
        let ask = async {
            let open = || TcpStream::connect(address);
            let mut stream = client.connect(open, &"s".into()).await?;
            stream.write_u8(7).await?;
            stream.read_u8().await
        };
        tokio::select! {
            both = async { tokio::join!(serve, ask) } => both,
            () = tokio::time::sleep(Duration::from_secs(30)) => (0, Err(io::ErrorKind::TimedOut.into())),
        }
    }

    /// A request that is sent while the last node's certificate is renewed and the old root is given up.
    #[tokio::test]
    async fn a_request_in_the_last_moment_of_a_root_is_heard_once() {
        let old = RootCa::generate().unwrap();
        let client = speaker(&old, "c", "w", NodeRole::Worker);
        let publish = |newest| drop(client.send_replace(newest));
        let (heard, answer) =
            meet_at_the_end_of_an_exchange(&old, Credentials::follow(&client), publish).await;
        assert_eq!((answer.unwrap(), heard), (8, 1));
    }

    /// Somebody else on the node has renewed its certificate and published nothing.
    #[tokio::test]
    async fn a_certificate_that_is_only_kept_is_found() {
        let old = RootCa::generate().unwrap();
        let client = Arc::new(speaker(&old, "c", "w", NodeRole::Worker));
        let kept = Arc::new(std::sync::Mutex::new(None));
        let (shown, found) = (client.clone(), kept.clone());
        let look_again: LookAgain = Arc::new(move |_| {
            let newest: Option<Arc<Speaker>> = found.lock().unwrap().take();
            newest.map(|newest| shown.send_replace(newest));
        });
        let credentials = Credentials::follow(&client).or_found_by(look_again);
        let publish = |newest| *kept.lock().unwrap() = Some(newest);
        let (heard, answer) = meet_at_the_end_of_an_exchange(&old, credentials, publish).await;
        assert_eq!((answer.unwrap(), heard), (8, 1));
    }

    /// A server whose connection was taken before its certificate was renewed, and greeted afterwards.
    #[tokio::test]
    async fn a_server_shows_what_is_the_newest_when_it_is_greeted() {
        let old = RootCa::generate().unwrap();
        let (during, after) = exchange(&old);
        let server = speaker(&old, "c", "s", NodeRole::Worker);
        let client = speaker(&after, "c", "w", NodeRole::Worker);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let (taken, _) = listener.accept().await.unwrap();
        let desk = Credentials::follow(&server);
        let mut serve = Box::pin(desk.accept(taken, never));
        assert!(futures::poll!(&mut serve).is_pending());
        server.send_replace(speaker(&during, "c", "s", NodeRole::Worker).borrow().clone());
        let stream = std::sync::Mutex::new(Some(stream));
        let open = || std::future::ready(Ok(stream.lock().unwrap().take().unwrap()));
        let client = Credentials::follow(&client);
        let expected = NodeId::from("s");
        let serve = async {
            let (mut stream, _) = serve.await?;
            stream.welcome().await?;
            io::Result::Ok(stream)
        };
        let (_served, called) = tokio::try_join!(serve, client.connect(open, &expected)).unwrap();
        drop(called);
    }

    #[tokio::test]
    async fn who_is_refused_for_what_it_is_does_not_try_again() {
        let (root, foreign) = (RootCa::generate().unwrap(), RootCa::generate().unwrap());
        let server = speaker(&root, "c", "s", NodeRole::Worker);
        // It trusts the right root, and its certificate is of another.
        let signed = foreign.issue(&"c".into(), &"w".into(), NodeRole::Worker, time::Duration::DAY);
        let signed = signed.unwrap();
        let key = certified(&signed.cert, &signed.key).unwrap();
        let certificate = Certificate::read(key.end_entity_cert().unwrap()).unwrap();
        let client = watch::Sender::new(Speaker::new(root.cert(), key, certificate).unwrap());
        let (seen, heard) = meet(&server, &client, "s").await;
        assert!(seen.is_err() && heard.is_err(), "{seen:?} {heard:?}");
    }
}
