//! The collector: removes what neither an image, a snapshot nor a living lease refers to.
//!
//! Rows go first, in one transaction; then the directories move to the trash while nobody can publish the same
//! layer again (the shelf lock); only then, unlocked, is the long unlinking done.

use std::collections::HashSet;

use crate::digest::{DiffId, Digest, ImageId};
use crate::durable;
use crate::error::{Error, Result};
use crate::layer::LayerError;
use crate::metadata::{ImageRow, Kind, LayerRow, LeaseRow, SnapshotRow, StepRow, Tx};
use crate::store::{self, Storage};

/// What a collection removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    pub layers: Vec<DiffId>,
    pub blobs: usize,
    /// Bytes of files removed.
    pub bytes: u64,
}

impl Storage {
    /// Removes unreferenced layers and blobs. Safe at any time, beside loads, builds and running containers.
    pub fn gc(&self) -> Result<Collected> {
        let inner = self.inner();
        let mut graves = Vec::new();
        let mut collected = Collected::default();
        {
            let _shelf = inner.shelf();
            let (dead, blobs) = inner.metadata.update(|tx| {
                let dead = drop_dead_layers(tx)?;
                Ok::<_, Error>((dead, live_blobs(tx)?))
            })?;
            for (diff_id, row) in dead {
                let buried = inner.bury(&self.layers().dir(&diff_id));
                graves.extend(buried.map_err(|source| LayerError::Io {
                    operation: "remove layer",
                    source,
                })?);
                collected.layers.push(diff_id);
                collected.bytes += row.size;
            }
            for (digest, size) in inner
                .content
                .list()?
                .into_iter()
                .filter(|(d, _)| !blobs.contains(d))
            {
                inner.content.remove(&digest)?;
                collected.blobs += 1;
                collected.bytes += size;
            }
        }
        for grave in graves {
            durable::remove_any(&grave).map_err(|source| LayerError::Io {
                operation: "remove layer",
                source,
            })?;
        }
        Ok(collected)
    }
}

fn drop_dead_layers(tx: &Tx) -> Result<Vec<(DiffId, LayerRow)>> {
    let mut live: HashSet<DiffId> = HashSet::new();
    for (id, lease) in tx.all::<LeaseRow>(Kind::Leases)? {
        if lease.expires < store::unix_now() {
            tx.remove(Kind::Leases, &id)?;
        } else {
            live.extend(lease.layers);
        }
    }
    live.extend(
        tx.all::<ImageRow>(Kind::Images)?
            .into_iter()
            .flat_map(|(_, row)| row.layers),
    );
    live.extend(
        tx.all::<SnapshotRow>(Kind::Snapshots)?
            .into_iter()
            .flat_map(|(_, row)| row.layers),
    );
    let mut dead = Vec::new();
    for (hex, row) in tx.all::<LayerRow>(Kind::Layers)? {
        let diff_id = DiffId(Digest::from_hex(&hex)?);
        if !live.contains(&diff_id) {
            tx.remove(Kind::Layers, &hex)?;
            dead.push((diff_id, row));
        }
    }
    for (key, step) in tx.all::<StepRow>(Kind::Steps)? {
        if step.layer.is_some_and(|layer| !live.contains(&layer)) {
            tx.remove(Kind::Steps, &key)?;
        }
    }
    Ok(dead)
}

fn live_blobs(tx: &Tx) -> Result<HashSet<Digest>> {
    let mut live = HashSet::new();
    for (hex, row) in tx.all::<ImageRow>(Kind::Images)? {
        live.insert(ImageId(Digest::from_hex(&hex)?).0);
        live.extend(row.manifest);
    }
    Ok(live)
}
