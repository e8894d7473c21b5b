//! The end of a step: remembered or made, then written into the stage.

use storage::{Digest, History, Step};

use super::Solver;
use crate::error::StepError;
use crate::stage::Stage;

impl Solver<'_> {
    /// A step that adds a layer.
    pub(super) fn layer(
        &mut self,
        stage: &mut Stage,
        text: &str,
        shown: &str,
        entries: Vec<storage::LayerEntry>,
    ) -> Result<(), StepError> {
        let key = next_key(stage, text);
        let known = self.known(&key)?.filter(|step| step.layer.is_some());
        let cached = known.is_some();
        let step = match known {
            Some(step) => step,
            None => {
                let layer = self.storage.layers().apply_entries(entries, &self.lease)?;
                let step = Step {
                    layer: Some(layer.diff_id),
                    created: now(),
                };
                self.storage.steps().remember(&key, &step)?;
                step
            }
        };
        stage.view = None;
        stage.config.rootfs.diff_ids.extend(step.layer);
        Ok(self.commit(stage, key, shown, step, cached)?)
    }

    /// A step that changes only the configuration.
    pub(super) fn remember(&mut self, stage: &mut Stage, text: &str) -> Result<(), storage::Error> {
        let key = next_key(stage, text);
        let known = self.known(&key)?.filter(|step| step.layer.is_none());
        let cached = known.is_some();
        let step = match known {
            Some(step) => step,
            None => {
                let step = Step {
                    layer: None,
                    created: now(),
                };
                self.storage.steps().remember(&key, &step)?;
                step
            }
        };
        self.commit(stage, key, text, step, cached)
    }

    pub(super) fn known(&self, key: &Digest) -> Result<Option<Step>, storage::Error> {
        if self.no_cache {
            Ok(None)
        } else {
            self.storage.steps().find(key, &self.lease)
        }
    }

    pub(super) fn commit(
        &mut self,
        stage: &mut Stage,
        key: Digest,
        shown: &str,
        step: Step,
        cached: bool,
    ) -> Result<(), storage::Error> {
        stage.key = key;
        stage.unchanged = None;
        stage.config.created = Some(step.created.clone());
        stage.config.history.push(History {
            created: Some(step.created),
            created_by: Some(format!("/bin/sh -c #(nop) {shown}")),
            empty_layer: step.layer.is_none(),
            ..Default::default()
        });
        if cached {
            self.say(" ---> Using cache\n");
        }
        let id = self.storage.images().id_of(&stage.config)?;
        self.say(&format!(" ---> {}\n", id.short()));
        Ok(())
    }
}

/// The key of a step: its parent's key and its own meaning. No two different chains share one (CVE-2024-24557).
fn next_key(stage: &Stage, text: &str) -> Digest {
    Digest::of(format!("step 1\n{}\n{text}", stage.key).as_bytes())
}

fn now() -> String {
    let now = time::OffsetDateTime::now_utc();
    now.format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default()
}
