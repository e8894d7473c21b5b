//! The table of images and names: registering, finding, tagging.

use std::collections::BTreeMap;

use super::{Image, ImageConfiguration, ImageError};
use crate::digest::{DiffId, Digest, ImageId};
use crate::error::{Error, Result};
use crate::layer::Layers;
use crate::metadata::{ImageRow, Kind, LayerRow, Tx};
use crate::reference::Reference;
use crate::store::{self, Storage};

/// An image about to be registered. Its layers are in the store and held by a lease.
#[derive(Debug)]
pub(super) struct NewImage {
    pub(super) config: Vec<u8>,
    pub(super) manifest: Option<Vec<u8>>,
    pub(super) layers: Vec<DiffId>,
    pub(super) references: Vec<Reference>,
}

/// A name that has moved from one image to another.
pub(super) type Moved = (Reference, ImageId);

/// Registers images and their names in one transaction.
pub(super) fn register(storage: &Storage, images: &[NewImage]) -> Result<Vec<(ImageId, Vec<Moved>)>> {
    register_as(storage, images, false)
}

fn register_as(storage: &Storage, images: &[NewImage], fetched: bool) -> Result<Vec<(ImageId, Vec<Moved>)>> {
    let inner = storage.inner();
    // A collector between blob and row would take the blob.
    let _shelf = inner.shelf();
    for image in images {
        inner.content.put(&image.config)?;
        image
            .manifest
            .as_deref()
            .map(|manifest| inner.content.put(manifest))
            .transpose()?;
    }
    inner
        .metadata
        .update(|tx| images.iter().map(|image| put(tx, image, fetched)).collect())
}

fn put(tx: &Tx, image: &NewImage, fetched: bool) -> Result<(ImageId, Vec<Moved>)> {
    let id = ImageId(Digest::of(&image.config));
    Layers::rows_in(tx, &image.layers)?;
    let old: Option<ImageRow> = tx.get(Kind::Images, &id.hex())?;
    let row = ImageRow {
        manifest: image
            .manifest
            .as_deref()
            .map(Digest::of)
            .or(old.as_ref().and_then(|row| row.manifest)),
        layers: image.layers.clone(),
        last_tagged: old.and_then(|row| row.last_tagged),
        fetched,
    };
    tx.put(Kind::Images, &id.hex(), &row)?;
    let mut moved = Vec::new();
    for reference in &image.references {
        moved.extend(point(tx, reference, &id)?.map(|old| (reference.clone(), old)));
    }
    Ok((id, moved))
}

/// Puts a name on an image; the other image that had it.
fn point(tx: &Tx, reference: &Reference, id: &ImageId) -> Result<Option<ImageId>> {
    let name = reference.tagged().to_string();
    let old: Option<Digest> = tx
        .get::<String>(Kind::References, &name)?
        .and_then(|hex| Digest::from_hex(&hex).ok());
    tx.put(Kind::References, &name, &id.hex())?;
    if let Some(mut row) = tx.get::<ImageRow>(Kind::Images, &id.hex())? {
        row.last_tagged = Some(store::rfc3339_now());
        row.fetched = false;
        tx.put(Kind::Images, &id.hex(), &row)?;
    }
    Ok(old.map(ImageId).filter(|old| old != id))
}

/// The document of a configuration, and its digest.
pub(super) fn id_of(config: &ImageConfiguration) -> Result<(Vec<u8>, ImageId), ImageError> {
    let document = |source| ImageError::Document {
        image: "to be created".into(),
        source,
    };
    let bytes = serde_json::to_vec(config).map_err(document)?;
    let id = ImageId(Digest::of(&bytes));
    Ok((bytes, id))
}

pub(super) fn create(
    storage: &Storage,
    config: &ImageConfiguration,
    references: &[Reference],
) -> Result<Image> {
    let (bytes, id) = id_of(config)?;
    let layers = config.rootfs.diff_ids.clone();
    let new = NewImage {
        config: bytes,
        manifest: None,
        layers,
        references: references.to_vec(),
    };
    register(storage, std::slice::from_ref(&new))?;
    by_id(storage, &id)
}

pub(super) fn tag(storage: &Storage, name: &str, reference: &Reference) -> Result<Option<ImageId>> {
    if reference.digest().is_some() {
        return Err(ImageError::DigestTag(reference.familiar()).into());
    }
    let id = find(storage, name)?;
    storage.inner().metadata.update(|tx| {
        if tx.get::<ImageRow>(Kind::Images, &id.hex())?.is_none() {
            return Err(Error::from(ImageError::NotFound(name.to_owned())));
        }
        point(tx, reference, &id)
    })
}

/// See [`super::Images::name_fetched`].
pub(super) fn name_fetched(
    storage: &Storage,
    id: &ImageId,
    reference: &Reference,
    named: Option<&str>,
) -> Result<bool> {
    let name = reference.tagged().to_string();
    storage.inner().metadata.update(|tx| {
        let row: Option<ImageRow> = tx.get(Kind::Images, &id.hex())?;
        let mut row = row.ok_or_else(|| ImageError::NotFound(id.to_string()))?;
        if let Some(holder) = tx.get::<String>(Kind::References, &name)? {
            let other: Option<ImageRow> = tx.get(Kind::Images, &holder)?;
            if holder == id.hex() || !gives_way(other.as_ref(), named) {
                return Ok(holder == id.hex());
            }
        }
        tx.put(Kind::References, &name, &id.hex())?;
        row.last_tagged = row.last_tagged.max(named.map(str::to_owned));
        tx.put(Kind::Images, &id.hex(), &row)?;
        Ok(true)
    })
}

/// Whether the image that has a name gives it to one that was given it elsewhere: it only came here itself, and has it from
/// an earlier time.
fn gives_way(holder: Option<&ImageRow>, named: Option<&str>) -> bool {
    holder.is_none_or(|row| {
        let (held, named) = (row.last_tagged.as_deref(), named);
        row.fetched && held.map(unix_seconds) <= named.map(unix_seconds)
    })
}

/// Registers an image that came from another node, without a name. One that is known already stays as it is.
pub(super) fn register_fetched(storage: &Storage, image: &NewImage) -> Result<ImageId> {
    let known = Digest::of(&image.config).hex();
    let known = storage.inner().metadata.get::<ImageRow>(Kind::Images, &known)?;
    let registered = register_as(
        storage,
        std::slice::from_ref(image),
        known.is_none_or(|row| row.fetched),
    )?;
    Ok(registered[0].0)
}

pub(super) fn get(storage: &Storage, name: &str) -> Result<Image> {
    by_id(storage, &find(storage, name)?)
}

pub(super) fn by_id(storage: &Storage, id: &ImageId) -> Result<Image> {
    let row: Option<ImageRow> = storage.inner().metadata.get(Kind::Images, &id.hex())?;
    let row = row.ok_or_else(|| ImageError::NotFound(id.to_string()))?;
    let names = names_by_image(storage)?.remove(id).unwrap_or_default();
    read(storage, *id, row, names)
}

/// All images, newest first.
pub(super) fn list(storage: &Storage) -> Result<Vec<Image>> {
    let mut names = names_by_image(storage)?;
    let mut images = Vec::new();
    for (hex, row) in storage.inner().metadata.all::<ImageRow>(Kind::Images)? {
        let id = ImageId(Digest::from_hex(&hex)?);
        images.push(read(storage, id, row, names.remove(&id).unwrap_or_default())?);
    }
    images.sort_by_key(|image| std::cmp::Reverse(unix_seconds(&image.created)));
    Ok(images)
}

/// The image that a reference with a digest means, whatever name it has here: its ID is what the managers pin.
fn pinned(storage: &Storage, reference: &Reference) -> Result<Option<ImageId>> {
    let Some(Ok(digest)) = reference.digest().map(str::parse::<Digest>) else {
        return Ok(None);
    };
    let row: Option<ImageRow> = storage.inner().metadata.get(Kind::Images, &digest.hex())?;
    Ok(row.map(|_| ImageId(digest)))
}

/// Docker's order: a name, then a full ID, then a prefix of one.
fn find(storage: &Storage, name: &str) -> Result<ImageId> {
    if let Ok(reference) = name.parse::<Reference>() {
        let key = reference.tagged().to_string();
        if let Some(hex) = storage.inner().metadata.get::<String>(Kind::References, &key)? {
            return Ok(ImageId(Digest::from_hex(&hex)?));
        }
        if let Some(id) = pinned(storage, &reference)? {
            return Ok(id);
        }
    }
    let prefix = name.strip_prefix("sha256:").unwrap_or(name);
    let looks_like_id = !prefix.is_empty()
        && prefix
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if looks_like_id {
        let rows = storage.inner().metadata.all::<ImageRow>(Kind::Images)?;
        let mut found = rows.iter().filter(|(hex, _)| hex.starts_with(prefix));
        match (found.next(), found.next()) {
            (Some((hex, _)), None) => return Ok(ImageId(Digest::from_hex(hex)?)),
            (Some(_), Some(_)) => return Err(ImageError::Ambiguous(name.to_owned()).into()),
            (None, _) => {}
        }
    }
    let shown = name
        .parse::<Reference>()
        .map_or(name.to_owned(), |reference| reference.tagged().familiar());
    Err(ImageError::NotFound(shown).into())
}

fn names_by_image(storage: &Storage) -> Result<BTreeMap<ImageId, Vec<Reference>>> {
    let mut names: BTreeMap<ImageId, Vec<Reference>> = BTreeMap::new();
    for (name, hex) in storage.inner().metadata.all::<String>(Kind::References)? {
        names
            .entry(ImageId(Digest::from_hex(&hex)?))
            .or_default()
            .push(name.parse()?);
    }
    Ok(names)
}

fn read(storage: &Storage, id: ImageId, row: ImageRow, names: Vec<Reference>) -> Result<Image> {
    let inner = storage.inner();
    let bytes = inner.content.read(&id.0)?;
    let config: ImageConfiguration =
        serde_json::from_slice(&bytes).map_err(|source| ImageError::Document {
            image: id.to_string(),
            source,
        })?;
    let (digests, refs) = names.into_iter().partition(|name| name.digest().is_some());
    let mut size = 0;
    for layer in &row.layers {
        let layer_row: Option<LayerRow> = inner.metadata.get(Kind::Layers, &layer.hex())?;
        size += layer_row
            .ok_or_else(|| ImageError::MissingLayer {
                image: id.to_string(),
                layer: *layer,
            })?
            .size;
    }
    Ok(Image {
        id,
        created: config.created.clone().unwrap_or_default(),
        config,
        refs,
        digests,
        manifest: row.manifest,
        last_tagged: row.last_tagged,
        fetched: row.fetched,
        size,
        layers: row.layers,
    })
}

/// Unix seconds of an RFC 3339 time; 0 where there is none.
pub(super) fn unix_seconds(text: &str) -> i64 {
    let parsed = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
    parsed.map_or(0, time::OffsetDateTime::unix_timestamp)
}
