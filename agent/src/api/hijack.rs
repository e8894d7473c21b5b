//! Connections that stop being HTTP: attach and exec.
//!
//! With `Connection: Upgrade` the answer is `101 UPGRADED` and both directions become raw bytes, each half closing on
//! its own. Without it (old clients, curl) the answer is 200 and the output streams as the body; there is no stdin then.

use std::future::Future;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, empty, join};
use tokio_util::io::ReaderStream;

use super::error::ApiError;

/// Bytes buffered between the session and a client without upgrade.
const PLAIN_BUFFER: usize = 64 << 10;

/// A bidirectional byte stream to the client; shutting down the writer half-closes.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What a handler needs to take over the connection. Extract it before the body, then call [`Hijack::respond`].
#[derive(Debug)]
pub struct Hijack(Option<OnUpgrade>);

impl Hijack {
    /// True when the client asked for an upgrade.
    pub fn requested(&self) -> bool {
        self.0.is_some()
    }

    /// Answers the request and runs `session` on the connection in a task of its own.
    pub fn respond<F, Fut>(self, content_type: &'static str, session: F) -> Response
    where
        F: FnOnce(Box<dyn Duplex>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        match self.0 {
            Some(upgrade) => upgraded(upgrade, content_type, session),
            None => plain(content_type, session),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Hijack {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self(upgrade_of(&parts.headers, &mut parts.extensions)))
    }
}

fn upgrade_of(headers: &HeaderMap, extensions: &mut Extensions) -> Option<OnUpgrade> {
    let connection = headers.get(CONNECTION)?.to_str().ok()?;
    let asked = connection
        .split(',')
        .any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    let tcp = headers.get(UPGRADE)?.to_str().ok()?.eq_ignore_ascii_case("tcp");
    if asked && tcp {
        extensions.remove::<OnUpgrade>()
    } else {
        None
    }
}

fn upgraded<F, Fut>(upgrade: OnUpgrade, content_type: &'static str, session: F) -> Response
where
    F: FnOnce(Box<dyn Duplex>) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => session(Box::new(TokioIo::new(connection))).await,
            Err(error) => tracing::debug!("client left before the upgrade: {error}"),
        }
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
    response
}

fn plain<F, Fut>(content_type: &'static str, session: F) -> Response
where
    F: FnOnce(Box<dyn Duplex>) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (ours, theirs): (DuplexStream, DuplexStream) = tokio::io::duplex(PLAIN_BUFFER);
    tokio::spawn(session(Box::new(join(empty(), ours))));
    let body = Body::from_stream(ReaderStream::new(theirs));
    (StatusCode::OK, [(CONTENT_TYPE, content_type)], body).into_response()
}
