//! Mutual TLS between the nodes of a cluster: TLS 1.3 alone, trust in the cluster's root alone.
//!
//! - [`client`]: to a manager, whoever it is, as long as the root says that it is one
//! - [`server`]: from anyone; who shows a certificate must show a good one
//! - [`Cut`]: a connection that somebody else can end

pub(crate) mod client;
mod cut;
pub(crate) mod server;

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::ca::Certificate;
pub(crate) use cut::Cut;

/// What is spoken at the managers' port: gRPC, over HTTP/2.
const RPC: &[&[u8]] = &[b"h2"];
/// What is spoken at the port between nodes: HTTP, after a byte of the server's that says that it is heard (`crate::peer`). No
/// connection that was meant for the one port is taken by the other.
pub(crate) const WELCOMED_PEERS: &[u8] = b"shoal-http/1.1";
/// The same without that byte.
const PLAIN_PEERS: &[u8] = b"http/1.1";
/// The one is preferred to the other.
const PEERS: &[&[u8]] = &[WELCOMED_PEERS, PLAIN_PEERS];

/// TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Something that should be PEM is not.
    #[error("the {0} is damaged")]
    Pem(&'static str),
    /// The library said no.
    #[error("set up TLS")]
    Tls(#[from] rustls::Error),
    /// The root cannot be a root.
    #[error("use the root certificate")]
    Root(#[from] rustls::server::VerifierBuilderError),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(pem: &str) -> Result<Arc<RootCertStore>, TlsError> {
    let damaged = |_| TlsError::Pem("root certificate");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).map_err(damaged)?)?;
    Ok(Arc::new(roots))
}

/// A certificate with its key, ready to be shown, and with it what leads from it to a root.
pub(crate) fn certified(cert: &str, key: &str) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert.as_bytes()).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or(TlsError::Pem("node's certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| TlsError::Pem("node's key"))?;
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &provider())?))
}

/// What the other side has shown and TLS has verified.
pub(crate) fn shown(certificates: Option<&[CertificateDer<'_>]>) -> Option<Certificate> {
    Certificate::read(certificates?.first()?).ok()
}
