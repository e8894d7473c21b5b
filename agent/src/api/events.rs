//! `GET /events`: what happened and what happens, one JSON object per line.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use time::OffsetDateTime;
use tokio::sync::broadcast::error::RecvError;

use super::error::ApiResult;
use super::filters::Filters;
use super::params::Params;
use super::state::App;
use super::stream::{JSON, streaming};
use super::time::moment;
use super::types::event::EventMessage;

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
    let since = params.filled("since").map(moment).transpose()?;
    let until = params.filled("until").map(moment).transpose()?;
    // Without `since` nothing is replayed.
    let from = since.map_or(i64::MAX, nanoseconds);
    let (past, live) = app.engine.events_since(from);
    let end = until.map_or(i64::MAX, nanoseconds);
    let past = stream::iter(past).filter(move |event| futures::future::ready(event.time_nano <= end));
    let all = past.chain(received(live).take_until(deadline(until)));
    let wanted = all.filter(move |event| futures::future::ready(accepts(&filters, event)));
    Ok(streaming(JSON, wanted.map(|event| line(&event))))
}

fn nanoseconds(moment: OffsetDateTime) -> i64 {
    i64::try_from(moment.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

async fn deadline(until: Option<OffsetDateTime>) {
    match until {
        None => std::future::pending().await,
        Some(until) => {
            let rest = Duration::try_from(until - OffsetDateTime::now_utc()).unwrap_or_default();
            tokio::time::sleep(rest).await;
        }
    }
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

fn line(event: &EventMessage) -> Bytes {
    // Strings and numbers only: there is nothing in it that cannot be written.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

fn accepts(filters: &Filters, event: &EventMessage) -> bool {
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
