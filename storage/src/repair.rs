//! What is done when a store is opened: finish or undo what a crash has left.
//!
//! Files without a row and rows without files go, with one exception: a volume's directory without a row is
//! people's data and is adopted. What was dropped is returned, to be logged once.

use std::fs;
use std::io;
use std::path::Path;

use crate::digest::Digest;
use crate::durable;
use crate::error::Result;
use crate::metadata::{ImageRow, Kind, LayerRow, SnapshotRow};
use crate::store::{OpenError, Storage};

/// Brings files and rows together again. One sentence per thing that was not clean.
pub(crate) fn repair(storage: &Storage) -> Result<Vec<String>> {
    let inner = storage.inner();
    for dir in ["ingest", "trash"] {
        let path = inner.dir(dir);
        durable::empty_dir(&path).map_err(|source| OpenError::Clean { path, source })?;
    }
    let mut notes = Vec::new();
    drop_rows_without_files(storage, &mut notes)?;
    let layers: Vec<String> = keys::<LayerRow>(storage, Kind::Layers)?;
    drop_strangers(storage, "layers", &layers, &["empty"], &mut notes)?;
    let snapshots: Vec<String> = keys::<SnapshotRow>(storage, Kind::Snapshots)?;
    drop_strangers(storage, "snapshots", &snapshots, &[], &mut notes)?;
    storage.volumes().repair(&mut notes)?;
    storage.gc()?;
    Ok(notes)
}

fn keys<T: serde::de::DeserializeOwned>(storage: &Storage, kind: Kind) -> Result<Vec<String>> {
    Ok(storage
        .inner()
        .metadata
        .all::<T>(kind)?
        .into_iter()
        .map(|(key, _)| key)
        .collect())
}

fn drop_rows_without_files(storage: &Storage, notes: &mut Vec<String>) -> Result<()> {
    let inner = storage.inner();
    inner.metadata.update(|tx| {
        for (hex, _) in tx.all::<LayerRow>(Kind::Layers)? {
            if !inner.dir("layers").join(&hex).join("fs").is_dir() {
                tx.remove(Kind::Layers, &hex)?;
                notes.push(format!("layer {hex} had no files: forgotten"));
            }
        }
        for (hex, row) in tx.all::<ImageRow>(Kind::Images)? {
            let mut whole = Digest::from_hex(&hex).is_ok_and(|config| inner.content.contains(&config));
            for layer in &row.layers {
                whole &= tx.get::<LayerRow>(Kind::Layers, &layer.hex())?.is_some();
            }
            if !whole {
                tx.remove(Kind::Images, &hex)?;
                notes.push(format!(
                    "image {hex} was incomplete: forgotten, load or build it again"
                ));
            }
        }
        for (name, hex) in tx.all::<String>(Kind::References)? {
            if tx.get::<ImageRow>(Kind::Images, &hex)?.is_none() {
                tx.remove(Kind::References, &name)?;
                notes.push(format!("name {name} had no image: forgotten"));
            }
        }
        for (key, _) in tx.all::<SnapshotRow>(Kind::Snapshots)? {
            if !inner.dir("snapshots").join(&key).join("work").is_dir() {
                tx.remove(Kind::Snapshots, &key)?;
                notes.push(format!("snapshot {key} had no files: forgotten"));
            }
        }
        Ok(())
    })
}

/// Removes the directories that no row names.
fn drop_strangers(
    storage: &Storage,
    dir: &str,
    known: &[String],
    kept: &[&str],
    notes: &mut Vec<String>,
) -> Result<(), OpenError> {
    let path = storage.inner().dir(dir);
    let dropped = strangers(&path, known, kept).and_then(|names| {
        for name in names {
            storage.inner().discard(&path.join(&name))?;
            notes.push(format!("{dir}/{name} belonged to nothing: removed"));
        }
        Ok(())
    });
    dropped.map_err(|source| OpenError::Clean { path, source })
}

fn strangers(path: &Path, known: &[String], kept: &[&str]) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !kept.contains(&name.as_str()) && known.binary_search(&name).is_err() {
            found.push(name);
        }
    }
    Ok(found)
}
