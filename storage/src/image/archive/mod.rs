//! Image archives: docker archive (`manifest.json`) and OCI layout (`index.json`), read and written.

mod docker;
mod oci;
mod save;
mod spool;

use std::io::{self, Read};
use std::time::Duration;

pub(super) use self::save::save;
use self::spool::Spool;
use super::catalog::{self, NewImage};
use super::{ImageConfiguration, LoadEvent, LoadedImage};
use crate::compression::CompressionError;
use crate::digest::{DiffId, Digest, DigestError};
use crate::error::{Error, Kind, Result};
use crate::layer::{LayerError, Staged};
use crate::lease::Lease;
use crate::reference::{Reference, ReferenceError};
use crate::store::Storage;
use crate::tar::TarError;

/// Longest that a load may take before a collector may take its layers.
const TTL: Duration = Duration::from_secs(24 * 3600);

/// Why an archive could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error(transparent)]
    Compression(#[from] CompressionError),
    #[error("archive entry {0:?} climbs out of the archive: refused")]
    ClimbsOut(String),
    #[error(
        "this is no image archive: among its {entries} files is neither manifest.json (docker archive) nor index.json (OCI layout); for the tar of a root file system use `image import`"
    )]
    NotAnImage { entries: usize },
    #[error(
        "{file} is missing from the archive, but {wanted_by} names it: the archive is incomplete, save it again"
    )]
    Missing { file: String, wanted_by: String },
    #[error("{file} of the archive is larger than {limit} bytes")]
    TooLarge { file: String, limit: u64 },
    #[error("read {file} of the archive")]
    Json { file: String, source: serde_json::Error },
    #[error("{file} of the archive is ambiguous: {reason}; refused")]
    Ambiguous { file: String, reason: String },
    #[error(
        "{file} of the archive does not match its digest: expected {expected}, found {found}; the archive is damaged, get it again"
    )]
    DigestMismatch {
        file: String,
        expected: Digest,
        found: Digest,
    },
    #[error(
        "{file} of the archive has {found} bytes, but {expected} are declared; the archive is damaged, get it again"
    )]
    SizeMismatch { file: String, expected: u64, found: u64 },
    #[error(
        "layer {file} has the content digest {found}, but the image's configuration says {expected}; the archive is damaged, get it again"
    )]
    DiffIdMismatch {
        file: String,
        expected: DiffId,
        found: DiffId,
    },
    #[error("image {config}: invalid manifest, layers length mismatch: expected {expected}, got {found}")]
    LayerCount {
        config: String,
        expected: usize,
        found: usize,
    },
    #[error("{file} of the archive names an invalid digest")]
    Digest { file: String, source: DigestError },
    #[error("{file} of the archive names an invalid reference")]
    Reference { file: String, source: ReferenceError },
    #[error("{file} of the archive: {reason}")]
    Unsupported { file: String, reason: String },
    #[error("unpack layer {file}")]
    Layer { file: String, source: LayerError },
    #[error("{operation}")]
    Io {
        operation: &'static str,
        source: io::Error,
    },
}

impl ArchiveError {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Io { .. } | Self::Tar(TarError::Read { .. }) => Kind::Internal,
            Self::Layer { source, .. } => source.kind(),
            _ => Kind::Invalid,
        }
    }
}

/// An image as the archive describes it, checked but not unpacked.
#[derive(Debug)]
struct Described {
    config: Vec<u8>,
    manifest: Option<Vec<u8>>,
    /// Diff ID and file of each layer, bottom first.
    layers: Vec<(DiffId, String)>,
    references: Vec<Reference>,
}

/// Reads an archive and keeps its images, or nothing of it.
pub(super) fn load(
    storage: &Storage,
    archive: &mut dyn Read,
    progress: &mut dyn FnMut(LoadEvent),
) -> Result<Vec<LoadedImage>> {
    let spool = Spool::read(storage, archive)?;
    let described = if spool.contains("manifest.json") {
        docker::describe(&spool)?
    } else if spool.contains("index.json") {
        oci::describe(&spool)?
    } else {
        return Err(ArchiveError::NotAnImage { entries: spool.len() }.into());
    };
    let lease = storage.leases().acquire("load", TTL)?;
    bring_layers(storage, &spool, &described, &lease, progress)?;
    register(storage, described, progress)
}

fn register(
    storage: &Storage,
    described: Vec<Described>,
    progress: &mut dyn FnMut(LoadEvent),
) -> Result<Vec<LoadedImage>> {
    let new_image = |image: Described| NewImage {
        config: image.config,
        manifest: image.manifest,
        layers: image.layers.into_iter().map(|(diff_id, _)| diff_id).collect(),
        references: image.references,
    };
    let images: Vec<NewImage> = described.into_iter().map(new_image).collect();
    let mut loaded = Vec::new();
    for (image, (id, moved)) in images.iter().zip(catalog::register(storage, &images)?) {
        for (reference, old) in moved {
            progress(LoadEvent::Renamed { reference, old });
        }
        let one = LoadedImage {
            id,
            refs: image.references.clone(),
        };
        progress(LoadEvent::Loaded(one.clone()));
        loaded.push(one);
    }
    Ok(loaded)
}

/// Unpacks the layers that the store lacks; all become visible together.
fn bring_layers(
    storage: &Storage,
    spool: &Spool,
    images: &[Described],
    lease: &Lease,
    progress: &mut dyn FnMut(LoadEvent),
) -> Result<()> {
    let layers = storage.layers();
    let mut staged: Vec<Staged> = Vec::new();
    for (diff_id, file) in images.iter().flat_map(|image| &image.layers) {
        let waiting = staged.iter().any(|layer| layer.diff_id == *diff_id);
        if waiting || layers.get(diff_id, lease)?.is_some() {
            continue;
        }
        staged.push(stage(storage, spool, *diff_id, file, progress)?);
    }
    if staged.is_empty() {
        Ok(())
    } else {
        layers.publish(staged, lease)
    }
}

fn stage(
    storage: &Storage,
    spool: &Spool,
    expected: DiffId,
    file: &str,
    progress: &mut dyn FnMut(LoadEvent),
) -> Result<Staged> {
    let (reader, total) = spool.open(file, "the image's manifest")?;
    let mut counted = Counted {
        reader,
        current: 0,
        total,
        diff_id: expected,
        progress,
    };
    let staged = storage
        .layers()
        .stage(&mut counted)
        .map_err(|error| match error {
            Error::Layer(source) => ArchiveError::Layer {
                file: file.to_owned(),
                source,
            }
            .into(),
            other => other,
        })?;
    if staged.diff_id != expected {
        let found = staged.diff_id;
        return Err(ArchiveError::DiffIdMismatch {
            file: file.to_owned(),
            expected,
            found,
        }
        .into());
    }
    Ok(staged)
}

/// Reports reading progress every few megabytes.
struct Counted<'a, R> {
    reader: R,
    current: u64,
    total: u64,
    diff_id: DiffId,
    progress: &'a mut dyn FnMut(LoadEvent),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        const STEP: u64 = 4 << 20;
        let n = self.reader.read(buf)?;
        let before = self.current / STEP;
        self.current += n as u64;
        if self.current / STEP != before || self.current == self.total && n > 0 {
            let (current, total) = (self.current, self.total);
            (self.progress)(LoadEvent::Layer {
                diff_id: self.diff_id,
                current,
                total,
            });
        }
        Ok(n)
    }
}

/// Reads a configuration and pairs its diff IDs with the layer files, bottom first.
fn pair_layers(name: &str, config: &[u8], files: Vec<String>) -> Result<Vec<(DiffId, String)>, ArchiveError> {
    let parsed: ImageConfiguration = serde_json::from_slice(config).map_err(|source| ArchiveError::Json {
        file: name.to_owned(),
        source,
    })?;
    if !parsed.os.is_empty() && parsed.os != "linux" {
        let reason = format!("cannot load {} image on linux", parsed.os);
        return Err(ArchiveError::Unsupported {
            file: name.to_owned(),
            reason,
        });
    }
    let diff_ids = parsed.rootfs.diff_ids;
    if diff_ids.len() != files.len() {
        return Err(ArchiveError::LayerCount {
            config: name.to_owned(),
            expected: diff_ids.len(),
            found: files.len(),
        });
    }
    Ok(diff_ids.into_iter().zip(files).collect())
}
