//! The API's client: HTTP/1.1 over the agent's unix socket, a connection per request.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// The API version that this client speaks.
const VERSION: &str = "/v1.44";
const DEFAULT_HOST: &str = "unix:///run/shoal/agent.sock";

/// What a request carries.
pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// An answer of the API that is not a success.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    /// Status code.
    pub(crate) status: u16,
    /// What the server says.
    pub(crate) message: String,
}

/// A client of one agent.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client for `--host`, `AGENT_HOST` or the default.
    pub(crate) fn new(host: Option<&str>) -> Result<Self> {
        let host = host.unwrap_or(DEFAULT_HOST);
        match (host.strip_prefix("unix://"), host.starts_with('/')) {
            (Some(path), _) => Ok(Self {
                socket: PathBuf::from(path),
            }),
            (None, true) => Ok(Self {
                socket: PathBuf::from(host),
            }),
            _ => bail!("the host {host:?} is not a unix socket: use unix:///run/shoal/agent.sock"),
        }
    }

    /// GET; JSON.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        json(self.send(Method::GET, path, &[], empty()).await?).await
    }

    /// GET; JSON as a type.
    pub(crate) async fn fetch<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T> {
        serde_json::from_value(self.get(path).await?).with_context(|| format!("the answer to GET {path}"))
    }

    /// POST; JSON, or null where the answer has no body.
    pub(crate) async fn post(&self, path: &str, body: &impl serde::Serialize) -> Result<Value> {
        let body = full(serde_json::to_vec(body)?);
        json(
            self.send(
                Method::POST,
                path,
                &[(CONTENT_TYPE.as_str(), "application/json")],
                body,
            )
            .await?,
        )
        .await
    }

    /// POST without a body; JSON, or null where the answer has none.
    pub(crate) async fn act(&self, path: &str) -> Result<Value> {
        json(self.send(Method::POST, path, &[], empty()).await?).await
    }

    /// DELETE; JSON, or null where the answer has no body.
    pub(crate) async fn delete(&self, path: &str) -> Result<Value> {
        json(self.send(Method::DELETE, path, &[], empty()).await?).await
    }

    /// GET; the body as it comes.
    pub(crate) async fn stream(&self, path: &str) -> Result<Incoming> {
        Ok(self.send(Method::GET, path, &[], empty()).await?.into_body())
    }

    /// POST with a body that is sent as it comes; the answer as it comes.
    pub(crate) async fn upload<S>(&self, path: &str, kind: &str, data: S) -> Result<Incoming>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static,
    {
        let body = BodyExt::boxed(StreamBody::new(data.map_ok(Frame::data)));
        Ok(self
            .send(Method::POST, path, &[(CONTENT_TYPE.as_str(), kind)], body)
            .await?
            .into_body())
    }

    /// POST that turns the connection into a stream of bytes in both directions.
    pub(crate) async fn hijack(&self, path: &str, body: &Value) -> Result<TokioIo<Upgraded>> {
        let headers = [
            (CONNECTION.as_str(), "Upgrade"),
            (UPGRADE.as_str(), "tcp"),
            (CONTENT_TYPE.as_str(), "application/json"),
        ];
        let body = if body.is_null() {
            empty()
        } else {
            full(serde_json::to_vec(body)?)
        };
        let answer = self.send(Method::POST, path, &headers, body).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            bail!(
                "the agent did not turn the connection into a stream: status {}",
                answer.status()
            );
        }
        Ok(TokioIo::new(
            hyper::upgrade::on(answer)
                .await
                .context("take over the connection")?,
        ))
    }

    /// Sends a request; an answer that is no success is an [`ApiError`].
    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.socket).await.with_context(|| {
            format!(
                "cannot connect to the agent at {}: is `agent run` running there?",
                self.socket.display()
            )
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{VERSION}{path}"))
            .header(HOST, "shoal");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = sender
            .send_request(request.body(body)?)
            .await
            .context("the agent ended the connection")?;
        let status = answer.status();
        if status.is_success()
            || status == StatusCode::SWITCHING_PROTOCOLS
            || status == StatusCode::NOT_MODIFIED
        {
            return Ok(answer);
        }
        let text = answer.into_body().collect().await?.to_bytes();
        let message = serde_json::from_slice::<Value>(&text).ok();
        let message = message.and_then(|value| value["message"].as_str().map(str::to_owned));
        let message = message.unwrap_or_else(|| String::from_utf8_lossy(&text).into_owned());
        Err(ApiError {
            status: status.as_u16(),
            message,
        }
        .into())
    }
}

/// Whether an error is the API's word that something is not there.
pub(crate) fn is_not_found(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<ApiError>()
        .is_some_and(|error| error.status == 404)
}

/// `?key=value&…`, escaped; empty values are left out.
pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("{key}={}", escape(value)))
        .collect();
    if pairs.is_empty() {
        String::new()
    } else {
        format!("?{}", pairs.join("&"))
    }
}

/// The value of `filters` from `--filter key=value` words and fixed ones; empty without any.
pub(crate) fn filters(words: &[String], fixed: &[(&str, &str)]) -> Result<String> {
    let mut map = std::collections::BTreeMap::<String, Vec<String>>::new();
    for word in words {
        let (key, value) = word
            .split_once('=')
            .with_context(|| format!("filter {word:?} is not key=value"))?;
        map.entry(key.trim().to_owned())
            .or_default()
            .push(value.trim().to_owned());
    }
    for (key, value) in fixed {
        map.entry((*key).to_owned())
            .or_default()
            .push((*value).to_owned());
    }
    Ok(if map.is_empty() {
        String::new()
    } else {
        serde_json::to_string(&map)?
    })
}

/// Percent-escapes everything that is not plain.
pub(crate) fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let one = |byte: u8| {
        if plain(byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    text.bytes().map(one).collect()
}

async fn json(answer: Response<Incoming>) -> Result<Value> {
    let body = answer.into_body().collect().await?.to_bytes();
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&body).context("the agent's answer is not JSON")
}

fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes))
        .map_err(|never| match never {})
        .boxed()
}

fn empty() -> Body {
    full(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped_and_filters_gathered() {
        assert_eq!(query(&[("a", "x y"), ("b", ""), ("c", "1")]), "?a=x%20y&c=1");
        assert_eq!(query(&[("b", "")]), "");
        let words = ["label=a=b".to_owned(), "label=c".to_owned()];
        assert_eq!(
            filters(&words, &[("name", "n")]).unwrap(),
            r#"{"label":["a=b","c"],"name":["n"]}"#
        );
        assert!(filters(&["x".to_owned()], &[]).is_err());
    }

    #[test]
    fn only_unix_sockets_are_hosts() {
        assert!(Client::new(Some("tcp://1.2.3.4:2375")).is_err());
        assert_eq!(Client::new(Some("/x/s")).unwrap().socket, PathBuf::from("/x/s"));
    }
}
