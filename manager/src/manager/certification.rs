//! This manager's certificate: there and good when it starts, and renewed while it runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::spec::NodeRole;
use proto::{Cluster, ClusterId};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use tokio::task::JoinHandle;

use super::record::Record;
use super::{ManagerConfig, ManagerError};
use crate::ca::{Certificate, Identity, RootCa, node_life};
use crate::files::chain;
use crate::state::{Reader, Store};
use crate::tls::server::Shown;
use crate::tls::{TlsError, certified};

/// Until the next attempt after one that failed.
const RETRY: Duration = Duration::from_secs(60);
/// The clock of the wall may be set: it is looked at this often at least.
const LOOK: Duration = Duration::from_secs(6 * 3600);

/// This manager's certificate.
#[derive(Debug)]
pub(super) struct Certification {
    store: Store,
    identity: Identity,
    dir: PathBuf,
    current: Certificate,
    /// The cluster.
    pub(super) cluster: ClusterId,
    /// The root in PEM.
    pub(super) root: String,
    /// What other nodes see.
    pub(super) shown: Arc<Shown>,
}

impl Certification {
    /// Makes the certificate if it is missing, another's, or past half of its life.
    pub(super) fn new(config: &ManagerConfig, record: &Record, store: &Store) -> Result<Self, ManagerError> {
        let damaged = || ManagerError::Damaged(config.state_dir.clone());
        let cluster = cluster(store).ok_or_else(damaged)?;
        let identity = Identity {
            cluster: cluster.id.clone(),
            node: record.node_id.clone(),
            role: NodeRole::Manager,
        };
        let dir = config.state_dir.join("certificates");
        let (current, key) = ensure(&identity, &dir, &cluster)?;
        Ok(Self {
            store: store.clone(),
            identity,
            dir,
            current,
            cluster: cluster.id.clone(),
            root: cluster
                .root_ca
                .as_ref()
                .map(|root| root.cert.clone())
                .ok_or_else(damaged)?,
            shown: Shown::new(key),
        })
    }

    /// Renews the certificate again and again. Never returns.
    pub(super) async fn renew_in_time(mut self) {
        loop {
            until(self.current.renewal()).await;
            while let Err(error) = self.renew() {
                let error = chain(&error);
                tracing::warn!(error, "this manager's certificate could not be renewed");
                tokio::time::sleep(RETRY).await;
            }
            tracing::info!(until = %self.current.not_after, "this manager's certificate is renewed");
        }
    }

    fn renew(&mut self) -> Result<(), ManagerError> {
        let damaged = || ManagerError::Damaged(self.dir.clone());
        let cluster = cluster(&self.store).ok_or_else(damaged)?;
        let (current, key) = ensure(&self.identity, &self.dir, &cluster)?;
        self.shown.replace(key);
        self.current = current;
        Ok(())
    }
}

fn cluster(store: &Store) -> Option<Arc<Cluster>> {
    store.view(|tx| tx.all::<Cluster>().into_iter().next())
}

fn ensure(
    identity: &Identity,
    dir: &std::path::Path,
    cluster: &Cluster,
) -> Result<(Certificate, Arc<CertifiedKey>), ManagerError> {
    let root = cluster
        .root_ca
        .as_ref()
        .ok_or_else(|| ManagerError::Damaged(dir.to_owned()))?;
    let signed = identity.ensure(dir, &RootCa::from_object(root), node_life(cluster))?;
    let key = certified(&signed.cert, &signed.key)?;
    let der = key.end_entity_cert().map_err(TlsError::from)?;
    Ok((Certificate::read(der)?, key))
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
