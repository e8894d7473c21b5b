//! Connections to managers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proto::spec::NodeRole;
use proto::{ClusterId, NodeId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{PEERS, RPC, TlsError, provider, roots, shown};
use crate::ca::{Certificate, role_name};

/// A manager that does not take the connection within this time is passed over.
const CONNECT: Duration = Duration::from_secs(3);
/// What nobody answers is sent again after this time. The kernel waits longer each time, and then a way that is there again
/// is found late.
const AGAIN: Duration = Duration::from_secs(1);

/// A connection could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Nobody listens, or there is no way.
    #[error("connect")]
    Connect(#[source] io::Error),
    /// Nobody answers.
    #[error("no answer within {} s", CONNECT.as_secs())]
    Silent,
    /// The other side is none of the cluster's managers, or does not want us.
    #[error("TLS handshake")]
    Handshake(#[source] io::Error),
    /// The other side has shaken hands, and does not want us now that it has seen who we are.
    #[error("the manager does not take the connection")]
    Unwelcome(#[source] io::Error),
}

/// The certificate is good, but not of whom it should be.
#[derive(Debug, thiserror::Error)]
enum Stranger {
    #[error("the certificate is not one of a manager of this cluster")]
    NoManager,
    #[error("the certificate is not the one of node {0} of this cluster")]
    OtherNode(NodeId),
}

/// For the first contact: anyone is spoken to. Nothing secret may be said, nothing that is heard may be believed.
pub(crate) fn stranger() -> Result<Arc<ClientConfig>, TlsError> {
    let algorithms = provider().signature_verification_algorithms;
    let verifier: Arc<dyn ServerCertVerifier> = Arc::new(Anyone(algorithms));
    config(verifier, None, RPC)
}

/// For managers under this root, and of this cluster where it is known; with the node's certificate once it has one.
pub(crate) fn trusting(
    root: &str,
    cluster: Option<ClusterId>,
    own: Option<Arc<CertifiedKey>>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let chain = WebPkiServerVerifier::builder_with_provider(roots(root)?, provider()).build()?;
    let expected = Expected::Manager(cluster);
    config(Arc::new(Members { chain, expected }), own, RPC)
}

/// For one node of this cluster, at its port for other nodes.
pub(crate) fn to_node(
    root: &str,
    cluster: ClusterId,
    node: NodeId,
    own: Arc<CertifiedKey>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let chain = WebPkiServerVerifier::builder_with_provider(roots(root)?, provider()).build()?;
    let expected = Expected::Node(cluster, node);
    config(Arc::new(Members { chain, expected }), Some(own), PEERS)
}

/// Connects, shakes hands, and waits for the manager's first word. Who shows a certificate in TLS 1.3 has ended the handshake
/// before the other side has looked at it (RFC 8446, 4.4.2.4): without that word a call would be sent over a connection
/// that the manager refuses, and nobody could tell whether it has been heard.
pub(crate) async fn connect(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let connect = async {
        let stream = loop {
            if let Ok(stream) = tokio::time::timeout(AGAIN, TcpStream::connect(address)).await {
                break stream.map_err(ConnectError::Connect)?;
            }
        };
        stream.set_nodelay(true).map_err(ConnectError::Connect)?;
        let connector = TlsConnector::from(config);
        let name = name().map_err(ConnectError::Handshake)?;
        let mut stream = connector
            .connect(name, stream)
            .await
            .map_err(ConnectError::Handshake)?;
        welcomed(&mut stream).await.map_err(ConnectError::Unwelcome)?;
        Ok(stream)
    };
    tokio::time::timeout(CONNECT, connect)
        .await
        .unwrap_or(Err(ConnectError::Silent))
}

/// An HTTP/2 server speaks first: its settings (RFC 9113, 3.4). They are waited for and left where they are.
async fn welcomed(stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
    match stream.fill_buf().await?.is_empty() {
        true => Err(io::ErrorKind::UnexpectedEof.into()),
        false => Ok(()),
    }
}

/// The manager's certificate.
pub(crate) fn manager(stream: &TlsStream<TcpStream>) -> Option<Certificate> {
    shown(stream.get_ref().1.peer_certificates())
}

/// Every manager's certificate goes by this name, beside its own.
fn name() -> io::Result<ServerName<'static>> {
    ServerName::try_from(role_name(NodeRole::Manager)).map_err(io::Error::other)
}

fn config(
    verifier: Arc<dyn ServerCertVerifier>,
    own: Option<Arc<CertifiedKey>>,
    protocols: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(Own(own))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    // A resumed session would be one whose certificates nobody looks at again.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// This node's certificate.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Who shall be at the other end.
#[derive(Debug)]
enum Expected {
    /// A manager, of this cluster where it is known.
    Manager(Option<ClusterId>),
    /// This node.
    Node(ClusterId, NodeId),
}

impl Expected {
    fn check(&self, shown: Option<Certificate>) -> Result<(), Stranger> {
        match self {
            Self::Manager(cluster) => shown
                .filter(|shown| shown.role == NodeRole::Manager)
                .filter(|shown| cluster.as_ref().is_none_or(|cluster| *cluster == shown.cluster))
                .map(drop)
                .ok_or(Stranger::NoManager),
            Self::Node(cluster, node) => shown
                .filter(|shown| shown.cluster == *cluster && shown.node == *node)
                .map(drop)
                .ok_or_else(|| Stranger::OtherNode(node.clone())),
        }
    }
}

/// Verifies a node: chain to the root, time, name and use by webpki; who it is by the subject.
#[derive(Debug)]
struct Members {
    chain: Arc<WebPkiServerVerifier>,
    expected: Expected,
}

impl ServerCertVerifier for Members {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self
            .chain
            .verify_server_cert(cert, intermediates, name, ocsp, now)?;
        let refused = |stranger| CertificateError::Other(OtherError(Arc::new(stranger)));
        self.expected
            .check(Certificate::read(cert).ok())
            .map_err(refused)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Verifies nothing but that the other side holds the key of the certificate that it shows.
#[derive(Debug)]
struct Anyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
