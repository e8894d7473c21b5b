//! This manager's certificate and keys: there and good when it starts, renewed in time, and wrapped as the cluster says.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::spec::NodeRole;
use proto::{Cluster, ClusterId, NodeId};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::record::Record;
use super::{ManagerConfig, ManagerError};
use crate::ca::{Certificate, Identity, RootCa, Signed, node_life, rotation};
use crate::files::chain;
use crate::peer::Speaker;
use crate::rpc::Wire;
use crate::seat::Seat;
use crate::state::{Filter, Kind, Reader, Store};
use crate::tls::server::{Shown, Trust};
use crate::tls::{TlsError, certified};
use crate::vault::{UnlockKey, Vault};

/// Until the next attempt after one that failed.
const RETRY: Duration = Duration::from_secs(60);
/// Until the leader is shown the certificate once more.
const AGAIN: Duration = Duration::from_secs(2);
/// The clock of the wall may be set: it is looked at this often at least.
const LOOK: Duration = Duration::from_secs(6 * 3600);

/// This manager's certificate.
#[derive(Debug)]
pub(super) struct Certification {
    store: Store,
    node: NodeId,
    vault: Arc<Vault>,
    dir: PathBuf,
    current: Certificate,
    /// The cluster.
    pub(super) cluster: ClusterId,
    /// The root in PEM.
    root: String,
    /// Whom other nodes' connections are believed under.
    pub(super) trust: Arc<Trust>,
    /// What other nodes see.
    pub(super) shown: Arc<Shown>,
    /// The same at the port between nodes.
    pub(super) speaker: watch::Sender<Arc<Speaker>>,
}

impl Certification {
    /// Makes the certificate if it is missing, another's, or past half of its life.
    pub(super) fn new(
        config: &ManagerConfig,
        record: &Record,
        store: &Store,
        vault: Arc<Vault>,
    ) -> Result<Self, ManagerError> {
        let dir = config.state_dir.join("certificates");
        let node = record.node_id.clone();
        let (root, found) = match cluster(store) {
            Some(cluster) => follow_and_ensure(&node, &dir, &cluster, &vault)?,
            // One of several managers learns from the others what the cluster is, and needs its certificate for that.
            None => find(&dir, &vault)?,
        };
        let (current, key) = found;
        let speaker = Speaker::new(&root, key.clone(), current.clone())?;
        Ok(Self {
            trust: Trust::new(&root)?,
            root,
            store: store.clone(),
            node,
            vault,
            dir,
            cluster: current.cluster.clone(),
            current,
            shown: Shown::new(key),
            speaker: watch::Sender::new(speaker),
        })
    }

    /// Renews the certificate, follows the cluster's unlock key and its root, and shows the leader what has become of it, until
    /// the store is gone.
    pub(super) async fn keep_up(mut self, seat: Seat, wire: Arc<Wire>) {
        let mut events = self.store.watch(Filter::kinds(&[Kind::Cluster]));
        loop {
            while let Err(error) = self.bring_up_to_date() {
                let error = chain(&error);
                tracing::warn!(
                    error,
                    "this manager's certificate and keys could not be brought up to date"
                );
                tokio::time::sleep(RETRY).await;
            }
            let known = self.make_known(&seat, &wire).await;
            tokio::select! {
                () = until(self.current.renewal()) => {}
                event = events.next() => if event.is_none() { return },
                () = tokio::time::sleep(AGAIN), if !known => {}
            }
        }
    }

    /// Returns whether the cluster knows who has signed this manager's certificate.
    async fn make_known(&self, seat: &Seat, wire: &Wire) -> bool {
        if rotation::is_known(&self.store, &self.current) {
            return true;
        }
        let told = match seat.leader() {
            Some(leader) if leader == *seat.own() => {
                let noted = rotation::note(&self.store, &self.current).await;
                noted.map_err(|error| chain(&error))
            }
            // Who leads writes down what it is shown.
            Some(leader) => wire.dial(&leader).await.map(drop),
            None => Ok(()),
        };
        if let Err(error) = told {
            tracing::debug!(error, "this manager's certificate was not made known");
        }
        rotation::is_known(&self.store, &self.current)
    }

    fn bring_up_to_date(&mut self) -> Result<(), ManagerError> {
        let Some(cluster) = cluster(&self.store) else {
            return Ok(());
        };
        let (root, (current, key)) = follow_and_ensure(&self.node, &self.dir, &cluster, &self.vault)?;
        if root != self.root || current != self.current {
            let speaker = Speaker::new(&root, key.clone(), current.clone())?;
            self.trust.replace(&root)?;
            self.speaker.send_replace(speaker);
            self.shown.replace(key);
            tracing::info!(until = %current.not_after, "this manager's certificate or trust is another");
            (self.current, self.root) = (current, root);
        }
        Ok(())
    }
}

/// A certificate, and the same with its key, ready to be shown.
type Own = (Certificate, Arc<CertifiedKey>);

/// The certificate that the directory holds, with the root.
fn find(dir: &Path, vault: &Vault) -> Result<(String, Own), ManagerError> {
    let found = Identity::find(dir, vault)?;
    let (root, signed) = found.ok_or_else(|| ManagerError::Damaged(dir.to_owned()))?;
    Ok((root, read(&signed)?))
}

/// Keeps the keys as the cluster says, and a good certificate. Returns the root, too.
fn follow_and_ensure(
    node: &NodeId,
    dir: &Path,
    cluster: &Cluster,
    vault: &Vault,
) -> Result<(String, Own), ManagerError> {
    Identity::follow(dir, vault, unlock_key(cluster)?.as_ref())?;
    let identity = Identity {
        cluster: cluster.id.clone(),
        node: node.clone(),
        role: NodeRole::Manager,
    };
    let root = cluster.root_ca.as_ref();
    let root = RootCa::from_object(root.ok_or_else(|| ManagerError::Damaged(dir.to_owned()))?);
    let signed = identity.ensure(dir, &root, node_life(cluster), vault)?;
    Ok((root.cert().to_owned(), read(&signed)?))
}

fn read(signed: &Signed) -> Result<Own, ManagerError> {
    let key = certified(&signed.cert, &signed.key)?;
    let der = key.end_entity_cert().map_err(TlsError::from)?;
    Ok((Certificate::read(der)?, key))
}

/// The cluster's unlock key, while managers lock.
fn unlock_key(cluster: &Cluster) -> Result<Option<UnlockKey>, ManagerError> {
    let key = cluster.unlock_key.as_ref().map(|key| key.parse()).transpose();
    key.map_err(|_| ManagerError::Invalid("the cluster's unlock key is damaged".to_owned()))
}

fn cluster(store: &Store) -> Option<Arc<Cluster>> {
    store.view(|tx| tx.all::<Cluster>().into_iter().next())
}

/// Waits for a time of the wall's clock.
pub(crate) async fn until(moment: OffsetDateTime) {
    while let Ok(left) = Duration::try_from(moment - OffsetDateTime::now_utc())
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(crate) struct AbortOnDrop(pub(crate) JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
