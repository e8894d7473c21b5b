//! `image history`: the steps of the configuration with the sizes of their layers.

use super::catalog::unix_seconds;
use super::{History, HistoryEntry, Image};
use crate::error::Result;
use crate::store::Storage;

/// Newest step first. An image without a history has one line per layer.
pub(super) fn history(storage: &Storage, image: &Image) -> Result<Vec<HistoryEntry>> {
    let mut layers = image.layers.iter();
    let mut steps = image.config.history.clone();
    let described = steps.iter().filter(|step| !step.empty_layer).count();
    let missing = image.layers.len().saturating_sub(described);
    steps.extend(std::iter::repeat_n(History::default(), missing));
    let mut lines = Vec::with_capacity(steps.len());
    for step in steps {
        let layer = if step.empty_layer { None } else { layers.next() };
        let row = layer
            .map(|diff_id| storage.layers().row(diff_id))
            .transpose()?
            .flatten();
        lines.push(line(step, row.map_or(0, |row| row.size)));
    }
    lines.reverse();
    if let Some(newest) = lines.first_mut() {
        newest.id = image.id.to_string();
        newest.tags = image.refs.iter().map(|reference| reference.familiar()).collect();
    }
    Ok(lines)
}

fn line(step: History, size: u64) -> HistoryEntry {
    HistoryEntry {
        id: "<missing>".into(),
        created: unix_seconds(step.created.as_deref().unwrap_or_default()),
        created_by: step.created_by.unwrap_or_default(),
        tags: Vec::new(),
        size,
        comment: step.comment.unwrap_or_default(),
    }
}
