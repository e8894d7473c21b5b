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
use manager::state::{Filter, Kind, Reader, Store};
use proto::{Node, NodeId};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::codec::LinesCodec;

use super::error::ApiResult;
use super::events::{Span, line, local, nanoseconds};
use super::node_stream::{self, Lost, is_down};
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
/// Events in flight from the nodes to the client.
const DEPTH: usize = 256;

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
                missing.push(unreachable(&node));
            }
            told.extend(events.into_iter().flatten());
        }
        told.sort_by_key(|event| event.time_nano);
        told.extend(missing);
        told
    }

    fn live(self, span: Span) -> impl Stream<Item = EventMessage> {
        let (sender, receiver) = mpsc::channel(DEPTH);
        let (ended, ends) = mpsc::channel(DEPTH);
        let listening = Listening {
            nodes: self,
            span,
            begun: now(),
            sender,
            known: BTreeMap::new(),
            ended,
            ends,
        };
        tokio::spawn(listening.run());
        ReceiverStream::new(receiver).take_until(span.end())
    }

    fn all(&self) -> Vec<Arc<Node>> {
        self.store.view(|tx| tx.all::<Node>())
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

/// All nodes as they tell, also those that come later.
struct Listening {
    nodes: Nodes,
    span: Span,
    /// When it began (Unix ns).
    begun: i64,
    sender: mpsc::Sender<EventMessage>,
    known: BTreeMap<NodeId, Known>,
    ended: mpsc::Sender<End>,
    ends: mpsc::Receiver<End>,
}

/// A node has stopped telling.
struct End {
    node: Arc<Node>,
    /// When its last event was (Unix ns).
    last: Option<i64>,
    lost: bool,
}

/// A node that has been asked.
#[derive(Default)]
struct Known {
    open: bool,
    /// Somebody was told that it is missing.
    noted: bool,
    /// It is heard from here on (Unix ns), once it has been lost.
    from: Option<i64>,
}

impl Listening {
    /// Returns when nobody listens any more, or the store is gone.
    async fn run(mut self) {
        let mut changes = self.nodes.store.watch(Filter::kinds(&[Kind::Node]));
        self.ask().await;
        loop {
            tokio::select! {
                () = self.sender.closed() => return,
                change = changes.next() => {
                    if change.is_none() {
                        return;
                    }
                    while changes.try_next().is_some() {}
                    self.ask().await;
                }
                Some(End { node, last, lost }) = self.ends.recv() => {
                    let known = self.known.entry(node.id.clone()).or_default();
                    known.open = false;
                    known.from = last.map(|last| last + 1).or(known.from).or(Some(self.begun));
                    if lost {
                        self.note(&node).await;
                    }
                }
            }
        }
    }

    async fn ask(&mut self) {
        for node in self.nodes.all() {
            let known = self.known.entry(node.id.clone()).or_default();
            if known.open {
                continue;
            }
            if node.id != self.nodes.client.node() && is_down(&self.nodes.store, &node.id) {
                self.note(&node).await;
                continue;
            }
            (known.open, known.noted) = (true, false);
            let span = known.from.map_or(self.span, |from| self.span.beginning(from));
            let part = self.nodes.part(&node, span);
            tokio::spawn(forward(part, node, self.sender.clone(), self.ended.clone()));
        }
    }

    async fn note(&mut self, node: &Node) {
        let known = self.known.entry(node.id.clone()).or_default();
        if !std::mem::replace(&mut known.noted, true) {
            // Nobody listens any more: noticed by the loop.
            let _ = self.sender.send(unreachable(node)).await;
        }
    }
}

async fn forward(
    mut part: BoxStream<'static, Result<EventMessage, Lost>>,
    node: Arc<Node>,
    sender: mpsc::Sender<EventMessage>,
    ended: mpsc::Sender<End>,
) {
    let mut last = None;
    let lost = loop {
        let next = tokio::select! {
            () = sender.closed() => return,
            next = part.next() => next,
        };
        match next {
            Some(Ok(event)) => {
                last = Some(event.time_nano);
                if sender.send(event).await.is_err() {
                    return;
                }
            }
            Some(Err(Lost)) => break true,
            None => break false,
        }
    };
    // The listener may have ended first.
    let _ = ended.send(End { node, last, lost }).await;
}

fn unreachable(node: &Node) -> EventMessage {
    let name = node.description.hostname.clone();
    let nanoseconds = now();
    EventMessage {
        kind: "node".into(),
        action: UNREACHABLE.into(),
        actor: Actor {
            id: node.id.to_string(),
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
