//! Writing an archive that is a docker archive and an OCI layout at once, as Docker does since version 25.
//!
//! ```text
//! blobs/sha256/<hex>   layers (plain tars), configurations, manifests
//! index.json  oci-layout  manifest.json  repositories
//! ```
//! The same images give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use serde_json::{Value, json};

use super::ArchiveError;
use crate::digest::{DiffId, Digest};
use crate::error::Result;
use crate::image::{Image, catalog};
use crate::reference::Reference;
use crate::store::Storage;
use crate::tar::{EntryKind, NewEntry, TarWriter};

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image and the names to save with it.
struct Chosen {
    image: Image,
    references: BTreeSet<Reference>,
}

pub(in crate::image) fn save(storage: &Storage, names: &[String], to: &mut dyn Write) -> Result<()> {
    // All names are looked up before the first byte is written.
    let chosen = choose(storage, names)?;
    let mut tar = TarWriter::new(to);
    directory(&mut tar, b"blobs/")?;
    directory(&mut tar, b"blobs/sha256/")?;
    let mut written: BTreeSet<Digest> = BTreeSet::new();
    let mut index = Vec::new();
    let mut items = Vec::new();
    for one in &chosen {
        for diff_id in &one.image.layers {
            if written.insert(diff_id.0) {
                layer(storage, &mut tar, diff_id)?;
            }
        }
        let config = storage.inner().content.read(&one.image.id.0)?;
        let manifest = manifest(storage, &one.image, config.len())?;
        let digest = Digest::of(&manifest);
        for (digest, bytes) in [(one.image.id.0, &config), (digest, &manifest)] {
            if written.insert(digest) {
                file(&mut tar, &blob_path(&digest), bytes)?;
            }
        }
        index.extend(descriptors(one, &digest, manifest.len()));
        items.push(item(one));
    }
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": index});
    file(&mut tar, "index.json", &to_bytes(&index)?)?;
    file(&mut tar, "manifest.json", &to_bytes(&Value::Array(items))?)?;
    file(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let repositories = repositories(&chosen);
    if !repositories.is_empty() {
        file(&mut tar, "repositories", &to_bytes(&json!(repositories))?)?;
    }
    tar.finish().map_err(writing)?;
    Ok(())
}

/// A name given saves that name; a repository without a tag or an ID saves what it says of itself.
fn choose(storage: &Storage, names: &[String]) -> Result<Vec<Chosen>> {
    let mut chosen: Vec<Chosen> = Vec::new();
    for name in names {
        let image = catalog::get(storage, name)?;
        let wanted = name.parse::<Reference>().map(|reference| reference.tagged());
        let named = wanted.ok().filter(|wanted| image.refs.contains(wanted));
        match chosen.iter_mut().find(|one| one.image.id == image.id) {
            Some(one) => one.references.extend(named),
            None => chosen.push(Chosen {
                image,
                references: named.into_iter().collect(),
            }),
        }
    }
    Ok(chosen)
}

fn manifest(storage: &Storage, image: &Image, config_size: usize) -> Result<Vec<u8>> {
    let mut layers = Vec::new();
    for diff_id in &image.layers {
        let row = storage.layers().row(diff_id)?;
        let size = row.ok_or(crate::layer::LayerError::Missing(*diff_id))?.tar_size;
        layers.push(json!({"mediaType": LAYER_TYPE, "digest": diff_id.to_string(), "size": size}));
    }
    let config = json!({"mediaType": CONFIG_TYPE, "digest": image.id.to_string(), "size": config_size});
    to_bytes(&json!({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers}))
}

/// One descriptor per name; an image without one has a plain descriptor.
fn descriptors(one: &Chosen, digest: &Digest, size: usize) -> Vec<Value> {
    let plain = json!({"mediaType": MANIFEST_TYPE, "digest": digest.to_string(), "size": size});
    if one.references.is_empty() {
        return vec![plain];
    }
    let named = |reference: &Reference| {
        let mut descriptor = plain.clone();
        descriptor["annotations"] = json!({
            "io.containerd.image.name": reference.to_string(),
            "org.opencontainers.image.ref.name": reference.tag().unwrap_or_default(),
        });
        descriptor
    };
    one.references.iter().map(named).collect()
}

/// One item of `manifest.json`.
fn item(one: &Chosen) -> Value {
    let tags: Vec<String> = one.references.iter().map(Reference::familiar).collect();
    let layers: Vec<String> = one.image.layers.iter().map(|layer| blob_path(&layer.0)).collect();
    let tags = if tags.is_empty() { Value::Null } else { json!(tags) };
    json!({"Config": blob_path(&one.image.id.0), "RepoTags": tags, "Layers": layers})
}

/// The oldest form: repository → tag → top layer.
fn repositories(chosen: &[Chosen]) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut found: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for one in chosen {
        let Some(top) = one.image.layers.last() else {
            continue;
        };
        for reference in &one.references {
            let tags = found.entry(reference.familiar_repository()).or_default();
            tags.insert(reference.tag().unwrap_or_default().to_owned(), top.hex());
        }
    }
    found
}

fn layer<W: Write>(storage: &Storage, tar: &mut TarWriter<W>, diff_id: &DiffId) -> Result<()> {
    let row = storage
        .layers()
        .row(diff_id)?
        .ok_or(crate::layer::LayerError::Missing(*diff_id))?;
    let path = blob_path(&diff_id.0);
    let entry = NewEntry::new(path.as_bytes(), EntryKind::File, 0o644, row.tar_size);
    tar.header(&entry).map_err(writing)?;
    storage.layers().write_tar(diff_id, tar.raw())?;
    tar.pad(row.tar_size).map_err(writing)?;
    Ok(())
}

fn directory<W: Write>(tar: &mut TarWriter<W>, path: &[u8]) -> Result<()> {
    let entry = NewEntry::new(path, EntryKind::Directory, 0o755, 0);
    Ok(tar.append(&entry, &mut io::empty()).map_err(writing)?)
}

fn file<W: Write>(tar: &mut TarWriter<W>, path: &str, bytes: &[u8]) -> Result<()> {
    let entry = NewEntry::new(path.as_bytes(), EntryKind::File, 0o644, bytes.len() as u64);
    Ok(tar.append(&entry, &mut &*bytes).map_err(writing)?)
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn to_bytes(value: &Value) -> Result<Vec<u8>> {
    let bytes = serde_json::to_vec(value);
    Ok(bytes.map_err(|source| ArchiveError::Json {
        file: "index.json".into(),
        source,
    })?)
}

fn writing(source: io::Error) -> ArchiveError {
    ArchiveError::Io {
        operation: "write image archive",
        source,
    }
}
