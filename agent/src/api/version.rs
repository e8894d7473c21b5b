//! API versions: which are spoken, how the prefix is stripped, which headers every answer carries.
//!
//! The advertised version is 1.44: no recorded command of the stock CLI needs more, and it stays below 1.52, which drops
//! fields that older tools read. The minimum stays at 1.24; engines that raised it broke dashboards and proxies.

use std::fmt;
use std::str::FromStr;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use tower::ServiceExt;

use super::error::{ApiError, ApiResult};

/// Highest version spoken; what clients negotiate to.
pub const MAXIMUM: ApiVersion = ApiVersion { major: 1, minor: 44 };
/// Lowest version accepted.
pub const MINIMUM: ApiVersion = ApiVersion { major: 1, minor: 24 };

/// A version of the Docker Engine API. Handlers extract it as a request extension: `Extension<ApiVersion>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    major: u32,
    minor: u32,
}

impl ApiVersion {
    /// A version constant.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for ApiVersion {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.split_once('.').ok_or(())?;
        Ok(Self {
            major: major.parse().map_err(|_| ())?,
            minor: minor.parse().map_err(|_| ())?,
        })
    }
}

/// Puts version handling and the common headers around `inner`.
pub(super) fn wrap(inner: Router) -> Router {
    Router::new().fallback(dispatch).with_state(inner)
}

async fn dispatch(State(inner): State<Router>, mut request: Request<Body>) -> Response {
    let mut response = match negotiate(&mut request) {
        Err(error) => error.into_response(),
        Ok(()) => match inner.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
    };
    common_headers(&mut response);
    response
}

fn negotiate(request: &mut Request<Body>) -> ApiResult<()> {
    let (version, uri) = split(request.uri())?;
    if let Some(uri) = uri {
        *request.uri_mut() = uri;
    }
    request.extensions_mut().insert(version);
    Ok(())
}

fn split(uri: &Uri) -> ApiResult<(ApiVersion, Option<Uri>)> {
    let Some((version, rest)) = prefix(uri.path()) else {
        return Ok((MAXIMUM, None));
    };
    check(version)?;
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let stripped = format!("{rest}{query}").parse::<Uri>();
    let stripped =
        stripped.map_err(|error| ApiError::bad_request(format!("invalid path {rest:?}: {error}")))?;
    Ok((version, Some(stripped)))
}

/// `/v1.41/info` → (1.41, `/info`); `None` when there is no version prefix.
fn prefix(path: &str) -> Option<(ApiVersion, &str)> {
    let rest = path.strip_prefix("/v")?;
    let (version, _) = rest.split_once('/')?;
    Some((version.parse().ok()?, &rest[version.len()..]))
}

fn check(version: ApiVersion) -> ApiResult<()> {
    if version > MAXIMUM {
        return Err(ApiError::bad_request(format!(
            "client version {version} is too new. Maximum supported API version is {MAXIMUM}"
        )));
    }
    if version < MINIMUM {
        return Err(ApiError::bad_request(format!(
            "client version {version} is too old. Minimum supported API version is {MINIMUM}, please upgrade your client \
             to a newer version"
        )));
    }
    Ok(())
}

fn common_headers(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert("Api-Version", HeaderValue::from_static("1.44"));
    headers.insert("Docker-Experimental", HeaderValue::from_static("false"));
    headers.insert("Ostype", HeaderValue::from_static("linux"));
    headers.insert(
        "Server",
        HeaderValue::from_static(concat!("Shoal/", env!("CARGO_PKG_VERSION"), " (linux)")),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_is_split_before_routing() {
        assert_eq!(
            prefix("/v1.41/images/a/b:c/json"),
            Some((ApiVersion::new(1, 41), "/images/a/b:c/json"))
        );
        assert_eq!(prefix("/volumes/v1.41"), None);
        assert_eq!(prefix("/v1.41"), None);
        assert_eq!(prefix("/vx/info"), None);
    }

    #[test]
    fn query_survives() {
        let (_, uri) = split(&"/v1.30/info?a=b%20c".parse().unwrap()).unwrap();
        assert_eq!(uri.unwrap().to_string(), "/info?a=b%20c");
    }

    #[test]
    fn versions_outside_the_range_are_refused() {
        let new = check(ApiVersion::new(1, 99)).unwrap_err();
        assert_eq!(
            new.message,
            "client version 1.99 is too new. Maximum supported API version is 1.44"
        );
        assert!(
            check(ApiVersion::new(1, 23))
                .unwrap_err()
                .message
                .contains("too old")
        );
        check(MINIMUM).unwrap();
        check(MAXIMUM).unwrap();
        assert_eq!(MAXIMUM.to_string(), "1.44");
    }
}
