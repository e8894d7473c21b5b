//! `image import`: an image of one layer from the tar of a root file system.

use std::io::Read;
use std::time::Duration;

use super::{History, ImageConfiguration, ImportOptions, RootFs, catalog, changes, host_architecture};
use crate::digest::ImageId;
use crate::error::Result;
use crate::store::{self, Storage};

/// Longest that an import may take.
const TTL: Duration = Duration::from_secs(24 * 3600);

pub(super) fn import(storage: &Storage, tar: &mut dyn Read, options: &ImportOptions) -> Result<ImageId> {
    let mut config = ImageConfiguration {
        created: Some(store::rfc3339_now()),
        architecture: host_architecture().into(),
        os: "linux".into(),
        comment: Some(options.message.clone()).filter(|message| !message.is_empty()),
        ..Default::default()
    };
    // Refuse a bad change before the long work.
    for line in &options.changes {
        changes::apply(&mut config.config, line)?;
    }
    let lease = storage.leases().acquire("import", TTL)?;
    let layer = storage.layers().apply_tar(tar, &lease)?;
    config.rootfs = RootFs {
        diff_ids: vec![layer.diff_id],
        ..Default::default()
    };
    config.history = vec![History {
        created: config.created.clone(),
        comment: config.comment.clone(),
        ..Default::default()
    }];
    let references: Vec<_> = options
        .reference
        .iter()
        .map(|reference| reference.tagged())
        .collect();
    Ok(catalog::create(storage, &config, &references)?.id)
}
