//! The OCI image layout: `index.json` → manifests → configurations and layers (OCI image specification).
//!
//! Every blob is checked against the size and digest of the descriptor that names it. A document that could be read
//! as a manifest and as an index, or that contradicts its descriptor's media type, is refused (CVE-2021-41190).

use serde::Deserialize;
use serde_json::Value;

use super::spool::Spool;
use super::{ArchiveError, Described, pair_layers};
use crate::digest::Digest;
use crate::image::config::host_architecture;
use crate::reference::Reference;

const INDEX: &str = "index.json";
const LAYOUT: &str = "oci-layout";
const NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Indexes inside indexes.
const MAX_DEPTH: usize = 4;

const MANIFEST_TYPES: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const CONFIG_TYPES: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];
const LAYER_TYPES: [&str; 5] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Debug, Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layout {
    image_layout_version: String,
}

/// The images of a layout: one per descriptor of `index.json`.
pub(super) fn describe(spool: &Spool) -> Result<Vec<Described>, ArchiveError> {
    let layout: Layout = spool.json(LAYOUT, "an OCI layout")?;
    if layout.image_layout_version != "1.0.0" {
        let reason = format!("unsupported layout version {:?}", layout.image_layout_version);
        return Err(unsupported(LAYOUT, reason));
    }
    let bytes = spool.bytes(INDEX, "an OCI layout")?;
    let index: Index = parse(INDEX, &bytes, None)?;
    let images = index
        .manifests
        .iter()
        .map(|descriptor| image(spool, descriptor, INDEX, 0));
    let mut images: Vec<Described> = images.collect::<Result<_, _>>()?;
    if images.is_empty() {
        return Err(unsupported(INDEX, "it lists no image".into()));
    }
    images.dedup_by(|next, kept| merge_names(kept, next));
    Ok(images)
}

/// The same image under two names is one image.
fn merge_names(kept: &mut Described, next: &mut Described) -> bool {
    if kept.config != next.config {
        return false;
    }
    kept.references.append(&mut next.references);
    true
}

/// The image behind a descriptor, through indexes for several platforms.
fn image(
    spool: &Spool,
    descriptor: &Descriptor,
    from: &str,
    depth: usize,
) -> Result<Described, ArchiveError> {
    let (file, bytes) = document(spool, descriptor, from)?;
    let media_type = descriptor.media_type.as_str();
    let mut image = if MANIFEST_TYPES.contains(&media_type) {
        manifest(spool, &file, bytes, media_type)?
    } else if INDEX_TYPES.contains(&media_type) && depth < MAX_DEPTH {
        let index: Index = parse(&file, &bytes, Some(media_type))?;
        image(spool, choose(&file, &index.manifests)?, &file, depth + 1)?
    } else {
        return Err(unsupported(
            from,
            format!("media type {media_type:?} is no image"),
        ));
    };
    image.references.extend(name(descriptor, from)?);
    Ok(image)
}

/// The manifest for this machine out of a multi-platform index.
fn choose<'a>(file: &str, manifests: &'a [Descriptor]) -> Result<&'a Descriptor, ArchiveError> {
    let fits = |d: &&Descriptor| {
        d.platform
            .as_ref()
            .is_none_or(|p| p.os == "linux" && p.architecture == host_architecture())
    };
    manifests.iter().find(fits).ok_or_else(|| {
        let offered: Vec<String> = manifests
            .iter()
            .filter_map(|d| d.platform.as_ref())
            .map(|p| format!("{}/{}", p.os, p.architecture))
            .collect();
        unsupported(
            file,
            format!(
                "no image for linux/{}, only for {}",
                host_architecture(),
                offered.join(", ")
            ),
        )
    })
}

fn manifest(spool: &Spool, file: &str, bytes: Vec<u8>, media_type: &str) -> Result<Described, ArchiveError> {
    let manifest: Manifest = parse(file, &bytes, Some(media_type))?;
    if !CONFIG_TYPES.contains(&manifest.config.media_type.as_str()) {
        let reason = format!(
            "it is no container image: its configuration is {:?}",
            manifest.config.media_type
        );
        return Err(unsupported(file, reason));
    }
    let (config_file, config) = document(spool, &manifest.config, file)?;
    let mut files = Vec::with_capacity(manifest.layers.len());
    for layer in &manifest.layers {
        if !LAYER_TYPES.contains(&layer.media_type.as_str()) {
            return Err(unsupported(
                file,
                format!("unsupported layer type {:?}", layer.media_type),
            ));
        }
        files.push(blob(spool, layer, file)?);
    }
    let layers = pair_layers(&config_file, &config, files)?;
    Ok(Described {
        config,
        manifest: Some(bytes),
        layers,
        references: Vec::new(),
    })
}

fn document(spool: &Spool, descriptor: &Descriptor, from: &str) -> Result<(String, Vec<u8>), ArchiveError> {
    let file = blob(spool, descriptor, from)?;
    let bytes = spool.bytes(&file, from)?;
    Ok((file, bytes))
}

/// The file of a blob, its size checked; reading it checks the digest.
fn blob(spool: &Spool, descriptor: &Descriptor, from: &str) -> Result<String, ArchiveError> {
    let digest: Digest = descriptor.digest.parse().map_err(|source| ArchiveError::Digest {
        file: from.to_owned(),
        source,
    })?;
    let file = format!("blobs/sha256/{}", digest.hex());
    match spool.size(&file) {
        None => Err(ArchiveError::Missing {
            file,
            wanted_by: from.to_owned(),
        }),
        Some(found) if found != descriptor.size => Err(ArchiveError::SizeMismatch {
            file,
            expected: descriptor.size,
            found,
        }),
        Some(_) => Ok(file),
    }
}

/// Parses a manifest or index, after checking that it can only be read as what its descriptor says.
fn parse<T: serde::de::DeserializeOwned>(
    file: &str,
    bytes: &[u8],
    media_type: Option<&str>,
) -> Result<T, ArchiveError> {
    let json = |source| ArchiveError::Json {
        file: file.to_owned(),
        source,
    };
    let value: Value = serde_json::from_slice(bytes).map_err(json)?;
    let has = |key: &str| value.get(key).is_some();
    let ambiguous = |reason: String| ArchiveError::Ambiguous {
        file: file.to_owned(),
        reason,
    };
    if has("manifests") && (has("layers") || has("config")) {
        return Err(ambiguous(
            "it has both \"manifests\" and \"layers\" or \"config\"".into(),
        ));
    }
    match (value.get("mediaType").and_then(Value::as_str), media_type) {
        (Some(inside), Some(outside)) if inside != outside => {
            return Err(ambiguous(format!(
                "it says it is {inside:?}, its descriptor {outside:?}"
            )));
        }
        _ => {}
    }
    serde_json::from_value(value).map_err(json)
}

/// The name in the descriptor's annotations: containerd's full name, or the specification's if it is one.
fn name(descriptor: &Descriptor, from: &str) -> Result<Option<Reference>, ArchiveError> {
    let full = descriptor.annotations.get(NAME);
    let short = descriptor
        .annotations
        .get(REF_NAME)
        .filter(|name| name.contains(['/', ':']));
    let Some(text) = full.or(short) else {
        return Ok(None);
    };
    let parsed: Result<Reference, _> = text.parse();
    match parsed {
        Ok(reference) => Ok(Some(reference.tagged())),
        Err(source) => Err(ArchiveError::Reference {
            file: from.to_owned(),
            source,
        }),
    }
}

fn unsupported(file: &str, reason: String) -> ArchiveError {
    ArchiveError::Unsupported {
        file: file.to_owned(),
        reason,
    }
}
