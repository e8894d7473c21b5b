//! Which image a name means in the cluster.
//!
//! Each node has its own names, and the same name may be on different images. A service runs one: which, is said once, by
//! a manager, when the service is created or updated; its tasks carry the image's ID (`web:1@sha256:…`) wherever they go.
//!
//! The image that somebody loaded, built or named at the manager he speaks to is meant; else the one that was named last
//! anywhere. A copy that only travelled to a node says nothing about what its name means now, unless there is nothing else.

use std::time::Duration;

use futures::StreamExt;
use proto::NodeId;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use storage::{Digest, ImageId, Offer, Reference, Storage};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::timeout;

use super::images::{OFFER, own_offer};
use super::wire;
use crate::api::error::chain;
use crate::peer::Client;

/// Nodes that are asked at once.
pub(super) const AT_ONCE: usize = 16;
/// A node has so long to say what it has; nobody waits for one that is lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// The image that is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// Its ID.
    pub id: ImageId,
    /// When it was given the name, RFC 3339.
    pub named: Option<String>,
}

impl From<Offer> for Resolved {
    fn from(offer: Offer) -> Self {
        Self {
            id: offer.id,
            named: offer.named,
        }
    }
}

/// Finds what `name` means. `through` is the node at which it was asked, if that is another.
pub async fn resolve(
    storage: &Storage,
    client: Option<&Client>,
    through: Option<&NodeId>,
    name: &str,
) -> Option<Resolved> {
    if let (Some(through), Some(client)) = (through, client)
        && let Some(offer) = ask(client, through, name).await
        && !offer.fetched
    {
        return Some(offer.into());
    }
    let own = own_offer(storage, name).await.ok();
    if let Some(own) = own.as_ref().filter(|own| !own.fetched) {
        return Some(own.clone().into());
    }
    let mut offers: Vec<Offer> = own.into_iter().collect();
    if let Some(client) = client {
        let asked =
            futures::stream::iter(others(client)).map(|node| async move { ask(client, &node, name).await });
        let answers: Vec<Option<Offer>> = asked.buffer_unordered(AT_ONCE).collect().await;
        offers.extend(answers.into_iter().flatten());
    }
    best(offers).map(Resolved::from)
}

/// What a service's image becomes: the name with the ID behind it. `None` for what names an image by its digest already.
pub fn to_pin(image: &str) -> Option<Reference> {
    let reference: Reference = image.parse().ok()?;
    reference.digest().is_none().then(|| reference.tagged())
}

/// The reference with the image that it means.
pub fn pinned(reference: &Reference, id: &ImageId) -> String {
    format!("{}@{id}", reference.familiar())
}

/// The ID in a pinned reference, or in one that is nothing else.
pub fn pin_of(image: &str) -> Option<ImageId> {
    let digest: Result<Digest, _> = match image.split_once('@') {
        Some((_, digest)) => digest.parse(),
        None => image.parse(),
    };
    digest.ok().map(ImageId)
}

/// All other nodes: managers first, each kind in random order.
pub(super) fn others(client: &Client) -> Vec<NodeId> {
    let own = client.node();
    let mut nodes = client.members().all();
    nodes.retain(|node| node.node_id != own);
    nodes.shuffle(&mut rand::rng());
    nodes.sort_by_key(|node| node.role != proto::spec::NodeRole::Manager);
    nodes.into_iter().map(|node| node.node_id).collect()
}

/// What a node offers under a name; `None` also where it does not answer in time.
pub(super) async fn ask(client: &Client, node: &NodeId, name: &str) -> Option<Offer> {
    let path = wire::path(OFFER, "name", name);
    let asked = wire::json(client, node, &path);
    match timeout(PATIENCE, asked).await {
        Ok(Ok(offer)) => Some(offer),
        Ok(Err(error)) => {
            tracing::debug!(%node, name, "the node offers no image: {}", chain(&error));
            None
        }
        Err(_) => {
            tracing::debug!(%node, name, "the node does not say in time what it offers");
            None
        }
    }
}

fn best(offers: Vec<Offer>) -> Option<Offer> {
    let named = |offer: &Offer| {
        let named = offer.named.as_deref();
        named.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok())
    };
    offers
        .into_iter()
        .max_by_key(|offer| (!offer.fetched, named(offer), offer.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(id: &str, named: &str, fetched: bool) -> Offer {
        Offer {
            id: ImageId(Digest::of(id.as_bytes())),
            manifest: None,
            layers: Vec::new(),
            named: Some(named.to_owned()),
            fetched,
        }
    }

    fn chosen(offers: &[Offer]) -> ImageId {
        best(offers.to_vec()).unwrap().id
    }

    #[test]
    fn the_last_name_counts_and_a_copy_only_alone() {
        let old = offer("old", "2024-01-01T00:00:00Z", false);
        let new = offer("new", "2024-01-01T00:00:00.5Z", false);
        let copy = offer("copy", "2025-01-01T00:00:00Z", true);
        assert_eq!(chosen(&[old.clone(), new.clone(), copy.clone()]), new.id);
        assert_eq!(chosen(&[new.clone(), old.clone()]), new.id);
        assert_eq!(chosen(std::slice::from_ref(&copy)), copy.id);
        assert!(best(Vec::new()).is_none());
    }

    #[test]
    fn pins_are_written_and_read() {
        let id = ImageId(Digest::of(b"x"));
        let reference = to_pin("web").unwrap();
        let text = pinned(&reference, &id);
        assert_eq!(text, format!("web:latest@{id}"));
        assert_eq!(pin_of(&text), Some(id));
        assert_eq!(pin_of(&id.to_string()), Some(id));
        assert_eq!((pin_of("web:1"), to_pin(&text)), (None, None));
        assert_eq!(to_pin(&id.hex()), None);
    }
}
