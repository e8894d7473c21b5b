//! The cluster: its settings and what a node shows to join it.

use std::sync::Arc;

use proto::Cluster;
use proto::spec::ClusterSpec;

use super::{Control, ControlError, Result, validate};
use crate::ca::JoinToken;
use crate::state::{Kind, Reader};

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

    /// Changes settings, and exchanges tokens for new ones.
    ///
    /// # Errors
    /// [`ControlError::OutOfSequence`], [`ControlError::InvalidArgument`].
    pub async fn update_cluster(&self, version: u64, spec: ClusterSpec, rotate: Rotate) -> Result<Cluster> {
        validate::cluster(&spec)?;
        if rotate.unlock_key {
            return Err(ControlError::invalid(
                "locking managers (autolock) is not built yet",
            ));
        }
        self.store
            .update(|tx| {
                let mut cluster = Cluster::clone(&*current(tx)?);
                if cluster.meta.version.index != version {
                    return Err(ControlError::OutOfSequence);
                }
                cluster.spec = spec;
                for (wanted, token) in [
                    (rotate.worker_token, &mut cluster.join_tokens.worker),
                    (rotate.manager_token, &mut cluster.join_tokens.manager),
                ] {
                    if wanted {
                        *token = rotated(token)?;
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

fn current(tx: &impl Reader) -> Result<Arc<Cluster>> {
    tx.all::<Cluster>()
        .into_iter()
        .next()
        .ok_or(ControlError::not_found(Kind::Cluster, "default"))
}

fn without_keys(cluster: &Cluster) -> Cluster {
    let mut cluster = cluster.clone();
    cluster.root_ca = None;
    if let Some(ca_config) = &mut cluster.spec.ca_config {
        ca_config.signing_ca_key.clear();
    }
    cluster
}
