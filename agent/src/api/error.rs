//! Errors as the Docker API reports them: a status code and `{"message": "…"}`.
//!
//! Other modules convert their own error enums with `impl From<TheirError> for ApiError` beside their handlers.

use std::error::Error;
use std::fmt;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// What every layer below says of ENOSPC (strerror(3)).
const DISK_FULL: &str = "No space left on device";

/// Result of a handler.
pub type ApiResult<T> = Result<T, ApiError>;

/// A failed request. The message is shown to the user as is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status code.
    pub status: StatusCode,
    /// One line naming the object, what failed, and the remedy where there is one.
    pub message: String,
}

impl ApiError {
    /// An error with an arbitrary status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// 400: the request itself is wrong.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404: a named object does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 409: the object exists already, is in use, or is in the wrong state.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// 304: nothing to do (starting a running container). Carries no body.
    pub fn not_modified() -> Self {
        Self::new(StatusCode::NOT_MODIFIED, "")
    }

    /// 501: known to Docker, not built here.
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// 503: this node cannot answer now (no swarm manager, for example).
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// 500: the daemon failed; the whole cause chain becomes the message.
    pub fn internal(error: &(dyn Error + 'static)) -> Self {
        Self::from_chain(StatusCode::INTERNAL_SERVER_ERROR, error)
    }

    /// An error with `status` whose message is the whole cause chain. A full disk, wherever it was met, is a 507 with
    /// its remedy.
    pub fn from_chain(status: StatusCode, error: &(dyn Error + 'static)) -> Self {
        let text = chain(error);
        if !text.contains(DISK_FULL) {
            return Self::new(status, text);
        }
        let known = text.contains("free some space");
        let remedy = if known {
            ""
        } else {
            ": free some space (for example with `image prune`) and try again"
        };
        Self::new(StatusCode::INSUFFICIENT_STORAGE, text + remedy)
    }
}

/// `outer: cause: cause of the cause`, the way errors are printed at the edge.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for ApiError {}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status == StatusCode::NOT_MODIFIED {
            return self.status.into_response();
        }
        // The user's mistakes are the user's to read; the daemon's own failures concern its operator too.
        if self.status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::warn!("request failed: {}", self.message);
        }
        (self.status, axum::Json(json!({ "message": self.message }))).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open layer abc")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn internal_errors_name_every_cause() {
        let error = ApiError::internal(&Outer(std::io::Error::other("disk full")));
        assert_eq!(error.message, "open layer abc: disk full");
        assert_eq!(error.status, StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn a_full_disk_has_a_remedy() {
        let full = || std::io::Error::from_raw_os_error(28);
        let error = ApiError::internal(&Outer(full()));
        assert_eq!(error.status, StatusCode::INSUFFICIENT_STORAGE);
        assert!(
            error.message.starts_with("open layer abc: ") && error.message.contains("image prune"),
            "{error}"
        );
    }
}
