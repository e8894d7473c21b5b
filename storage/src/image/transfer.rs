//! Images between nodes, by digest: what a node offers of an image, a layer as a stream, and taking both in.
//!
//! Whoever receives trusts no word of the other side: the configuration's digest is the image's ID, the configuration
//! names the layers' digests, and each layer is unpacked aside and kept only if its tar has its digest. Layers become
//! durable one by one under a lease, the image in one transaction at the end. So an interrupted transfer leaves no
//! image; the whole layers stay until the collector comes, and the next attempt goes on from there.

use std::io::{self, BufReader, Read, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::catalog::{self, NewImage};
use super::{Image, ImageConfiguration};
use crate::digest::{DiffId, Digest, ImageId};
use crate::error::{Error, Kind, Result};
use crate::layer::{Layer, LayerError, Layers};
use crate::lease::Lease;
use crate::store::Storage;

/// Longest that a transfer may take before a collector may take its layers.
const TTL: Duration = Duration::from_secs(24 * 3600);
/// zstd's fastest level: the network is waited for, not the ratio.
const LEVEL: i32 = 1;
/// Bytes of a layer that are compressed to see whether it pays.
const SAMPLE: usize = 256 << 10;
/// It pays when the sample shrinks to at most this part, in percent.
const PAYS: usize = 85;

/// What a node says of an image that it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The image's ID, which is its configuration's digest.
    pub id: ImageId,
    /// Digest of the manifest that it came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// Bottom first.
    pub layers: Vec<OfferedLayer>,
    /// When a name was last put on it, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<String>,
    /// It came from another node itself: where it was made there may be a newer one of its name.
    #[serde(default)]
    pub fetched: bool,
}

/// A layer of an offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedLayer {
    /// Digest of its tar.
    pub diff_id: DiffId,
    /// Length of its tar, in bytes.
    pub size: u64,
}

/// How a layer's tar goes over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Byte for byte.
    Plain,
    /// As one zstd stream.
    Zstd,
}

/// Why an image of another node was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A document or layer is not what was asked for.
    #[error("the other node sent a {what} with the digest {found} instead of {expected}")]
    Digest {
        what: &'static str,
        expected: Digest,
        found: Digest,
    },
    /// A configuration that cannot be read.
    #[error("the configuration of image {0} that the other node sent cannot be read")]
    Configuration(ImageId, #[source] serde_json::Error),
    /// A manifest of something else.
    #[error("the manifest that the other node sent is not one of image {0}")]
    Manifest(ImageId),
    /// A layer that the image does not have.
    #[error("layer {layer} is no part of image {image}")]
    Foreign { image: ImageId, layer: DiffId },
    /// An image of another system.
    #[error("image {image} is for {os}, not for linux")]
    System { image: ImageId, os: String },
    /// A stream that is no zstd.
    #[error("read the compressed layer {layer}")]
    Decompress { layer: DiffId, source: io::Error },
}

impl TransferError {
    pub(crate) fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// An image that is on its way in. Dropped unfinished, it leaves nothing but layers for the collector.
#[derive(Debug)]
pub struct Receiving {
    storage: Storage,
    lease: Lease,
    id: ImageId,
    new: NewImage,
}

impl Receiving {
    /// The image.
    pub fn id(&self) -> ImageId {
        self.id
    }

    /// The layers that are not here, bottom first, each once. Those that are here are kept from now on.
    pub fn missing(&self) -> Result<Vec<DiffId>> {
        let mut missing = Vec::new();
        for layer in &self.new.layers {
            if !missing.contains(layer) && !self.has(layer)? {
                missing.push(*layer);
            }
        }
        Ok(missing)
    }

    /// Whether the layer is here; it is kept then.
    pub fn has(&self, layer: &DiffId) -> Result<bool> {
        Ok(self.storage.layers().get(layer, &self.lease)?.is_some())
    }

    /// Takes in one layer; durable when it returns. Several may be taken in at once, from several threads.
    pub fn layer(&self, layer: DiffId, encoding: Encoding, from: &mut dyn Read) -> Result<Layer> {
        self.take(layer, encoding, from)
            .map_err(|error| error.explain_space("fetch layer", self.storage.root()))
    }

    /// Makes the image visible, without a name; all its layers must be here.
    pub fn finish(self) -> Result<Image> {
        let id = catalog::register_fetched(&self.storage, &self.new)
            .map_err(|error| error.explain_space("fetch image", self.storage.root()))?;
        catalog::by_id(&self.storage, &id)
    }

    fn take(&self, layer: DiffId, encoding: Encoding, from: &mut dyn Read) -> Result<Layer> {
        if !self.new.layers.contains(&layer) {
            let image = self.id;
            return Err(TransferError::Foreign { image, layer }.into());
        }
        let layers = self.storage.layers();
        let staged = match encoding {
            Encoding::Plain => layers.stage_plain(BufReader::with_capacity(SAMPLE, from))?,
            Encoding::Zstd => {
                let plain = zstd::Decoder::new(from);
                let plain = plain.map_err(|source| TransferError::Decompress { layer, source })?;
                layers.stage_plain(plain)?
            }
        };
        same("layer", layer.0, staged.diff_id.0)?;
        let taken = staged.layer();
        layers.publish(vec![staged], &self.lease)?;
        Ok(taken)
    }
}

impl Layers {
    /// How the layer's tar is best sent: a piece of it is compressed to see.
    pub fn encoding(&self, layer: &DiffId) -> Result<Encoding> {
        let mut sample = Sample(Vec::with_capacity(SAMPLE));
        match self.write_tar(layer, &mut sample) {
            // A full sample breaks the writing off.
            Err(Error::Layer(LayerError::Export { .. })) if sample.0.len() >= SAMPLE => {}
            outcome => outcome?,
        }
        let packed = zstd::bulk::compress(&sample.0, LEVEL).map_err(|source| LayerError::Export {
            layer: *layer,
            source,
        })?;
        Ok(if packed.len() * 100 <= sample.0.len() * PAYS {
            Encoding::Zstd
        } else {
            Encoding::Plain
        })
    }

    /// Writes the layer's tar in the given encoding. What is on the disk is checked on the way; a reader that counts on
    /// the digest finds a damaged layer too.
    pub fn send(&self, layer: &DiffId, encoding: Encoding, to: &mut dyn Write) -> Result<()> {
        if encoding == Encoding::Plain {
            return self.write_tar(layer, to);
        }
        let failed = |source| LayerError::Export {
            layer: *layer,
            source,
        };
        let mut packed = zstd::Encoder::new(to, LEVEL).map_err(failed)?;
        self.write_tar(layer, &mut packed)?;
        packed.finish().map(drop).map_err(failed)?;
        Ok(())
    }
}

pub(super) fn offer(storage: &Storage, image: &Image) -> Result<Offer> {
    let mut layers = Vec::with_capacity(image.layers.len());
    for diff_id in &image.layers {
        let row = storage.layers().row(diff_id)?;
        layers.push(OfferedLayer {
            diff_id: *diff_id,
            size: row.ok_or(LayerError::Missing(*diff_id))?.tar_size,
        });
    }
    Ok(Offer {
        id: image.id,
        manifest: image.manifest,
        layers,
        named: image.last_tagged.clone(),
        fetched: image.fetched,
    })
}

pub(super) fn begin(
    storage: &Storage,
    id: ImageId,
    config: Vec<u8>,
    manifest: Option<Vec<u8>>,
) -> Result<Receiving> {
    same("configuration", id.0, Digest::of(&config))?;
    let parsed: ImageConfiguration =
        serde_json::from_slice(&config).map_err(|source| TransferError::Configuration(id, source))?;
    if !parsed.os.is_empty() && parsed.os != "linux" {
        let (image, os) = (id, parsed.os);
        return Err(TransferError::System { image, os }.into());
    }
    if manifest.as_deref().is_some_and(|bytes| !describes(bytes, &id)) {
        return Err(TransferError::Manifest(id).into());
    }
    Ok(Receiving {
        storage: storage.clone(),
        lease: storage.leases().acquire("fetch", TTL)?,
        id,
        new: NewImage {
            config,
            manifest,
            layers: parsed.rootfs.diff_ids,
            references: Vec::new(),
        },
    })
}

/// Whether a manifest names this configuration.
fn describes(manifest: &[u8], id: &ImageId) -> bool {
    let parsed: Result<serde_json::Value, _> = serde_json::from_slice(manifest);
    parsed.is_ok_and(|manifest| manifest["config"]["digest"] == id.to_string())
}

fn same(what: &'static str, expected: Digest, found: Digest) -> Result<(), TransferError> {
    if expected == found {
        return Ok(());
    }
    Err(TransferError::Digest {
        what,
        expected,
        found,
    })
}

/// Takes the first bytes and refuses the rest.
struct Sample(Vec<u8>);

impl Write for Sample {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() >= SAMPLE {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
