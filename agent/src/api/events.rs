//! `GET /events`: what happened and what happens, one JSON object per line; on this node, or with `cluster=1` on every one.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use time::OffsetDateTime;
use tokio::sync::broadcast::error::RecvError;

use super::cluster_events;
use super::error::ApiResult;
use super::filters::Filters;
use super::params::Params;
use super::state::App;
use super::stream::{JSON, streaming};
use super::time::moment;
use super::types::event::EventMessage;
use crate::engine::Engine;

const FILTERS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// Filters that name an object of the type they are called after.
const OBJECTS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "image",
    "network",
    "node",
    "plugin",
    "secret",
    "service",
    "volume",
];

/// Routes of this module.
pub fn routes() -> Router<App> {
    Router::new().route("/events", get(events))
}

async fn events(State(app): State<App>, params: Params) -> ApiResult<Response> {
    let filters = params.filters(FILTERS)?;
    let span = Span::of(&params)?;
    let all = match params.flag("cluster") {
        true => cluster_events::events(&app, span)?,
        false => local(&app.engine, span).boxed(),
    };
    let wanted = all.filter(move |event| futures::future::ready(accepts(&filters, event)));
    Ok(streaming(JSON, wanted.map(|event| line(&event))))
}

/// From when to when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// Unix ns; without it nothing is replayed.
    since: Option<i64>,
    until: Option<OffsetDateTime>,
}

impl Span {
    /// `since` and `until` of a request.
    pub(super) fn of(params: &Params) -> ApiResult<Self> {
        let since = params.filled("since").map(moment).transpose()?;
        Ok(Self {
            since: since.map(nanoseconds),
            until: params.filled("until").map(moment).transpose()?,
        })
    }

    /// As [`Span::of`] reads it.
    pub(super) fn query(&self) -> String {
        let since = self.since.map(|since| ("since", since));
        let until = self.until.map(|until| ("until", nanoseconds(until)));
        let parts = since.into_iter().chain(until).map(|(key, moment)| {
            let (seconds, rest) = (moment.div_euclid(1_000_000_000), moment.rem_euclid(1_000_000_000));
            format!("{key}={seconds}.{rest:09}")
        });
        parts.collect::<Vec<_>>().join("&")
    }

    /// The same from a later moment on (Unix ns).
    pub(super) fn beginning(self, since: i64) -> Self {
        Self {
            since: Some(since),
            ..self
        }
    }

    /// Whether nothing can happen in it any more.
    pub(super) fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= OffsetDateTime::now_utc())
    }

    /// Returns when it is over.
    pub(super) async fn end(self) {
        match self.until {
            None => std::future::pending().await,
            Some(until) => {
                let rest = Duration::try_from(until - OffsetDateTime::now_utc()).unwrap_or_default();
                tokio::time::sleep(rest).await;
            }
        }
    }
}

/// What happened and happens on this node, and on a manager in the cluster.
pub(super) fn local(engine: &Engine, span: Span) -> impl Stream<Item = EventMessage> + Send + use<> {
    let (past, live) = engine.events_since(span.since.unwrap_or(i64::MAX));
    let end = span.until.map_or(i64::MAX, nanoseconds);
    let past = stream::iter(past).filter(move |event| futures::future::ready(event.time_nano <= end));
    past.chain(received(live).take_until(span.end()))
}

/// Unix ns.
pub(super) fn nanoseconds(moment: OffsetDateTime) -> i64 {
    i64::try_from(moment.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

fn received(live: tokio::sync::broadcast::Receiver<EventMessage>) -> impl Stream<Item = EventMessage> {
    stream::unfold(live, |mut live| async move {
        loop {
            match live.recv().await {
                Ok(event) => return Some((event, live)),
                // A listener that is too slow loses the oldest, as with Docker.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    })
}

/// The event as a line of JSON.
pub(super) fn line(event: &EventMessage) -> Bytes {
    // Strings and numbers only: there is nothing in it that cannot be written.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

fn accepts(filters: &Filters, event: &EventMessage) -> bool {
    // That something is missing concerns everybody.
    if (event.kind.as_str(), event.action.as_str()) == ("node", cluster_events::UNREACHABLE) {
        return true;
    }
    let attributes = &event.actor.attributes;
    let named = |wanted: &str| {
        wanted == event.actor.id
            || attributes
                .get("name")
                .is_some_and(|name| name == wanted.trim_start_matches('/'))
            || wanted.len() >= 4 && event.actor.id.starts_with(wanted)
    };
    let action = |wanted: &str| {
        let verb = event.action.split(':').next().unwrap_or_default();
        wanted == event.action || wanted == verb
    };
    // `image` selects the events of an image and those of containers made from it.
    let image = |wanted: &str| match event.kind.as_str() {
        "image" => named(wanted),
        _ => attributes.get("image").is_some_and(|image| image == wanted),
    };
    let object = |kind: &&str| match *kind {
        "image" => filters.any("image", image),
        kind => filters.any(kind, |wanted| event.kind == kind && named(wanted)),
    };
    filters.exact("type", &event.kind)
        && filters.exact("scope", &event.scope)
        && filters.any("event", action)
        && filters.labels("label", attributes)
        && OBJECTS.iter().all(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::event::Actor;

    fn event() -> EventMessage {
        let attributes = [("name", "web"), ("image", "bb"), ("tier", "front")];
        EventMessage {
            kind: "container".into(),
            action: "health_status: healthy".into(),
            scope: "local".into(),
            actor: Actor {
                id: "abcd1234".into(),
                attributes: attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            },
            ..Default::default()
        }
    }

    fn accepted(filters: &str) -> bool {
        accepts(&Filters::parse(Some(filters)).unwrap(), &event())
    }

    #[test]
    fn a_span_survives_the_way_between_nodes() {
        let span = Span {
            since: Some(1_700_000_000_000_000_005),
            until: Some(OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()),
        };
        assert_eq!(
            span.query(),
            "since=1700000000.000000005&until=1800000000.000000000"
        );
        let pairs = [("since", "1700000000.000000005"), ("until", "1800000000.0")];
        let read = Span::of(&Params::from(&pairs[..])).unwrap();
        assert_eq!((read.since, read.until), (span.since, span.until));
        assert!(!span.is_over());
    }

    #[test]
    fn filters_select_events() {
        for good in [
            "{}",
            r#"{"type":["container","image"]}"#,
            r#"{"event":["health_status"]}"#,
            r#"{"event":["health_status: healthy"]}"#,
            r#"{"container":["web"]}"#,
            r#"{"container":["abcd"]}"#,
            r#"{"image":["bb"]}"#,
            r#"{"label":["tier=front"]}"#,
            r#"{"scope":{"local":true}}"#,
        ] {
            assert!(accepted(good), "{good}");
        }
        for bad in [
            r#"{"type":["volume"]}"#,
            r#"{"event":["health"]}"#,
            r#"{"container":["we"]}"#,
            r#"{"volume":["web"]}"#,
            r#"{"image":["other"]}"#,
            r#"{"label":["tier=back"]}"#,
            r#"{"scope":["swarm"]}"#,
        ] {
            assert!(!accepted(bad), "{bad}");
        }
    }
}
