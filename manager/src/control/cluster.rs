//! The cluster: its settings and what a node shows to join it.

use std::sync::Arc;

use proto::spec::ClusterSpec;
use proto::{Cluster, Hidden};

use super::{Control, ControlError, Result, fencing, validate};
use crate::ca::{JoinToken, rotation};
use crate::files::chain;
use crate::state::{Kind, Reader};
use crate::vault::UnlockKey;

/// Which secrets are exchanged for new ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rotate {
    /// The join token of workers.
    pub worker_token: bool,
    /// The join token of managers.
    pub manager_token: bool,
    /// The key that unlocks managers.
    pub unlock_key: bool,
}

impl Control {
    /// The cluster without its keys; the join tokens are there.
    ///
    /// # Errors
    /// [`ControlError::NotFound`] before the cluster is made.
    pub fn cluster(&self) -> Result<Cluster> {
        self.store
            .view(|tx| current(&tx))
            .map(|cluster| without_keys(&cluster))
    }

    /// What opens a locked manager; `None` while managers do not lock.
    ///
    /// # Errors
    /// [`ControlError::NotFound`] before the cluster is made.
    pub fn unlock_key(&self) -> Result<Option<Hidden>> {
        self.store
            .view(|tx| current(&tx))
            .map(|cluster| cluster.unlock_key.clone())
    }

    /// Changes settings, and exchanges tokens for new ones.
    ///
    /// # Errors
    /// [`ControlError::OutOfSequence`], [`ControlError::InvalidArgument`].
    pub async fn update_cluster(&self, version: u64, spec: ClusterSpec, rotate: Rotate) -> Result<Cluster> {
        validate::cluster(&spec)?;
        self.store
            .update(|tx| {
                let mut cluster = Cluster::clone(&*current(tx)?);
                if cluster.meta.version.index != version {
                    return Err(ControlError::OutOfSequence);
                }
                let before = std::mem::replace(&mut cluster.spec, spec);
                fencing::check_cluster(tx, &cluster)?;
                rotation::ask(&mut cluster, &before.ca_config.unwrap_or_default())
                    .map_err(|error| ControlError::invalid(chain(&error)))?;
                cluster.unlock_key = unlock_key(&cluster, rotate.unlock_key);
                for (wanted, token) in [
                    (rotate.worker_token, &mut cluster.join_tokens.worker),
                    (rotate.manager_token, &mut cluster.join_tokens.manager),
                ] {
                    if wanted {
                        *token = rotated(token)?.into();
                    }
                }
                Ok(tx.update(cluster)?)
            })
            .await?;
        self.cluster()
    }
}

/// The same root's digest with a fresh secret.
fn rotated(token: &str) -> Result<String> {
    let token: JoinToken = token
        .parse()
        .map_err(|_| ControlError::invalid("the stored join token is damaged"))?;
    Ok(token.with_fresh_secret().to_string())
}

/// Whether managers need a key from a person after a restart.
pub(crate) fn locks_managers(spec: &ClusterSpec) -> bool {
    spec.encryption_config
        .as_ref()
        .is_some_and(|encryption| encryption.auto_lock_managers)
}

/// The key that the cluster's settings ask for: none, the one that is there, or a fresh one.
fn unlock_key(cluster: &Cluster, rotate: bool) -> Option<Hidden> {
    let kept = cluster.unlock_key.clone().filter(|_| !rotate);
    locks_managers(&cluster.spec).then(|| kept.unwrap_or_else(|| UnlockKey::generate().to_string().into()))
}

fn current(tx: &impl Reader) -> Result<Arc<Cluster>> {
    tx.all::<Cluster>()
        .into_iter()
        .next()
        .ok_or(ControlError::not_found(Kind::Cluster, "default"))
}

fn without_keys(cluster: &Cluster) -> Cluster {
    let mut cluster = cluster.clone();
    (cluster.root_ca, cluster.unlock_key, cluster.network_key) = (None, None, None);
    if let Some(ca_config) = &mut cluster.spec.ca_config {
        ca_config.signing_ca_key.clear();
    }
    cluster
}
