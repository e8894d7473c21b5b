//! Bringing an image here from the nodes that have it.
//!
//! Managers are asked first, then the others in random order; a node that has fetched an image serves it to the next. Each
//! layer is fetched once at a time, whoever needs it, from any of the sources; a source that fails or is busy is left for
//! another.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use hyper::StatusCode;
use hyper::header::CONTENT_ENCODING;
use proto::NodeId;
use rand::seq::SliceRandom;
use storage::{DiffId, Encoding, ImageId, Kind, Offer, Receiving, Reference, Storage};

use super::flights::Flights;
use super::images::{CONFIG, LAYER, MANIFEST, RESOLVE, ZSTD};
use super::resolve::{self, AT_ONCE, Resolved};
use super::wire::{self, WireError};
use crate::api::blocking::call;
use crate::api::error::ApiError;
use crate::peer::{CallError, Client, Peers};

/// Layers of an image that come in at once.
const LAYERS: usize = 3;
/// Sources that are looked for; more are no faster.
const SOURCES: usize = 4;
/// So often the sources are looked for anew when all have failed.
const ROUNDS: usize = 5;

/// An image could not be brought here.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody has it.
    #[error("No such image: {image}{}", asked(*nodes))]
    NotFound {
        /// As it was asked for.
        image: String,
        /// How many nodes said so, or nothing.
        nodes: usize,
    },
    /// Whoever has it did not give it.
    #[error("fetch image {image} from other nodes: {reason}")]
    Failed {
        /// As it was asked for.
        image: String,
        /// What the last of them said.
        reason: String,
    },
    /// It could not be kept here.
    #[error("keep image {image}: {reason}")]
    Keep {
        /// As it was asked for.
        image: String,
        /// Why.
        reason: ApiError,
    },
}

fn asked(nodes: usize) -> String {
    match nodes {
        0 => String::new(),
        1 => " (asked 1 node)".into(),
        nodes => format!(" (asked {nodes} nodes)"),
    }
}

/// Brings images here.
#[derive(Debug)]
pub struct Fetcher {
    storage: Storage,
    peers: Arc<Peers>,
    images: Flights<ImageId>,
    layers: Flights<DiffId>,
}

/// One image on its way.
struct Journey<'a> {
    fetcher: &'a Fetcher,
    client: Client,
    image: &'a str,
    id: ImageId,
    say: &'a (dyn Fn(String) + Send + Sync),
}

/// A node that has the image.
#[derive(Debug, Clone)]
struct Source {
    node: NodeId,
    name: String,
    offer: Offer,
}

impl Fetcher {
    /// Keeps images in `storage`.
    pub fn new(storage: Storage, peers: Arc<Peers>) -> Self {
        Self {
            storage,
            peers,
            images: Flights::default(),
            layers: Flights::default(),
        }
    }

    /// Returns when the image is here. `say` is told what is being done, if anything is.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn ensure(&self, image: &str, say: &(dyn Fn(String) + Send + Sync)) -> Result<(), FetchError> {
        if self.is_here(image).await {
            return Ok(());
        }
        let missing = |nodes| FetchError::NotFound {
            image: shown(image),
            nodes,
        };
        let client = self.peers.client().ok_or_else(|| missing(0))?;
        let (id, named) = match resolve::pin_of(image) {
            Some(id) => (id, None),
            // What a name means is the managers' to say.
            None => {
                let resolved = self.by_managers(&client, image).await?;
                (resolved.id, resolved.named)
            }
        };
        let _alone = self.images.board(id).await;
        let journey = Journey {
            fetcher: self,
            client,
            image,
            id,
            say,
        };
        let named = match self.is_here(&id.to_string()).await {
            true => named,
            false => journey.fetch().await?.or(named),
        };
        self.give_name(image, id, named).await
    }

    async fn is_here(&self, image: &str) -> bool {
        let (storage, image) = (self.storage.clone(), image.to_owned());
        let found = call(move || match storage.images().get(&image) {
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            // Another failure is met again, and told, by whoever uses the image.
            _ => Ok::<_, ApiError>(true),
        });
        found.await.unwrap_or(true)
    }

    /// What the name means, by this node's word if it is a manager.
    async fn by_managers(&self, client: &Client, image: &str) -> Result<Resolved, FetchError> {
        let is_manager = |node: &NodeId| {
            let peer = client.members().get(node);
            peer.is_some_and(|peer| peer.role == proto::spec::NodeRole::Manager)
        };
        if is_manager(&client.node())
            && let Some(resolved) = resolve::resolve(&self.storage, Some(client), None, image).await
        {
            return Ok(resolved);
        }
        let others = resolve::others(client);
        let path = wire::path(RESOLVE, "name", image);
        for node in others.iter().filter(|node| is_manager(node)) {
            if let Ok(resolved) = wire::json(client, node, &path).await {
                return Ok(resolved);
            }
        }
        Err(FetchError::NotFound {
            image: shown(image),
            nodes: others.len(),
        })
    }

    async fn give_name(&self, image: &str, id: ImageId, named: Option<String>) -> Result<(), FetchError> {
        let Some(reference) = name_of(image) else {
            return Ok(());
        };
        let storage = self.storage.clone();
        let given = call(move || storage.images().name_fetched(&id, &reference, named.as_deref()));
        given.await.map(drop).map_err(|reason| keep(image, reason))
    }
}

impl Journey<'_> {
    /// Fetches; when its name was given to it where it comes from.
    async fn fetch(&self) -> Result<Option<String>, FetchError> {
        let mut reason = None;
        let mut failures = 0;
        while failures < ROUNDS {
            let sources = self.sources().await;
            let Some(first) = sources.first() else { break };
            (self.say)(format!(
                "fetching image {} from {}",
                shown(self.image),
                first.name
            ));
            match self.fetch_from(&sources).await {
                Ok(named) => return Ok(named),
                Err(Trouble::Here(error)) => return Err(keep(self.image, error)),
                // They have let us wait for a place; by now others have the image.
                Err(Trouble::Busy) => {}
                Err(Trouble::There(error)) => {
                    failures += 1;
                    tracing::debug!(image = self.image, "a source of the image failed: {error}");
                    reason = Some(error);
                }
            }
        }
        Err(match reason {
            Some(reason) => FetchError::Failed {
                image: shown(self.image),
                reason,
            },
            None => FetchError::NotFound {
                image: shown(self.image),
                nodes: resolve::others(&self.client).len(),
            },
        })
    }

    /// Some nodes that have the image, in random order.
    async fn sources(&self) -> Vec<Source> {
        let client = &self.client;
        let id = self.id.to_string();
        let asked = futures::stream::iter(resolve::others(client)).map(|node| {
            let id = id.clone();
            async move {
                let offer = resolve::ask(client, &node, &id).await?;
                let name = client.members().get(&node)?.hostname;
                Some(Source { node, name, offer })
            }
        });
        let found = asked.buffer_unordered(AT_ONCE).filter_map(futures::future::ready);
        let mut found: Vec<Source> = found.take(SOURCES).collect().await;
        found.retain(|source| source.offer.id == self.id);
        found.shuffle(&mut rand::rng());
        found
    }

    async fn fetch_from(&self, sources: &[Source]) -> Result<Option<String>, Trouble> {
        let receiving = Arc::new(self.begin(sources).await?);
        let missing = {
            let receiving = receiving.clone();
            call(move || receiving.missing()).await.map_err(Trouble::Here)?
        };
        futures::stream::iter(missing.into_iter().map(Ok))
            .try_for_each_concurrent(LAYERS, |layer| self.layer(sources, &receiving, layer))
            .await?;
        // All layers are in: nobody else holds it.
        let receiving =
            Arc::into_inner(receiving).ok_or_else(|| Trouble::There("a layer is still on its way".into()))?;
        call(move || receiving.finish()).await.map_err(Trouble::Here)?;
        // Sources that have the image under this name say since when.
        let named = sources.iter().filter_map(|source| source.offer.named.clone());
        Ok(named.max())
    }

    /// The documents, from the first source that gives them.
    async fn begin(&self, sources: &[Source]) -> Result<Receiving, Trouble> {
        let mut trouble = Trouble::There("no source".into());
        for source in sources {
            match self.documents(source).await {
                Ok((config, manifest)) => {
                    let (storage, id) = (self.fetcher.storage.clone(), self.id);
                    let begun = call(move || storage.images().receive(id, config, manifest));
                    match begun.await {
                        Ok(receiving) => return Ok(receiving),
                        Err(refused) => trouble = self.of_sent(source, refused),
                    }
                }
                Err(error) => trouble = self.of_wire(source, &error),
            }
        }
        Err(trouble)
    }

    async fn documents(&self, source: &Source) -> Result<(Vec<u8>, Option<Vec<u8>>), WireError> {
        let id = self.id.to_string();
        let config = wire::document(&self.client, &source.node, &wire::path(CONFIG, "id", &id)).await?;
        if source.offer.manifest.is_none() {
            return Ok((config.into(), None));
        }
        let manifest = wire::document(&self.client, &source.node, &wire::path(MANIFEST, "id", &id)).await?;
        Ok((config.into(), Some(manifest.into())))
    }

    /// One layer from any source, unless somebody has brought it meanwhile.
    async fn layer(
        &self,
        sources: &[Source],
        receiving: &Arc<Receiving>,
        layer: DiffId,
    ) -> Result<(), Trouble> {
        let _alone = self.fetcher.layers.board(layer).await;
        let known = receiving.clone();
        if call(move || known.has(&layer)).await.map_err(Trouble::Here)? {
            return Ok(());
        }
        let mut trouble = Trouble::There("no source".into());
        for source in sources {
            match self.layer_from(source, receiving, layer).await {
                Err(Trouble::Here(error)) => return Err(Trouble::Here(error)),
                Err(other) => trouble = other,
                Ok(()) => return Ok(()),
            }
        }
        Err(trouble)
    }

    async fn layer_from(
        &self,
        source: &Source,
        receiving: &Arc<Receiving>,
        layer: DiffId,
    ) -> Result<(), Trouble> {
        let path = wire::path(LAYER, "id", &layer.to_string());
        let answer = wire::get(&self.client, &source.node, &path).await;
        let answer = answer.map_err(|error| self.of_wire(source, &error.into()))?;
        let encoding = match answer.headers().get(CONTENT_ENCODING) {
            Some(word) if word == ZSTD => Encoding::Zstd,
            _ => Encoding::Plain,
        };
        let (mut body, _guard) = wire::reader(answer.into_body());
        let receiving = receiving.clone();
        let taken = call(move || receiving.layer(layer, encoding, &mut body)).await;
        taken.map(drop).map_err(|refused| self.of_sent(source, refused))
    }

    fn of_wire(&self, source: &Source, error: &WireError) -> Trouble {
        if let WireError::Call(CallError::Refused { status, .. }) = error
            && *status == StatusCode::SERVICE_UNAVAILABLE
        {
            return Trouble::Busy;
        }
        Trouble::There(format!(
            "node {}: {}",
            source.name,
            crate::api::error::chain(error)
        ))
    }

    /// What was sent could not be taken in: a full disk is ours, everything else another source may do better.
    fn of_sent(&self, source: &Source, refused: ApiError) -> Trouble {
        match refused.status {
            StatusCode::INSUFFICIENT_STORAGE => Trouble::Here(refused),
            _ => Trouble::There(format!("node {}: {refused}", source.name)),
        }
    }
}

/// Why a fetch did not succeed.
enum Trouble {
    /// No other source would help.
    Here(ApiError),
    /// Too many fetch from it at once.
    Busy,
    /// Another might.
    There(String),
}

/// The name in a reference, without its digest.
fn name_of(image: &str) -> Option<Reference> {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let is_id = resolve::pin_of(name).is_some();
    name.parse::<Reference>()
        .ok()
        .filter(|_| !is_id)
        .map(|name| name.tagged())
}

/// As people write it: the name where there is one.
fn shown(image: &str) -> String {
    name_of(image).map_or_else(|| image.to_owned(), |name| name.familiar())
}

fn keep(image: &str, reason: ApiError) -> FetchError {
    FetchError::Keep {
        image: shown(image),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_have_it_is_counted() {
        let error = |image: &str, nodes| {
            let image = shown(image);
            FetchError::NotFound { image, nodes }.to_string()
        };
        let pinned = format!("web:1@sha256:{}", "a".repeat(64));
        assert_eq!(error(&pinned, 3), "No such image: web:1 (asked 3 nodes)");
        assert_eq!(error("web", 1), "No such image: web:latest (asked 1 node)");
        assert_eq!(error("web", 0), "No such image: web:latest");
    }

    #[test]
    fn a_name_that_is_a_digest_alone_names_nothing() {
        let id = format!("sha256:{}", "a".repeat(64));
        assert_eq!(name_of(&id), None);
        assert_eq!(name_of(&format!("web@{id}")).unwrap().familiar(), "web:latest");
    }
}
