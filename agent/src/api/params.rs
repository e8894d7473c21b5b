//! Query strings as Docker reads them: repeated keys, loose booleans, JSON values.

use std::str::FromStr;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::error::{ApiError, ApiResult};
use super::filters::Filters;

/// All parameters of a request, in order. A query string that cannot be read is a 400.
#[derive(Debug, Clone, Default)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// The first value of `key`.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.all(key).next()
    }

    /// The first value of `key` that is not empty.
    pub fn filled(&self, key: &str) -> Option<&str> {
        self.all(key).find(|value| !value.is_empty())
    }

    /// Every value of `key`.
    pub fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Docker's boolean: absent, empty, `0`, `no`, `false` and `none` are false, everything else is true.
    pub fn flag(&self, key: &str) -> bool {
        self.flag_or(key, false)
    }

    /// [`Params::flag`] with another value for an absent key.
    pub fn flag_or(&self, key: &str, default: bool) -> bool {
        match self.text(key) {
            None => default,
            Some(value) => {
                let value = value.trim().to_ascii_lowercase();
                !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
            }
        }
    }

    /// The value of `key` as a number; empty counts as absent, anything unreadable is a 400.
    pub fn number<T: FromStr>(&self, key: &str) -> ApiResult<Option<T>> {
        let parse = |value: &str| {
            value
                .parse()
                .map_err(|_| ApiError::bad_request(format!("invalid value {value:?} for {key}")))
        };
        self.filled(key).map(parse).transpose()
    }

    /// The value of `key` as JSON; empty counts as absent.
    pub fn json<T: DeserializeOwned>(&self, key: &str) -> ApiResult<Option<T>> {
        let parse = |value: &str| {
            serde_json::from_str(value)
                .map_err(|error| ApiError::bad_request(format!("invalid JSON in {key}: {error}")))
        };
        self.filled(key).map(parse).transpose()
    }

    /// The `filters` parameter, refusing keys outside `known`.
    pub fn filters(&self, known: &[&str]) -> ApiResult<Filters> {
        Filters::parse(self.text("filters"))?.allow(known)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        well_formed(parts.uri.query().unwrap_or_default())?;
        let read = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        read.map(|query| Self(query.0))
            .map_err(|error| ApiError::bad_request(format!("invalid query string: {}", error.body_text())))
    }
}

/// Refuses what Go's `url.ParseQuery` refuses: `%` without two hexadecimal digits after it, and `;`. The reader of forms would
/// take such a percent sign as text.
fn well_formed(query: &str) -> ApiResult<()> {
    if query.contains(';') {
        return Err(ApiError::bad_request("invalid semicolon separator in query"));
    }
    for escape in query.split('%').skip(1) {
        let digits = escape.bytes().take(2).filter(u8::is_ascii_hexdigit).count();
        if digits < 2 {
            let shown: String = escape.chars().take(2).collect();
            return Err(ApiError::bad_request(format!(
                "invalid URL escape {:?}",
                format!("%{shown}")
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
impl From<&[(&str, &str)]> for Params {
    fn from(pairs: &[(&str, &str)]) -> Self {
        Self(
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_loose() {
        let params = Params::from(&[("a", "1"), ("b", "False"), ("c", ""), ("d", "yes")][..]);
        assert!(params.flag("a") && params.flag("d"));
        assert!(!params.flag("b") && !params.flag("c") && !params.flag("absent"));
        assert!(params.flag_or("absent", true));
    }

    #[test]
    fn numbers_are_strict() {
        let params = Params::from(&[("t", "10"), ("u", "x"), ("v", "")][..]);
        assert_eq!(params.number::<u32>("t").unwrap(), Some(10));
        assert_eq!(params.number::<u32>("v").unwrap(), None);
        assert!(params.number::<u32>("u").is_err());
    }

    #[tokio::test]
    async fn a_query_that_cannot_be_read_is_refused() {
        for (query, readable) in [
            ("", true),
            ("a=1&b&c=%7B%7d+x", true),
            ("a=%", false),
            ("a=%4", false),
            ("a=%zz", false),
            ("a=1;b=2", false),
        ] {
            let request = axum::http::Request::get(format!("/x?{query}"));
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            let params = Params::from_request_parts(&mut parts, &()).await;
            assert_eq!(params.is_ok(), readable, "{query}");
        }
    }
}
