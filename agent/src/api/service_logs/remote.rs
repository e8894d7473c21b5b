//! The lines of another node's tasks.

use std::fmt::Write;

use axum::body::Body;
use axum::http::Request;
use futures::stream::BoxStream;
use manager::state::Store;
use proto::NodeId;
use time::OffsetDateTime;

use super::line::{Line, Lines};
use super::{NODE_PATH, Whose};
use crate::api::node_stream::{self, Lost};
use crate::engine::LogOptions;
use crate::peer::Client;

/// The lines of a node's tasks. The last item is [`Lost`] if the node is not there, or goes away meanwhile.
pub(super) fn lines(
    client: &Client,
    store: &Store,
    node: NodeId,
    whose: &Whose,
    options: &LogOptions,
) -> BoxStream<'static, Result<Line, Lost>> {
    node_stream::open(client, store, node, request(whose, options), Lines)
}

fn request(whose: &Whose, options: &LogOptions) -> Request<Body> {
    let flag = |wanted| u8::from(wanted);
    let mut query = format!(
        "?{}&stdout={}&stderr={}&follow={}",
        whose.query(),
        flag(options.stdout),
        flag(options.stderr),
        flag(options.follow)
    );
    // Writing to a string does not fail.
    if let Some(tail) = options.tail {
        let _ = write!(query, "&tail={tail}");
    }
    for (key, moment) in [("since", options.since), ("until", options.until)] {
        if let Some(moment) = moment {
            let _ = write!(query, "&{key}={}", unix(moment));
        }
    }
    let mut request = Request::new(Body::empty());
    // Identifiers and numbers alone: there is nothing in it that is not allowed.
    *request.uri_mut() = format!("{NODE_PATH}{query}").parse().unwrap_or_default();
    request
}

fn unix(moment: OffsetDateTime) -> String {
    format!("{}.{:09}", moment.unix_timestamp(), moment.nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_what_was_asked_for() {
        let since = OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_000_000_005).unwrap();
        let options = LogOptions {
            stdout: true,
            tail: Some(7),
            since: Some(since),
            follow: true,
            ..LogOptions::default()
        };
        let request = request(&Whose::Service("abc".into()), &options);
        assert_eq!(
            request.uri(),
            "/v1/logs?service=abc&stdout=1&stderr=0&follow=1&tail=7&since=1700000000.000000005"
        );
    }
}
