//! A node that has joined as one becomes a manager beside those that are there.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proto::spec::NodeRole;
use proto::wire::JoinManagersRequest;
use proto::wire::managers_client::ManagersClient;
use rand::Rng;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Code, Status};

use super::record::Record;
use super::{Ground, Manager, ManagerConfig, ManagerError, bind, birth, raft_dir};
use crate::ca::{Identity, Signed};
use crate::remote::{self, Joined, RemoteError, explain};
use crate::state::consensus::Consensus;
use crate::state::{Replica, Store};
use crate::vault::Vault;

/// How long the managers may take to take this one in, the transfer of the state included.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two attempts while the managers elect a leader, or are at another change of their membership.
const RETRY: Duration = Duration::from_millis(500);

/// How a node becomes a manager.
#[derive(Debug, Clone, Default)]
pub struct JoinManagers {
    /// `IP` or `IP:port` at which other managers will reach this one; the address from which it has reached the manager
    /// that it joined, with the port that it listens on, where it is empty.
    pub advertise_addr: String,
    /// Where it listens: see [`InitRequest::listen_addr`](super::InitRequest::listen_addr).
    pub listen_addr: String,
}

impl Manager {
    /// Makes a manager of the node that the directory holds. Its role must be manager already, by the token with which it
    /// has joined or because it was promoted. A repeated attempt begins anew.
    ///
    /// # Errors
    /// [`ManagerError::NotTaken`], [`ManagerError::Remote`], [`ManagerError::Invalid`], and those of the files. The node is
    /// what it was then.
    pub async fn join(config: ManagerConfig, request: JoinManagers) -> Result<Arc<Self>, ManagerError> {
        let joined = remote::read(&config.state_dir)?.ok_or(RemoteError::Missing)?;
        if joined.role != NodeRole::Manager && remote::renew(&config.state_dir).await? != NodeRole::Manager {
            return Err(ManagerError::NotTaken("the node is a worker".to_owned()));
        }
        let state_dir = config.state_dir.clone();
        let (listener, listen) = bind(birth::listen_address(&request.listen_addr)?).await?;
        let record = record(&joined, &request, listen)?;
        let ground = prepare(config, record, listener)?;
        let entered = Self::enter(ground).await;
        if entered.is_err() {
            super::record::shed(&state_dir)?;
        }
        let manager = entered?;
        manager.record.save(&state_dir)?;
        remote::shed(&state_dir)?;
        Ok(manager)
    }

    async fn enter(ground: Ground) -> Result<Arc<Self>, ManagerError> {
        let (state_dir, record) = (ground.config.state_dir.clone(), ground.record.clone());
        let replica = Replica::default();
        let consensus = Arc::new(Consensus::join(&ground.consensus(), replica.clone()).await?);
        let store = Store::new(replica, consensus.clone());
        let manager = Arc::new(Self::start(ground, consensus, store).await?);
        let deadline = Instant::now() + PATIENCE;
        let entered = match timeout_at(deadline, apply(&state_dir, &record)).await {
            Ok(applied) => applied,
            Err(_) => Err(late()),
        };
        if let Err(error) = entered {
            manager.shutdown().await;
            return Err(error);
        }
        match timeout_at(deadline, manager.seat.consensus().takes_part()).await {
            Ok(took_part) => took_part?,
            Err(_) => {
                manager.shutdown().await;
                return Err(late());
            }
        }
        // A leader is known by its next sign of life; without one there is an election, which takes its time.
        let _ = timeout(Duration::from_secs(3), manager.seat.await_leader()).await;
        Ok(manager)
    }
}

fn late() -> ManagerError {
    ManagerError::NotTaken(format!("no answer within {} s", PATIENCE.as_secs()))
}

fn record(joined: &Joined, request: &JoinManagers, listen: SocketAddr) -> Result<Record, ManagerError> {
    let address = match request.advertise_addr.is_empty() {
        true => SocketAddr::from((joined.address, listen.port())),
        false => birth::address(&request.advertise_addr, listen.port())?,
    };
    Ok(Record {
        node_id: joined.node.clone(),
        // Numbers of removed members are never used again: there are enough.
        member: rand::rng().random_range(1..=u64::MAX),
        address: address.to_string(),
        listen,
    })
}

fn prepare(
    config: ManagerConfig,
    record: Record,
    listener: tokio::net::TcpListener,
) -> Result<Ground, ManagerError> {
    // What an earlier attempt has received belongs to another member.
    super::record::shed(&config.state_dir)?;
    let vault = Vault::create(&raft_dir(&config.state_dir), false)?;
    let shown = remote::credentials(&config.state_dir)?;
    let signed = Signed {
        cert: shown.cert,
        key: shown.key,
    };
    let dir = config.state_dir.join("certificates");
    Identity::adopt(&dir, &shown.root, &signed, &vault)?;
    Ok(Ground {
        config,
        record,
        vault,
        wire: Arc::default(),
        listener,
    })
}

/// Asks the leader to be taken in, until it says yes or no.
async fn apply(state_dir: &Path, record: &Record) -> Result<(), ManagerError> {
    let mut client = ManagersClient::new(remote::to_leader(state_dir)?);
    loop {
        let request = JoinManagersRequest {
            member: record.member,
            address: record.address.clone(),
        };
        match client.join(request).await {
            Ok(_) => return Ok(()),
            Err(status) if is_passing(&status) => {
                tracing::debug!("the managers did not take this one in yet: {}", explain(&status));
                sleep(RETRY).await;
            }
            Err(status) => return Err(ManagerError::NotTaken(explain(&status))),
        }
    }
}

/// Whether another attempt may do better.
fn is_passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
}
