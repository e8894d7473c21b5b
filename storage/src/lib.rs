//! Everything a node keeps on disk that is not a container's own record: blobs, images, layers, snapshots and volumes.
//!
//! Inputs are streams (image archives, layer tars, build results) and names; outputs are plain data for the
//! runtime (overlay directories, mount points) and descriptors ([`RootFd`]). Nothing is ever mounted into the host's
//! mount tree. All functions block: an async caller runs them on a blocking thread.
//!
//! ```text
//! <root>/content/sha256/aa/<hex>   configs and manifests, byte for byte
//! <root>/layers/<diff id hex>/     fs/ (overlay lower directory) + recipe (what rebuilds the tar)
//! <root>/snapshots/<key>/          fs/ (overlay upper directory) + work/
//! <root>/volumes/<name>/_data      named volumes
//! <root>/ingest/                   what is still being written; emptied at start
//! <root>/trash/                    what is being removed; emptied at start
//! <root>/meta.redb                 see [`metadata`]
//! ```
//!
//! Order of every write: data and its fsync, rename into place, fsync of the directory, metadata commit. Order of
//! every removal: metadata commit, rename into `trash/`, unlink. A crash between two steps leaves only files
//! without a row, and those are dropped by the repair at the next start.

mod compression;
mod content;
mod digest;
mod durable;
mod error;
mod gc;
pub mod image;
pub mod layer;
mod lease;
mod metadata;
mod overlay;
mod reference;
mod repair;
mod root_fd;
mod snapshot;
mod steps;
mod store;
mod tar;
mod volume;
mod walk;

pub use digest::{DiffId, Digest, DigestError, ImageId};
pub use error::{Error, Kind, Result};
pub use gc::Collected;
pub use image::{
    DockerConfig, Encoding, Healthcheck, History, Image, ImageConfiguration, Images, Offer, OfferedLayer,
    Receiving, TransferError,
};
pub use layer::{Layer, LayerData, LayerEntry, LayerError, Layers, Unpacked};
pub use lease::{Lease, Leases};
pub use reference::{Reference, ReferenceError};
pub use root_fd::{DirEntry, FileKind, RootError, RootFd, Stat};
pub use snapshot::{Change, ChangeKind, OverlayPaths, SnapshotError, SnapshotInfo, Snapshots};
pub use steps::{Step, Steps};
pub use store::Storage;
pub use tar::Xattrs;
pub use volume::{Contents, CreateVolume, Incoming, Volume, VolumeError, Volumes};
