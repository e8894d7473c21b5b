//! Progress of long operations: a chunked body of JSON objects, one per line (`\r\n`), as pull, load, push and build use.
//!
//! An operation that fails before its first message becomes a real HTTP error; later failures become the final
//! `{"errorDetail":{"message"},"error"}` line, because the status code has already been sent.

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::error::{ApiError, ApiResult};
use super::stream::{JSON, streaming};

/// Messages in flight between an operation and its client.
const DEPTH: usize = 64;

/// Handle of the operation: where it says what it is doing. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Progress(mpsc::Sender<Result<Value, ApiError>>);

impl Progress {
    /// Sends one message; returns false when the client is gone.
    pub async fn send(&self, message: Value) -> bool {
        self.0.send(Ok(message)).await.is_ok()
    }

    /// [`Progress::send`] for code on a blocking thread.
    pub fn send_blocking(&self, message: Value) -> bool {
        self.0.blocking_send(Ok(message)).is_ok()
    }

    /// `{"stream": text}`, the form of build and load output.
    pub fn stream_blocking(&self, text: impl Into<String>) -> bool {
        self.send_blocking(json!({ "stream": text.into() }))
    }
}

/// Runs `work` on a blocking thread and streams what it says. Dropping the response does not stop the work.
pub async fn blocking<F>(work: F) -> Response
where
    F: FnOnce(&Progress) -> ApiResult<()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(DEPTH);
    tokio::task::spawn_blocking(move || {
        let progress = Progress(sender);
        if let Err(error) = work(&progress) {
            // The client may be gone: then nobody is left to tell.
            let _ = progress.0.blocking_send(Err(error));
        }
    });
    respond(receiver).await
}

async fn respond(mut receiver: mpsc::Receiver<Result<Value, ApiError>>) -> Response {
    match receiver.recv().await {
        Some(Err(error)) => error.into_response(),
        Some(Ok(first)) => streaming(JSON, lines(first, receiver)),
        None => streaming(JSON, stream::empty()),
    }
}

fn lines(first: Value, receiver: mpsc::Receiver<Result<Value, ApiError>>) -> impl Stream<Item = Bytes> {
    let rest = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|item| (item, receiver))
    });
    stream::iter([Ok(first)])
        .chain(rest)
        .map(|item| line(&item.unwrap_or_else(|error| failure(&error))))
}

fn failure(error: &ApiError) -> Value {
    json!({ "errorDetail": { "message": error.message }, "error": error.message })
}

fn line(message: &Value) -> Bytes {
    format!("{message}\r\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;
    use http_body_util::BodyExt;

    async fn text(response: Response) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn early_failure_is_a_status_code() {
        let response = blocking(|_| Err(ApiError::not_found("no such thing"))).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(text(response).await, r#"{"message":"no such thing"}"#);
    }

    #[tokio::test]
    async fn late_failure_is_the_last_line() {
        let response = blocking(|progress| {
            progress.stream_blocking("one\n");
            Err(ApiError::conflict("broke"))
        })
        .await;
        assert_eq!(response.status(), StatusCode::OK);
        let body = text(response).await;
        let lines: Vec<&str> = body.split("\r\n").collect();
        assert_eq!(lines[0], r#"{"stream":"one\n"}"#);
        assert_eq!(lines[1], r#"{"error":"broke","errorDetail":{"message":"broke"}}"#);
    }
}
