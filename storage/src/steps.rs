//! The builder's memory: which step with which input made which layer, and when.
//!
//! A step remembers its layer but does not hold it: when no image needs the layer any more, both go.

use crate::digest::DiffId;
use crate::error::{Error, Result};
use crate::layer::LayerError;
use crate::lease::Lease;
use crate::metadata::{Kind, LayerRow, StepRow};
use crate::store::Storage;

/// The result of a build step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// `None` for a step that changed only the configuration.
    pub layer: Option<DiffId>,
    /// When it was first made, RFC 3339: a build that repeats all steps gives the same image.
    pub created: String,
}

/// The build steps of a store.
#[derive(Debug, Clone)]
pub struct Steps(Storage);

impl Steps {
    pub(crate) fn new(storage: Storage) -> Self {
        Self(storage)
    }

    /// The step with this key, if it is known and its layer is still there; `lease` then holds the layer.
    pub fn find(&self, key: &crate::Digest, lease: &Lease) -> Result<Option<Step>> {
        let key = key.hex();
        self.0.inner().metadata.update(|tx| {
            let Some(row) = tx.get::<StepRow>(Kind::Steps, &key)? else {
                return Ok(None);
            };
            if let Some(diff_id) = row.layer {
                if tx.get::<LayerRow>(Kind::Layers, &diff_id.hex())?.is_none() {
                    return Ok(None);
                }
                lease.hold(tx, [diff_id])?;
            }
            Ok::<_, Error>(Some(Step {
                layer: row.layer,
                created: row.created,
            }))
        })
    }

    /// Remembers a step. Its layer must be in the store.
    pub fn remember(&self, key: &crate::Digest, step: &Step) -> Result<()> {
        let row = StepRow {
            layer: step.layer,
            created: step.created.clone(),
        };
        self.0.inner().metadata.update(|tx| match step.layer {
            Some(layer) if tx.get::<LayerRow>(Kind::Layers, &layer.hex())?.is_none() => {
                Err(Error::from(LayerError::Missing(layer)))
            }
            _ => Ok(tx.put(Kind::Steps, &key.hex(), &row)?),
        })
    }
}
