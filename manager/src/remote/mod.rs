//! The nodes' side of a cluster: joining it, speaking to its managers, leaving it. For nodes that are no managers.
//!
//! ```text
//! <state_dir>/node.json                         who this is; written last by join, removed first by forget
//! <state_dir>/certificates/swarm-root-ca.crt    the cluster's root
//! <state_dir>/certificates/swarm-node.pem       this node's certificate and key, 0600: one file, so that they never differ
//! ```
//! - `join`: how a stranger becomes a node
//! - `channel`: connections to the managers, in turn
//! - `renewal`: of the node's certificate, in time and when the root is exchanged
//! - [`NodeChannel`]: goes on over a new connection after a renewal
//! - `record`: the files

mod channel;
mod join;
#[cfg(test)]
mod join_tests;
#[cfg(test)]
mod life_tests;
mod record;
mod renewal;
#[cfg(test)]
mod rotation_tests;
#[cfg(test)]
mod tests;
mod way;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::object::NodeDescription;
use proto::spec::{Availability, NodeRole};
use proto::wire::LeaveRequest;
use proto::wire::dispatcher_client::DispatcherClient;
use proto::{ClusterId, NodeId};
use tonic::Status;

use crate::ca::{CaError, TokenError};
use crate::files::FileError;
use crate::manager::AbortOnDrop;
use crate::peer::Credentials;
use crate::tls::TlsError;
use channel::Link;
pub(crate) use record::Credentials as Kept;
pub use way::NodeChannel;

/// How long a node waits for its good-bye to be heard.
const LEAVE: Duration = Duration::from_secs(2);

/// What this node is, in which cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// What it is trusted with.
    pub role: NodeRole,
    /// The address from which it reached the manager.
    pub address: IpAddr,
    /// The managers, as they were told when the node joined.
    pub managers: Vec<RemoteManager>,
}

/// A manager on another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteManager {
    /// Its node.
    pub node: NodeId,
    /// Where it is reached.
    pub address: SocketAddr,
}

/// A node could not join, or not be what it has joined as.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The directory already holds a node or a manager.
    #[error("This node is already part of a swarm. Use \"leave\" to leave this swarm and join another one.")]
    Exists,
    /// The directory holds no node.
    #[error("this node is not part of a swarm")]
    Missing,
    /// The token is none.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// An address of a manager makes no sense.
    #[error("manager address {0:?} must be an IP address with or without a port")]
    Address(String),
    /// No manager was named.
    #[error("at least one address of a manager is needed to join")]
    NoAddress,
    /// No manager answered. What was tried and why it failed is part of the text.
    #[error("no manager could be reached: {0}")]
    Unreachable(String),
    /// The managers show another root certificate than the token was made for.
    #[error(
        "the manager at {0} shows another root certificate than the join token was made for; \
         the token's secret was not sent"
    )]
    Fingerprint(SocketAddr),
    /// The manager said no.
    #[error("{0}")]
    Refused(String),
    /// The manager's answer makes no sense.
    #[error("the manager at {address} answered with a damaged {what}")]
    Answer {
        /// Which manager.
        address: SocketAddr,
        /// What of its answer.
        what: &'static str,
    },
    /// What this node keeps makes no sense.
    #[error("{} is damaged; leave the swarm and join it again", .0.display())]
    Damaged(PathBuf),
    /// Certificates could not be made.
    #[error("prepare the certificates")]
    Ca(#[from] CaError),
    /// A file could not be worked with.
    #[error(transparent)]
    File(#[from] FileError),
    /// Certificates could not be used.
    #[error("prepare TLS")]
    Tls(#[from] TlsError),
}

/// The managers that this node speaks to. While it is held, the node's certificate is renewed in time.
#[derive(Debug)]
pub struct Remotes {
    link: Arc<Link>,
    _renewal: AbortOnDrop,
}

impl Remotes {
    /// As whom this node speaks to the others.
    pub fn credentials(&self) -> Credentials {
        self.link.peer()
    }

    /// The managers that are known, the one that is spoken to first.
    pub fn managers(&self) -> Vec<RemoteManager> {
        self.link.managers()
    }
}

/// Joins the cluster whose managers are at `remotes` (`IP` or `IP:port`). The root certificate is checked against the
/// token's digest before the token's secret is sent.
///
/// # Errors
/// [`RemoteError`]. Nothing is kept of an attempt that failed.
pub async fn join(
    state_dir: &Path,
    remotes: &[String],
    token: &str,
    description: &NodeDescription,
    availability: Availability,
) -> Result<Joined, RemoteError> {
    join::join(state_dir, remotes, token, description, availability).await
}

/// What this node is; `None` if it has joined nothing.
///
/// # Errors
/// [`RemoteError::Damaged`], [`RemoteError::File`].
pub fn read(state_dir: &Path) -> Result<Option<Joined>, RemoteError> {
    record::load(state_dir)
}

/// Removes everything that [`join`] has written.
///
/// # Errors
/// [`RemoteError::File`].
pub fn forget(state_dir: &Path) -> Result<(), RemoteError> {
    record::erase(state_dir)
}

/// Makes this node one that has joined, with a certificate that it has already: a manager becomes a worker.
pub(crate) fn adopt(state_dir: &Path, joined: &Joined, credentials: &Kept) -> Result<(), RemoteError> {
    record::save_credentials(state_dir, credentials)?;
    record::save(state_dir, joined)
}

/// What this node shows and trusts.
pub(crate) fn credentials(state_dir: &Path) -> Result<Kept, RemoteError> {
    record::credentials(state_dir)
}

/// Removes what makes this node one that has joined, but not the certificates that a manager keeps beside it.
pub(crate) fn shed(state_dir: &Path) -> Result<(), RemoteError> {
    record::shed(state_dir)
}

/// A channel to the leader: see [`dispatcher`].
pub(crate) fn to_leader(state_dir: &Path) -> Result<NodeChannel, RemoteError> {
    Ok(Link::open(state_dir)?.channel())
}

/// Asks for a new certificate now: the node's role has changed. Returns the role that it says.
///
/// # Errors
/// [`RemoteError`]. The old certificate stays then.
pub async fn renew(state_dir: &Path) -> Result<NodeRole, RemoteError> {
    let link = Link::open(state_dir)?;
    renewal::once(&link).await?;
    let role = link.certificate().role;
    if let Some(joined) = record::load(state_dir)? {
        record::save(state_dir, &Joined { role, ..joined })?;
    }
    Ok(role)
}

/// A client of the managers' dispatcher. It connects when it is used, to the managers in turn until one answers. Call it
/// within a tokio runtime.
///
/// # Errors
/// [`RemoteError::Missing`], [`RemoteError::Damaged`], [`RemoteError::File`].
pub fn dispatcher(state_dir: &Path) -> Result<(DispatcherClient<NodeChannel>, Remotes), RemoteError> {
    let link = Link::open(state_dir)?;
    let client = DispatcherClient::new(link.channel());
    let renewal = AbortOnDrop(tokio::spawn(renewal::in_time(link.clone())));
    Ok((
        client,
        Remotes {
            link,
            _renewal: renewal,
        },
    ))
}

/// Why a call of a manager failed: what the manager said, or what kept the call from reaching it, down to the last cause.
pub fn explain(status: &Status) -> String {
    let causes = std::iter::successors(std::error::Error::source(status), |cause| cause.source());
    causes.fold(status.message().to_owned(), |text, cause| {
        let cause = cause.to_string();
        // Several layers say the same.
        if text.ends_with(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

/// Tells a manager that this node leaves: it is down at once, and its tasks are replaced. Takes two seconds at most.
/// End the node's own sessions before: a session that is opened afterwards makes the node ready again.
///
/// # Errors
/// [`RemoteError::Unreachable`], [`RemoteError::Refused`]: the node may leave all the same; it will then miss its
/// heartbeats.
pub async fn leave(state_dir: &Path) -> Result<(), RemoteError> {
    let mut client = DispatcherClient::new(Link::open(state_dir)?.channel());
    match tokio::time::timeout(LEAVE, client.leave(LeaveRequest {})).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(RemoteError::Refused(explain(&status))),
        Err(_) => Err(RemoteError::Unreachable(format!(
            "no answer within {} s",
            LEAVE.as_secs()
        ))),
    }
}
