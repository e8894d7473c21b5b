//! What a node tells over time: its answer to a request at the port between nodes, item by item, until the node goes away.

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use http_body_util::BodyExt;
use manager::state::{Change, Event, Filter, Kind, Reader, Store};
use proto::object::NodeState;
use proto::{Node, NodeId};
use tokio::time::timeout;
use tokio_util::codec::{Decoder, FramedRead};
use tokio_util::io::StreamReader;

use super::error::chain;
use crate::peer::Client;

/// A node begins to answer within this time, connecting included, or is not waited for.
const ANSWER: Duration = Duration::from_secs(6);

/// The end of what a node tells, before it was all told.
#[derive(Debug)]
pub(super) struct Lost;

/// What a node answers. The last item is [`Lost`] if the node is not there, or goes away meanwhile.
pub(super) fn open<D>(
    client: &Client,
    store: &Store,
    node: NodeId,
    request: Request<Body>,
    decoder: D,
) -> BoxStream<'static, Result<D::Item, Lost>>
where
    D: Decoder<Item: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let (client, store) = (client.clone(), store.clone());
    let items = async move {
        if is_down(&store, &node) {
            return stream::iter([Err(Lost)]).boxed();
        }
        match timeout(ANSWER, client.ask(&node, request)).await {
            Ok(Ok(answer)) => {
                let bytes = answer.into_body().into_data_stream().map_err(io::Error::other);
                let items = FramedRead::new(StreamReader::new(bytes), decoder);
                until_down(items.map_err(io::Error::other), &store, node).boxed()
            }
            Ok(Err(error)) => lost(&node, &chain(&error)),
            Err(_) => lost(&node, "it does not answer"),
        }
    };
    stream::once(items).flatten().boxed()
}

/// Whether the managers have given the node up, or it is none of the cluster's.
pub(super) fn is_down(store: &Store, node: &NodeId) -> bool {
    let node = store.view(|tx| tx.get::<Node>(node));
    node.is_none_or(|node| matches!(node.status.state, NodeState::Down | NodeState::Disconnected))
}

fn lost<T: Send + 'static>(node: &NodeId, why: &str) -> BoxStream<'static, Result<T, Lost>> {
    tracing::info!(node.id = %node, "the node is not asked: {why}");
    stream::iter([Err(Lost)]).boxed()
}

/// A node may stop speaking while its kernel keeps the connection: what the managers think of it counts too.
fn until_down<T: Send + 'static>(
    items: impl Stream<Item = io::Result<T>> + Send + 'static,
    store: &Store,
    node: NodeId,
) -> impl Stream<Item = Result<T, Lost>> + Send + 'static {
    let down = Box::pin(down(store, node.clone()));
    let state = Some((Box::pin(items), down));
    stream::unfold(state, move |state| {
        let node = node.clone();
        async move {
            let (mut items, mut down) = state?;
            let next = tokio::select! {
                biased;
                next = items.next() => next?,
                () = &mut down => Err(io::Error::other("it is down")),
            };
            match next {
                Ok(item) => Some((Ok(item), Some((items, down)))),
                Err(error) => {
                    tracing::info!(node.id = %node, "the node has stopped telling: {error}");
                    Some((Err(Lost), None))
                }
            }
        }
    })
}

/// Returns when the managers give the node up.
fn down(store: &Store, node: NodeId) -> impl Future<Output = ()> + Send + 'static {
    let only = {
        let node = node.clone();
        move |event: &Event| matches!(event, Event::Node(change) if change.object().id == node)
    };
    let mut changes = store.watch(Filter::kinds(&[Kind::Node]).only(only));
    let mut gone = is_down(store, &node);
    async move {
        while !gone {
            gone = match changes.next().await {
                Some(Event::Node(Change::Remove(_))) => true,
                Some(Event::Node(change)) => change.object().status.state == NodeState::Down,
                Some(_) => false,
                None => std::future::pending().await,
            };
        }
    }
}
