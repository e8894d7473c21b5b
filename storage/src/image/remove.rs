//! Removing names and images, with the rules and texts of Docker's `ImageDelete`.
//!
//! The decision is a pure function of the image's names, how it was addressed and who uses it.

use std::collections::BTreeSet;

use super::{Image, ImageError, ImageUse, RemoveOptions, Removed, catalog};
use crate::digest::{DiffId, ImageId, chain_ids};
use crate::error::{Error, Result};
use crate::metadata::Kind;
use crate::reference::Reference;
use crate::store::Storage;

type InUse<'a> = &'a dyn Fn(&ImageId) -> Option<ImageUse>;

/// What a removal comes to.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// Only these names go.
    Untag(Vec<Reference>),
    /// These names go, and the image with them.
    Delete(Vec<Reference>),
}

pub(super) fn remove(
    storage: &Storage,
    name: &str,
    options: RemoveOptions,
    in_use: InUse<'_>,
) -> Result<Vec<Removed>> {
    let image = catalog::get(storage, name)?;
    match plan(&image, name, options, in_use(&image.id))? {
        Plan::Untag(names) => untag(storage, &names),
        Plan::Delete(names) => delete(storage, &image, &names),
    }
}

pub(super) fn prune(
    storage: &Storage,
    selected: &dyn Fn(&Image) -> bool,
    in_use: InUse<'_>,
) -> Result<(Vec<Removed>, u64)> {
    let before = layer_bytes(storage)?;
    let mut removed = Vec::new();
    for image in catalog::list(storage)?
        .into_iter()
        .filter(|image| selected(image))
    {
        if in_use(&image.id).is_none() {
            removed.extend(delete(storage, &image, &all_names(&image))?);
        }
    }
    Ok((removed, before.saturating_sub(layer_bytes(storage)?)))
}

fn plan(
    image: &Image,
    name: &str,
    options: RemoveOptions,
    user: Option<ImageUse>,
) -> Result<Plan, ImageError> {
    let all = all_names(image);
    if is_id(image, name) {
        if !single_repository(&all) && !options.force {
            let reason = "image is referenced in multiple repositories".into();
            return Err(ImageError::Conflict {
                image: image.id.short(),
                reason,
            });
        }
        deletable(image, options, user.as_ref())?;
        return Ok(Plan::Delete(all));
    }
    let wanted = all
        .iter()
        .find(|reference| name.parse::<Reference>().is_ok_and(|r| r.tagged() == **reference));
    let Some(wanted) = wanted else {
        return Err(ImageError::NotFound(name.to_owned()));
    };
    if all.len() > 1 {
        return Ok(Plan::Untag(vec![wanted.clone()]));
    }
    match user {
        Some(user) if !options.force => Err(ImageError::ReferenceInUse {
            reference: name.to_owned(),
            container: user.container.chars().take(12).collect(),
            image: image.id.short(),
        }),
        // Docker: the last name goes, and the image stays without one for the container that runs from it.
        Some(user) if user.running => Ok(Plan::Untag(all)),
        _ => Ok(Plan::Delete(all)),
    }
}

fn deletable(image: &Image, options: RemoveOptions, user: Option<&ImageUse>) -> Result<(), ImageError> {
    let Some(user) = user else { return Ok(()) };
    let container: String = user.container.chars().take(12).collect();
    if user.running {
        let reason = format!("image is being used by running container {container}");
        return Err(ImageError::HardConflict {
            image: image.id.short(),
            reason,
        });
    }
    if !options.force {
        let reason = format!("image is being used by stopped container {container}");
        return Err(ImageError::Conflict {
            image: image.id.short(),
            reason,
        });
    }
    Ok(())
}

/// Whether the name addressed the image by (a prefix of) its ID and not by one of its names.
fn is_id(image: &Image, name: &str) -> bool {
    let by_name = name
        .parse::<Reference>()
        .is_ok_and(|r| all_names(image).contains(&r.tagged()));
    !by_name
        && image
            .id
            .hex()
            .starts_with(name.strip_prefix("sha256:").unwrap_or(name))
}

fn all_names(image: &Image) -> Vec<Reference> {
    image.refs.iter().chain(&image.digests).cloned().collect()
}

/// At most one tag, and all names in one repository.
fn single_repository(names: &[Reference]) -> bool {
    let repositories: BTreeSet<String> = names.iter().map(Reference::repository).collect();
    let tags = names.iter().filter(|name| name.tag().is_some()).count();
    repositories.len() <= 1 && tags <= 1
}

fn untag(storage: &Storage, names: &[Reference]) -> Result<Vec<Removed>> {
    storage.inner().metadata.update(|tx| {
        for name in names {
            tx.remove(Kind::References, &name.to_string())?;
        }
        Ok::<_, Error>(
            names
                .iter()
                .map(|name| Removed::Untagged(name.familiar()))
                .collect(),
        )
    })
}

fn delete(storage: &Storage, image: &Image, names: &[Reference]) -> Result<Vec<Removed>> {
    let mut removed = storage.inner().metadata.update(|tx| {
        for name in names {
            tx.remove(Kind::References, &name.to_string())?;
        }
        tx.remove(Kind::Images, &image.id.hex())?;
        Ok::<_, Error>(
            names
                .iter()
                .map(|name| Removed::Untagged(name.familiar()))
                .collect::<Vec<_>>(),
        )
    })?;
    removed.push(Removed::Deleted(image.id.to_string()));
    let collected = storage.gc()?.layers;
    removed.extend(deleted_layers(&image.layers, &collected));
    Ok(removed)
}

/// Docker names removed layers by chain ID, top first.
fn deleted_layers(layers: &[DiffId], collected: &[DiffId]) -> Vec<Removed> {
    let chain = chain_ids(layers);
    let gone = layers
        .iter()
        .zip(chain)
        .filter(|(layer, _)| collected.contains(layer));
    let mut removed: Vec<Removed> = gone
        .map(|(_, chain)| Removed::Deleted(chain.to_string()))
        .collect();
    removed.reverse();
    removed
}

fn layer_bytes(storage: &Storage) -> Result<u64> {
    let rows = storage
        .inner()
        .metadata
        .all::<crate::metadata::LayerRow>(Kind::Layers)?;
    Ok(rows.iter().map(|(_, row)| row.size).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::image::ImageConfiguration;

    fn image(names: &[&str]) -> Image {
        Image {
            id: ImageId(Digest::of(b"image")),
            config: ImageConfiguration::default(),
            refs: names.iter().map(|name| name.parse().unwrap()).collect(),
            digests: Vec::new(),
            manifest: None,
            created: String::new(),
            last_tagged: None,
            fetched: false,
            size: 0,
            layers: Vec::new(),
        }
    }

    fn used(running: bool) -> Option<ImageUse> {
        Some(ImageUse {
            container: "0123456789abcdef".into(),
            running,
        })
    }

    const FORCE: RemoveOptions = RemoveOptions {
        force: true,
        no_prune: false,
    };
    const GENTLE: RemoveOptions = RemoveOptions {
        force: false,
        no_prune: false,
    };

    #[test]
    fn one_of_two_names_is_only_untagged() {
        let image = image(&["a:1", "b:1"]);
        assert_eq!(
            plan(&image, "a:1", GENTLE, used(true)).unwrap(),
            Plan::Untag(vec!["a:1".parse().unwrap()])
        );
    }

    #[test]
    fn an_id_with_two_names_needs_force() {
        let image = image(&["a:1", "b:1"]);
        let id = image.id.short();
        let error = plan(&image, &id, GENTLE, None).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "conflict: unable to delete {id} (must be forced) - image is referenced in multiple repositories"
            )
        );
        assert!(matches!(plan(&image, &id, FORCE, None), Ok(Plan::Delete(names)) if names.len() == 2));
    }

    #[test]
    fn a_running_container_protects_its_image_even_from_force() {
        let image = image(&["a:1"]);
        let id = image.id.short();
        let error = plan(&image, &id, FORCE, used(true)).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "conflict: unable to delete {id} (cannot be forced) - image is being used by running container 0123456789ab"
            )
        );
        assert!(matches!(
            plan(&image, "a:1", FORCE, used(true)),
            Ok(Plan::Untag(_))
        ));
        let error = plan(&image, "a:1", GENTLE, used(false)).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "conflict: unable to remove repository reference \"a:1\" (must force) - container 0123456789ab is using its referenced image {id}"
            )
        );
        assert!(matches!(
            plan(&image, "a:1", FORCE, used(false)),
            Ok(Plan::Delete(_))
        ));
    }
}
