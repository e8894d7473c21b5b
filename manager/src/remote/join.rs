//! Joining: ask for the root, compare it with the token, and only then say the secret, to a manager under that root.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use proto::object::NodeDescription;
use proto::spec::Availability;
use proto::wire::node_ca_client::NodeCaClient;
use proto::wire::{GetRootCertificateRequest, IssueNodeCertificateRequest, IssueNodeCertificateResponse};
use rcgen::{CertificateParams, KeyPair};
use tonic::{Code, Status};

use super::channel::{self, once};
use super::record::{self, Credentials};
use super::{Joined, RemoteError, RemoteManager, explain};
use crate::ca::{CaError, Certificate, JoinToken};
use crate::files::chain;
use crate::tls::client::{connect, manager, stranger, trusting};

/// A manager that has taken the connection has this long to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// One attempt with one manager.
#[derive(Debug)]
enum Attempt {
    /// The next manager may do better.
    Failed(String),
    /// The manager may have made the node, and nobody has heard its answer.
    Unanswered(String),
    /// None would.
    Refused(RemoteError),
}

impl<E: Into<RemoteError>> From<E> for Attempt {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// What the node says about itself to become one.
#[derive(Debug)]
struct Application<'a> {
    token: &'a JoinToken,
    secret: &'a str,
    description: Vec<u8>,
    availability: Vec<u8>,
    key: KeyPair,
    csr: String,
}

/// See [`super::join`].
pub(super) async fn join(
    state_dir: &Path,
    remotes: &[String],
    token: &str,
    description: &NodeDescription,
    availability: Availability,
) -> Result<Joined, RemoteError> {
    if record::load(state_dir)?.is_some() || crate::Manager::exists(state_dir) {
        return Err(RemoteError::Exists);
    }
    let addresses = channel::addresses(remotes)?;
    let parsed = token.parse()?;
    let application = Application::new(&parsed, token, description, availability)
        .map_err(|error| RemoteError::Ca(CaError::Make(error)))?;
    let mut failures = Vec::new();
    for address in addresses {
        let mut attempt = application.attempt(address).await;
        if let Err(Attempt::Unanswered(_)) = attempt {
            // By the key the manager knows which node it has made already.
            attempt = application.attempt(address).await;
        }
        match attempt {
            Ok((joined, credentials)) => {
                keep(state_dir, &joined, &credentials)?;
                return Ok(joined);
            }
            Err(Attempt::Refused(error)) => return Err(error),
            Err(Attempt::Failed(why) | Attempt::Unanswered(why)) => {
                failures.push(format!("{address}: {why}"))
            }
        }
    }
    Err(RemoteError::Unreachable(failures.join("; ")))
}

fn keep(state_dir: &Path, joined: &Joined, credentials: &Credentials) -> Result<(), RemoteError> {
    // What a crash left of an earlier attempt has never been a node.
    record::erase(state_dir)?;
    record::save_credentials(state_dir, credentials)?;
    record::save(state_dir, joined)
}

impl<'a> Application<'a> {
    fn new(
        token: &'a JoinToken,
        secret: &'a str,
        description: &NodeDescription,
        availability: Availability,
    ) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        Ok(Self {
            token,
            secret,
            // Plain strings and numbers always serialise.
            description: serde_json::to_vec(description).unwrap_or_default(),
            availability: serde_json::to_vec(&availability).unwrap_or_default(),
            csr: request(&key)?,
            key,
        })
    }

    async fn attempt(&self, address: SocketAddr) -> Result<(Joined, Credentials), Attempt> {
        let silent = || Attempt::Unanswered(format!("no answer within {} s", ANSWER.as_secs()));
        let answered = tokio::time::timeout(ANSWER, self.apply(address)).await;
        answered.unwrap_or_else(|_| Err(silent()))
    }

    async fn apply(&self, address: SocketAddr) -> Result<(Joined, Credentials), Attempt> {
        let root = self.root(address).await?;
        let config = trusting(&root, None, None)?;
        let (address, _) = channel::leader_at(address, config.clone())
            .await
            .map_err(Attempt::Failed)?;
        let stream = connect(address, config).await;
        let stream = stream.map_err(|error| Attempt::Failed(chain(&error)))?;
        let local = stream
            .get_ref()
            .0
            .local_addr()
            .map_err(|error| Attempt::Failed(error.to_string()))?;
        let manager = manager(&stream).ok_or(answer(address, "certificate"))?;
        let mut authority = NodeCaClient::new(once(stream).await.map_err(Attempt::Failed)?);
        let request = IssueNodeCertificateRequest {
            csr: self.csr.clone(),
            token: self.secret.to_owned(),
            description: self.description.clone(),
            availability: self.availability.clone(),
        };
        let issued = authority
            .issue_node_certificate(request)
            .await
            .map_err(unanswered)?;
        Ok(self.accept(issued.into_inner(), root, &manager, address, local.ip())?)
    }

    /// The root that the manager shows, if it is the token's.
    async fn root(&self, address: SocketAddr) -> Result<String, Attempt> {
        let stream = connect(address, stranger()?).await;
        let stream = stream.map_err(|error| Attempt::Failed(chain(&error)))?;
        let mut authority = NodeCaClient::new(once(stream).await.map_err(Attempt::Failed)?);
        let root = authority.get_root_certificate(GetRootCertificateRequest {}).await;
        let root = root.map_err(refused)?.into_inner().certificate;
        match self.token.matches_root(root.as_bytes()) {
            true => Ok(root),
            false => Err(Attempt::Refused(RemoteError::Fingerprint(address))),
        }
    }

    fn accept(
        &self,
        issued: IssueNodeCertificateResponse,
        root: String,
        manager: &Certificate,
        address: SocketAddr,
        local: IpAddr,
    ) -> Result<(Joined, Credentials), RemoteError> {
        let credentials = Credentials {
            root,
            cert: issued.certificate,
            key: self.key.serialize_pem(),
        };
        let own = channel::certificate(&credentials).map_err(|_| answer(address, "certificate"))?;
        if own.node.as_str() != issued.node_id || own.cluster != manager.cluster {
            return Err(answer(address, "certificate"));
        }
        // The address that has led to a manager is known to be good; what it advertises may be for others.
        let mut managers = vec![RemoteManager {
            node: manager.node.clone(),
            address,
        }];
        managers.extend(issued.managers.into_iter().filter_map(|other| {
            let node = other.node_id.into();
            let address = other.address.parse().ok()?;
            (node != manager.node).then_some(RemoteManager { node, address })
        }));
        let joined = Joined {
            cluster: own.cluster,
            node: own.node,
            role: own.role,
            address: local,
            managers,
        };
        Ok((joined, credentials))
    }
}

/// A request for a certificate of the key. The manager writes the subject, so there is none.
pub(super) fn request(key: &KeyPair) -> Result<String, rcgen::Error> {
    CertificateParams::default().serialize_request(key)?.pem()
}

fn answer(address: SocketAddr, what: &'static str) -> RemoteError {
    RemoteError::Answer { address, what }
}

fn refused(status: Status) -> Attempt {
    match status.code() {
        // It did not come as far as an answer.
        Code::Unavailable | Code::Unknown | Code::Cancelled => Attempt::Failed(explain(&status)),
        _ => Attempt::Refused(RemoteError::Refused(status.message().to_owned())),
    }
}

/// The request itself has gone out.
fn unanswered(status: Status) -> Attempt {
    match refused(status) {
        Attempt::Failed(why) => Attempt::Unanswered(why),
        other => other,
    }
}
