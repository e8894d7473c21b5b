//! Answers that take long: the head leaves at once, blanks say that the work goes on, one JSON object is the outcome.
//!
//! Whoever asks and goes does not stop the work: what was begun is finished, or undone, as a whole.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use hyper::{Method, Request};
use proto::NodeId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::wire;
use crate::api::error::{ApiError, ApiResult};
use crate::api::stream::{JSON, streaming};
use crate::peer::Client;

/// Between two blanks.
const BLANK: Duration = Duration::from_secs(3);

/// A failure, as it is told when the status code has been sent.
#[derive(Debug, Serialize, Deserialize)]
struct Failure {
    error: String,
    status: u16,
}

/// Answers with what `work` gives.
pub fn answer<T: Serialize>(work: impl Future<Output = ApiResult<T>> + Send + 'static) -> Response {
    answer_with(BLANK, work)
}

fn answer_with<T: Serialize>(
    blank: Duration,
    work: impl Future<Output = ApiResult<T>> + Send + 'static,
) -> Response {
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        let outcome = match work.await {
            Ok(value) => serde_json::to_value(value).unwrap_or_default(),
            Err(error) => failure(&error),
        };
        // Who asked may be gone.
        let _ = sender.send(outcome);
    });
    let lines = stream::unfold(Some(receiver), move |waiting| async move {
        let mut receiver = waiting?;
        match timeout(blank, &mut receiver).await {
            Err(_) => Some((Bytes::from_static(b" "), Some(receiver))),
            Ok(outcome) => {
                let outcome =
                    outcome.unwrap_or_else(|_| failure(&ApiError::unavailable("the work broke off")));
                Some((Bytes::from(outcome.to_string()), None))
            }
        }
    });
    streaming(JSON, lines)
}

/// Asks a node that answers so.
pub(super) async fn ask<T: DeserializeOwned>(
    client: &Client,
    node: &NodeId,
    method: Method,
    path: &str,
) -> ApiResult<T> {
    let request = Request::builder().method(method).uri(path).body(Body::empty());
    let request = request.map_err(|error| ApiError::internal(&error))?;
    let answer = client.ask(node, request).await?;
    let bytes = wire::patiently(answer.into_body()).await;
    let bytes = bytes.map_err(|error| ApiError::from_chain(StatusCode::BAD_GATEWAY, &error))?;
    let unreadable = |error: serde_json::Error| ApiError::from_chain(StatusCode::BAD_GATEWAY, &error);
    let value: Value = serde_json::from_slice(&bytes).map_err(unreadable)?;
    if value.get("error").is_some() {
        let failure: Failure = serde_json::from_value(value).map_err(unreadable)?;
        let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::BAD_GATEWAY);
        return Err(ApiError::new(status, failure.error));
    }
    serde_json::from_value(value).map_err(unreadable)
}

fn failure(error: &ApiError) -> Value {
    json!({ "error": error.message, "errorDetail": { "message": error.message }, "status": error.status.as_u16() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn blanks_come_until_the_outcome() {
        let (go, gone) = oneshot::channel();
        let response = answer_with(Duration::from_millis(1), async {
            gone.await.map_err(|error| ApiError::internal(&error))?;
            Ok(json!({ "a": 1 }))
        });
        let mut body = response.into_body();
        for _ in 0..2 {
            let blank = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(&blank[..], b" ");
        }
        go.send(()).unwrap();
        let rest = body.collect().await.unwrap().to_bytes();
        assert_eq!(rest.trim_ascii(), b"{\"a\":1}");
        let failed = answer::<Value>(async { Err(ApiError::conflict("no")) });
        let body = failed.into_body().collect().await.unwrap().to_bytes();
        let value: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&value["error"], &value["status"]), (&json!("no"), &json!(409)));
    }
}
