//! Images: load, save, import, find, tag, remove.
//!
//! An image is its configuration document (whose digest is the ID), a stack of layers and the references that name
//! it. Semantics and answers are those of Docker's image service.

mod archive;
mod catalog;
mod changes;
mod config;
mod history;
mod import;
mod remove;
mod transfer;

use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

pub use self::archive::ArchiveError;
pub use self::changes::{ChangeError, exposed, set_env};
pub use self::config::{DockerConfig, Healthcheck, History, ImageConfiguration, RootFs, host_architecture};
pub use self::transfer::{Encoding, Offer, OfferedLayer, Receiving, TransferError};
use crate::digest::{DiffId, Digest, ImageId};
use crate::error::{Kind, Result};
use crate::reference::Reference;
use crate::store::Storage;

/// An image as the store knows it.
#[derive(Debug, Clone)]
pub struct Image {
    pub id: ImageId,
    pub config: ImageConfiguration,
    /// Names with a tag, sorted.
    pub refs: Vec<Reference>,
    /// Names with a digest (`RepoDigests`), sorted.
    pub digests: Vec<Reference>,
    /// Digest of the manifest the image came with, if one is stored.
    pub manifest: Option<Digest>,
    /// RFC 3339, from the configuration; empty when it has none.
    pub created: String,
    /// When a name was last put on it, RFC 3339 (`Metadata.LastTagTime`).
    pub last_tagged: Option<String>,
    /// It came from another node of the cluster, and nobody here has loaded, built or named it since.
    pub fetched: bool,
    /// Sum of the sizes of the files in all layers, in bytes.
    pub size: u64,
    /// Bottom first.
    pub layers: Vec<DiffId>,
}

/// One image out of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    pub id: ImageId,
    /// The names it got; empty when the archive has none.
    pub refs: Vec<Reference>,
}

/// What happens while an archive is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadEvent {
    /// A layer is being unpacked: which, and how many bytes of how many of it were read.
    Layer {
        diff_id: DiffId,
        current: u64,
        total: u64,
    },
    /// The name was on another image, which has lost it.
    Renamed { reference: Reference, old: ImageId },
    /// One image is complete.
    Loaded(LoadedImage),
}

/// One entry of the answer to a removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Removed {
    Untagged(String),
    Deleted(String),
}

/// A container that uses an image; removal asks the caller for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUse {
    /// Container ID.
    pub container: String,
    pub running: bool,
}

/// What a removal may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    pub force: bool,
    /// Docker's `noprune`; without parents to prune it changes nothing but is accepted.
    pub no_prune: bool,
}

/// One line of `image history`, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The image ID for the newest line, `<missing>` for the others.
    pub id: String,
    /// Unix seconds.
    pub created: i64,
    pub created_by: String,
    pub tags: Vec<String>,
    /// Bytes of files in the step's layer, 0 for a step without one.
    pub size: u64,
    pub comment: String,
}

/// What `import` puts beside the files.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    pub reference: Option<Reference>,
    /// Dockerfile instructions (`--change`): CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR…
    pub changes: Vec<String>,
    pub message: String,
}

/// Why an image operation failed. Texts are Docker's where Docker has one.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("No such image: {0}")]
    NotFound(String),
    #[error(
        "conflict: unable to remove repository reference {reference:?} (must force) - container {container} is using its referenced image {image}"
    )]
    ReferenceInUse {
        reference: String,
        container: String,
        image: String,
    },
    #[error("conflict: unable to delete {image} (must be forced) - {reason}")]
    Conflict { image: String, reason: String },
    #[error("conflict: unable to delete {image} (cannot be forced) - {reason}")]
    HardConflict { image: String, reason: String },
    #[error("image ID prefix {0:?} is ambiguous: give more of it")]
    Ambiguous(String),
    #[error("image {image}: layer {layer} is not in the store: load or build the image again")]
    MissingLayer { image: String, layer: DiffId },
    #[error("image {image}: read configuration document")]
    Document {
        image: String,
        source: serde_json::Error,
    },
    #[error("refusing to create a tag with a digest reference: {0}")]
    DigestTag(String),
}

impl ImageError {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
            Self::ReferenceInUse { .. } | Self::Conflict { .. } | Self::HardConflict { .. } => Kind::Conflict,
            Self::DigestTag(_) | Self::Ambiguous(_) => Kind::Invalid,
            Self::MissingLayer { .. } | Self::Document { .. } => Kind::Internal,
        }
    }
}

/// The images of a store.
#[derive(Debug, Clone)]
pub struct Images(Storage);

impl Images {
    pub(crate) fn new(storage: Storage) -> Self {
        Self(storage)
    }

    /// Reads a docker archive or an OCI layout, plain or compressed with gzip or zstd, and keeps its images.
    ///
    /// All or nothing: on an error no image, name or layer of the archive is left.
    pub fn load(
        &self,
        archive: &mut dyn Read,
        progress: &mut dyn FnMut(LoadEvent),
    ) -> Result<Vec<LoadedImage>> {
        archive::load(&self.0, archive, progress)
            .map_err(|error| error.explain_space("load image archive", self.0.root()))
    }

    /// Writes an archive that is both a docker archive and an OCI layout, as Docker does since version 25.
    pub fn save(&self, names: &[String], archive: &mut dyn Write) -> Result<()> {
        archive::save(&self.0, names, archive)
    }

    /// Makes an image of one layer from the tar of a root file system, plain or compressed.
    pub fn import(&self, tar: &mut dyn Read, options: &ImportOptions) -> Result<ImageId> {
        import::import(&self.0, tar, options)
            .map_err(|error| error.explain_space("import image", self.0.root()))
    }

    /// Finds an image by name, full ID or unambiguous ID prefix.
    pub fn get(&self, name: &str) -> Result<Image> {
        catalog::get(&self.0, name)
    }

    /// All images, newest first.
    pub fn list(&self) -> Result<Vec<Image>> {
        catalog::list(&self.0)
    }

    /// The history of an image, newest step first.
    pub fn history(&self, name: &str) -> Result<Vec<HistoryEntry>> {
        history::history(&self.0, &self.get(name)?)
    }

    /// Puts a name on an image; the name leaves the image that had it, which is returned.
    pub fn tag(&self, name: &str, reference: &Reference) -> Result<Option<ImageId>> {
        catalog::tag(&self.0, name, reference)
    }

    /// Removes a name, or the image when it was the last one, with Docker's rules and conflicts.
    pub fn remove(
        &self,
        name: &str,
        options: RemoveOptions,
        in_use: &dyn Fn(&ImageId) -> Option<ImageUse>,
    ) -> Result<Vec<Removed>> {
        remove::remove(&self.0, name, options, in_use)
    }

    /// Removes all images that `selected` accepts and no container uses. Returns also the bytes freed.
    pub fn prune(
        &self,
        selected: &dyn Fn(&Image) -> bool,
        in_use: &dyn Fn(&ImageId) -> Option<ImageUse>,
    ) -> Result<(Vec<Removed>, u64)> {
        remove::prune(&self.0, selected, in_use)
    }

    /// Registers an image whose layers are in the store, and puts `reference` on it. Whoever brought the layers in
    /// holds them by a lease until then.
    pub fn create(&self, config: &ImageConfiguration, references: &[Reference]) -> Result<Image> {
        catalog::create(&self.0, config, references)
            .map_err(|error| error.explain_space("create image", self.0.root()))
    }

    /// The ID that an image of this configuration has or would have.
    pub fn id_of(&self, config: &ImageConfiguration) -> Result<ImageId> {
        Ok(catalog::id_of(config)?.1)
    }

    /// The configuration document, byte for byte.
    pub fn config_bytes(&self, id: &ImageId) -> Result<Vec<u8>> {
        Ok(self.0.inner().content.read(&id.0)?)
    }

    /// What another node has to know of an image to fetch it.
    pub fn offer(&self, name: &str) -> Result<Offer> {
        transfer::offer(&self.0, &self.get(name)?)
    }

    /// Begins to take in an image of another node. The documents are checked against their digests; nothing of the image
    /// is visible before [`Receiving::finish`].
    pub fn receive(&self, id: ImageId, config: Vec<u8>, manifest: Option<Vec<u8>>) -> Result<Receiving> {
        transfer::begin(&self.0, id, config, manifest)
    }

    /// Gives an image that was fetched its name, unless somebody here has given that name to another image. `named` is
    /// when its origin gave it that name. Whether the image has the name now.
    pub fn name_fetched(&self, id: &ImageId, reference: &Reference, named: Option<&str>) -> Result<bool> {
        catalog::name_fetched(&self.0, id, reference, named)
    }

    /// The manifest that the image came with, byte for byte.
    pub fn manifest_bytes(&self, image: &Image) -> Result<Option<Vec<u8>>> {
        Ok(image
            .manifest
            .map(|digest| self.0.inner().content.read(&digest))
            .transpose()?)
    }
}
