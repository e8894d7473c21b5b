//! Request bodies in JSON, with errors that are JSON too.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header::CONTENT_TYPE;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use super::types::lenient;

/// A required JSON body; a missing or foreign Content-Type is refused as Docker does.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

/// A JSON body that may be absent; then `T::default()`.
#[derive(Debug, Clone, Default)]
pub struct OptionalJson<T>(pub T);

/// A required JSON body that says what shall be: a field that is not known would be a wish that nobody fulfils, and is
/// refused by name.
#[derive(Debug, Clone)]
pub struct Spec<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        parse(&required(request, state).await?).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Spec<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = required(request, state).await?;
        lenient::from_slice_strict(&bytes)
            .map(Self)
            .map_err(|error| ApiError::bad_request(format!("invalid JSON: {error}")))
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = read(request, state).await?;
        if bytes.trim_ascii().is_empty() || bytes.trim_ascii() == b"null" {
            return Ok(Self::default());
        }
        parse(&bytes).map(Self)
    }
}

async fn required<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    check_content_type(&request)?;
    let bytes = read(request, state).await?;
    if bytes.is_empty() {
        return Err(ApiError::bad_request(
            "invalid JSON: got EOF while reading request body",
        ));
    }
    Ok(bytes)
}

fn check_content_type(request: &Request) -> Result<(), ApiError> {
    let given = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let media = given.split(';').next().unwrap_or("").trim();
    if media.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "unsupported Content-Type header ({given}): must be 'application/json'"
    )))
}

async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    Bytes::from_request(request, state)
        .await
        .map_err(|error| ApiError::new(error.status(), error.body_text()))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    lenient::from_slice(bytes).map_err(|error| ApiError::bad_request(format!("invalid JSON: {error}")))
}
