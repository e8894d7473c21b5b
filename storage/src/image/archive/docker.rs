//! The docker archive: `manifest.json` lists images, each with a configuration file, names and layer files.

use serde::Deserialize;

use super::spool::Spool;
use super::{ArchiveError, Described, pair_layers};
use crate::reference::Reference;

const MANIFEST: &str = "manifest.json";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// The images of a docker archive.
pub(super) fn describe(spool: &Spool) -> Result<Vec<Described>, ArchiveError> {
    let items: Vec<Item> = spool.json(MANIFEST, "a docker archive")?;
    items.into_iter().map(|item| describe_one(spool, item)).collect()
}

fn describe_one(spool: &Spool, item: Item) -> Result<Described, ArchiveError> {
    let config = spool.bytes(&item.config, MANIFEST)?;
    let layers = pair_layers(&item.config, &config, item.layers.unwrap_or_default())?;
    for (_, file) in &layers {
        if !spool.contains(file) {
            return Err(ArchiveError::Missing {
                file: file.clone(),
                wanted_by: MANIFEST.into(),
            });
        }
    }
    let parse = |name: &String| -> Result<Reference, ArchiveError> {
        let parsed = name.parse::<Reference>();
        parsed
            .map(|reference| reference.tagged())
            .map_err(|source| ArchiveError::Reference {
                file: MANIFEST.into(),
                source,
            })
    };
    let references = item
        .repo_tags
        .iter()
        .flatten()
        .map(parse)
        .collect::<Result<_, _>>()?;
    Ok(Described {
        config,
        manifest: None,
        layers,
        references,
    })
}
