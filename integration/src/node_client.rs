//! What somebody with a certificate, or with none, hears at the port between nodes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::Agent;

/// The TCP port between nodes.
pub const PORT: u16 = 7946;

/// As whom to speak: a worker's directory of certificates, or nobody.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// From whose machine.
    pub from: &'a Agent,
    /// Whose cluster's root is believed.
    pub root: &'a Agent,
    /// Whose certificate and key are shown.
    pub shown: Option<&'a Agent>,
}

impl<'a> Caller<'a> {
    /// A worker as itself.
    pub fn of(agent: &'a Agent) -> Self {
        Self {
            from: agent,
            root: agent,
            shown: Some(agent),
        }
    }

    /// Sends a request without a body to the node `id` at `address`; the status and the whole text of the answer.
    pub fn call(&self, address: &str, id: &str, method: &str, path: &str) -> Result<(u16, String)> {
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let text = self.say(address, id, head.as_bytes())?;
        let status = text.split(' ').nth(1).and_then(|word| word.parse().ok());
        Ok((status.with_context(|| format!("not HTTP: {text:?}"))?, text))
    }

    /// Says something to the node `id`; everything that is heard until the connection ends.
    pub fn say(&self, address: &str, id: &str, words: &[u8]) -> Result<String> {
        let config = Arc::new(self.config()?);
        let name = ServerName::try_from(id.to_owned())?;
        self.from.host.enter(|| {
            let socket = TcpStream::connect(format!("{address}:{PORT}"))?;
            socket.set_read_timeout(Some(Duration::from_secs(60)))?;
            let mut stream = StreamOwned::new(ClientConnection::new(config, name)?, socket);
            stream.write_all(words)?;
            let mut text = Vec::new();
            stream.read_to_end(&mut text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        })?
    }

    fn config(&self) -> Result<ClientConfig> {
        let certificates = |agent: &Agent| agent.root().join("swarm/certificates");
        let mut roots = RootCertStore::empty();
        roots.add(read(&certificates(self.root).join("swarm-root-ca.crt"))?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots);
        let mut config = match self.shown {
            None => config.with_no_client_auth(),
            Some(agent) => {
                let file = certificates(agent).join("swarm-node.pem");
                let Ok(key) = PrivateKeyDer::from_pem_file(&file) else {
                    bail!("no key in {}", file.display());
                };
                config.with_client_auth_cert(vec![read(&file)?], key)?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn read(file: &Path) -> Result<CertificateDer<'static>> {
    match CertificateDer::from_pem_file(file) {
        Ok(certificate) => Ok(certificate),
        Err(_) => bail!("no certificate in {}", file.display()),
    }
}
