//! `GET /events?cluster=1` on a manager: what happens on every node, and in the cluster, as one stream.
//!
//! Each event of a node bears the node's name, as attribute `node.name`. A node that is not there makes the answer partial:
//! an event `node unreachable` says so, whatever the filters.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use futures::stream::{self, BoxStream, FuturesUnordered};
use futures::{Stream, StreamExt};
use manager::state::{Filter, Kind, Reader, Store, WatchStream};
use proto::{Node, NodeId};
use time::OffsetDateTime;
use tokio_util::codec::LinesCodec;

use super::error::ApiResult;
use super::events::{Span, line, local, nanoseconds};
use super::listening::{From, Subject, listen};
use super::node_stream::{self, Lost};
use super::params::Params;
use super::state::App;
use super::stream::{JSON, streaming};
use super::types::event::{Actor, EventMessage};
use crate::engine::Engine;
use crate::peer::Client;

/// Where nodes tell managers what happens on them.
pub(crate) const NODE_PATH: &str = "/v1/events";
/// The attribute that says on which node.
const NODE_NAME: &str = "node.name";
/// What happens to a node that cannot be asked.
pub(super) const UNREACHABLE: &str = "unreachable";
/// A longer line is no event.
const LONGEST: usize = 1 << 20;

/// `GET /v1/events` at the port between nodes: what happens on this node alone.
///
/// # Errors
/// A moment that is none.
pub(crate) async fn of_node(State(app): State<App>, params: Params) -> ApiResult<Response> {
    let events = local(&app.engine, Span::of(&params)?);
    let own = events.filter(|event| std::future::ready(event.scope == "local"));
    Ok(streaming(JSON, own.map(|event| line(&event))))
}

/// The events of every node. Of a span that is over, in order of time; then it ends, with what is missing.
///
/// # Errors
/// On a node that is no manager.
pub(super) fn events(app: &App, span: Span) -> ApiResult<BoxStream<'static, EventMessage>> {
    let (manager, client) = app.manager()?;
    let nodes = Nodes {
        engine: app.engine.clone(),
        store: manager.store().clone(),
        client,
    };
    Ok(match span.is_over() {
        true => stream::once(nodes.past(span)).flat_map(stream::iter).boxed(),
        false => nodes.live(span).boxed(),
    })
}

/// What is needed to ask every node.
struct Nodes {
    engine: Arc<Engine>,
    store: Store,
    client: Client,
}

impl Nodes {
    async fn past(self, span: Span) -> Vec<EventMessage> {
        let parts = self.all().into_iter().map(|node| {
            let part = self.part(&node, span);
            async move { (node, part.collect::<Vec<_>>().await) }
        });
        let parts: Vec<_> = parts.collect::<FuturesUnordered<_>>().collect().await;
        let (mut told, mut missing) = (Vec::new(), Vec::new());
        for (node, events) in parts {
            if events.iter().any(Result::is_err) {
                missing.push(unreachable(&node.id, node.description.hostname.clone()));
            }
            told.extend(events.into_iter().flatten());
        }
        told.sort_by_key(|event| event.time_nano);
        told.extend(missing);
        told
    }

    fn live(self, span: Span) -> impl Stream<Item = EventMessage> {
        let live = Live {
            nodes: self,
            span,
            begun: now(),
        };
        listen(live).take_until(span.end())
    }

    fn all(&self) -> Vec<Arc<Node>> {
        self.store.view(|tx| tx.all::<Node>())
    }

    fn get(&self, node: &NodeId) -> Option<Arc<Node>> {
        self.store.view(|tx| tx.get::<Node>(node))
    }

    /// What happens on one node.
    fn part(&self, node: &Node, span: Span) -> BoxStream<'static, Result<EventMessage, Lost>> {
        let name = node.description.hostname.clone();
        let named = move |mut event: EventMessage| {
            if event.scope == "local" {
                event.actor.attributes.insert(NODE_NAME.to_owned(), name.clone());
            }
            event
        };
        if node.id == self.client.node() {
            return local(&self.engine, span).map(named).map(Ok).boxed();
        }
        let mut request = Request::new(Body::empty());
        // Numbers alone: there is nothing in it that is not allowed.
        *request.uri_mut() = format!("{NODE_PATH}?{}", span.query())
            .parse()
            .unwrap_or_default();
        let codec = LinesCodec::new_with_max_length(LONGEST);
        let lines = node_stream::open(&self.client, &self.store, node.id.clone(), request, codec);
        let read = move |line: Result<String, Lost>| {
            let event = line.map(|line| serde_json::from_str(&line).ok().map(&named));
            // What this version does not understand is no news.
            std::future::ready(event.transpose())
        };
        lines.filter_map(read).boxed()
    }
}

/// What happens from now on.
struct Live {
    nodes: Nodes,
    span: Span,
    /// When it began (Unix ns).
    begun: i64,
}

impl Subject for Live {
    type Item = EventMessage;
    /// Unix ns.
    type Moment = i64;

    fn own(&self) -> NodeId {
        self.nodes.client.node()
    }

    fn store(&self) -> &Store {
        &self.nodes.store
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.nodes.all().iter().map(|node| node.id.clone()).collect()
    }

    fn changes(&self) -> WatchStream {
        self.nodes.store.watch(Filter::kinds(&[Kind::Node]))
    }

    fn part(&self, node: &NodeId, from: From<i64>) -> BoxStream<'static, Result<EventMessage, Lost>> {
        let span = match from {
            From::Beginning | From::Arrival => self.span,
            From::Return(last) => self.span.beginning(last.map_or(self.begun, |last| last + 1)),
        };
        match self.nodes.get(node) {
            Some(node) => self.nodes.part(&node, span),
            // Removed meanwhile.
            None => stream::empty().boxed(),
        }
    }

    fn moment(event: &EventMessage) -> i64 {
        event.time_nano
    }

    fn missing(&self, node: &NodeId) -> Option<EventMessage> {
        let found = self.nodes.get(node);
        // It may be removed by now.
        let name = found.map_or_else(|| node.to_string(), |node| node.description.hostname.clone());
        Some(unreachable(node, name))
    }
}

fn unreachable(node: &NodeId, name: String) -> EventMessage {
    let nanoseconds = now();
    EventMessage {
        kind: "node".into(),
        action: UNREACHABLE.into(),
        actor: Actor {
            id: node.to_string(),
            attributes: BTreeMap::from([("name".to_owned(), name)]),
        },
        scope: "swarm".into(),
        time: nanoseconds / 1_000_000_000,
        time_nano: nanoseconds,
        ..EventMessage::default()
    }
}

fn now() -> i64 {
    nanoseconds(OffsetDateTime::now_utc())
}
