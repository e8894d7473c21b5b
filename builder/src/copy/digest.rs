//! The digest of what a step copies: everything that the layer will hold but the times, as Docker's cache has it.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};
use storage::{LayerData, LayerEntry};

use crate::error::StepError;

/// Hex digest over the entries in their order.
pub(crate) fn content_digest(entries: &[LayerEntry]) -> Result<String, StepError> {
    let mut all = Sha256::new();
    for entry in entries {
        field(&mut all, &entry.path);
        for number in [entry.mode, entry.uid, entry.gid] {
            all.update(number.to_le_bytes());
        }
        data(&mut all, entry)?;
        for (name, value) in &entry.xattrs {
            field(&mut all, name);
            field(&mut all, value);
        }
        field(&mut all, b"");
    }
    Ok(all.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn data(all: &mut Sha256, entry: &LayerEntry) -> Result<(), StepError> {
    match &entry.data {
        LayerData::Directory => all.update(b"d"),
        LayerData::File { root, path, size } => {
            all.update(b"f");
            all.update(size.to_le_bytes());
            let failed = |source| StepError::Hash {
                path: path.display().to_string(),
                source,
            };
            let mut file = root.open(path)?.take(*size);
            io::copy(&mut file, all).map_err(failed)?;
        }
        LayerData::Symlink(target) => {
            all.update(b"l");
            field(all, target);
        }
        LayerData::HardLink(target) => {
            all.update(b"h");
            field(all, target);
        }
        LayerData::CharDevice(major, minor) | LayerData::BlockDevice(major, minor) => {
            all.update(if matches!(entry.data, LayerData::CharDevice(..)) {
                b"c"
            } else {
                b"b"
            });
            all.update(major.to_le_bytes());
            all.update(minor.to_le_bytes());
        }
        LayerData::Fifo => all.update(b"p"),
    }
    Ok(())
}

/// With its length, so that no two lists of fields read the same.
fn field(all: &mut Sha256, bytes: &[u8]) {
    all.update((bytes.len() as u64).to_le_bytes());
    all.update(bytes);
}
