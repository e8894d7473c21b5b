//! Requests of the API that another manager answers.
//!
//! A manager that follows hands what is about the cluster to the leader:
//! ```text
//! client ─ unix socket ─▶ API of the follower ─ to_manager ═ /api/v1.44/services ═▶ receive ─▶ API of the leader
//! ```
//! Bodies stream both ways, and so does what a connection is upgraded to. What has come from another manager is never sent
//! on: it carries [`Forwarded`], and a leader that has been replaced meanwhile says that it is none.
//!
//! For the one who decides who leads: a middleware of [`crate::api::router`] asks for the leader and, where that is another
//! node, calls [`to_manager`]; requests that it gives back are this node's own to answer.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{
    CONNECTION, EXPECT, HOST, HeaderName, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use proto::NodeId;
use serde::Deserialize;
use tokio::io::copy_bidirectional;
use tower::ServiceExt;

use super::{Caller, Client};
use crate::api::error::{ApiError, ApiResult};
use crate::api::network_view::{Networks, Scope};
use crate::api::version::ApiVersion;
use crate::api::{App, JSON_BODY_LIMIT, router};
use crate::peer::scope::is_cluster_scoped;

/// Where the API is found at the port between nodes.
const PREFIX: &str = "/api";
/// Headers that speak of one connection alone (RFC 9110, 7.6.1).
const HOP_BY_HOP: &[HeaderName] = &[
    CONNECTION,
    UPGRADE,
    EXPECT,
    HOST,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
];

/// The manager through which a request has come: an extension of it.
#[derive(Debug, Clone)]
pub struct Forwarded(pub NodeId);

/// Answers a request of the API by the API of another manager, if it is about the cluster and has not come from a manager
/// already. Its version prefix has been taken off.
///
/// # Errors
/// The request, if it is this node's own to answer.
pub async fn to_manager(app: &App, manager: &NodeId, request: Request) -> Result<Response, Box<Request>> {
    if request.extensions().get::<Forwarded>().is_some() {
        return Err(Box::new(request));
    }
    let request = match about_cluster(app, request).await {
        Ok((true, request)) => request,
        Ok((false, request)) => return Err(Box::new(request)),
        Err(refusal) => return Ok(refusal.into_response()),
    };
    let Some(client) = app.cluster.peers().client() else {
        return Ok(ApiError::unavailable("this node has left the cluster").into_response());
    };
    Ok(proxy(&client, manager, request).await)
}

/// Sends a request to the API of a manager and passes its answer on, whatever it is.
pub async fn proxy(client: &Client, manager: &NodeId, request: Request) -> Response {
    let version = request.extensions().get::<ApiVersion>();
    let version = version.map(|version| format!("/v{version}")).unwrap_or_default();
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    match format!("{PREFIX}{version}{path}").parse() {
        Ok(uri) => pass_on(client, manager, uri, request).await,
        Err(_) => ApiError::bad_request("invalid path").into_response(),
    }
}

/// Sends a request to a path at the port of another node and passes its answer on, whatever it is.
pub async fn pass_on(client: &Client, node: &NodeId, uri: Uri, mut request: Request) -> Response {
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let request = forwarded(request, uri, upgrade.is_some());
    match (client.send(node, request).await, upgrade) {
        (Ok(answer), Some(upgrade)) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
            joined(answer, upgrade)
        }
        (Ok(answer), _) => {
            let (mut parts, body) = answer.into_parts();
            strip(&mut parts.headers);
            Response::from_parts(parts, Body::new(body))
        }
        (Err(error), _) => ApiError::from(error).into_response(),
    }
}

/// Answers a request that has come from another manager, by this node's API.
pub(super) async fn receive(State(app): State<App>, mut request: Request) -> ApiResult<Response> {
    let caller = request
        .extensions()
        .get::<Caller>()
        .map(|caller| caller.node.clone());
    let caller = caller.ok_or_else(|| ApiError::not_found("page not found"))?;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri = path.strip_prefix(PREFIX).unwrap_or(path).parse::<Uri>();
    *request.uri_mut() = uri.map_err(|_| ApiError::bad_request("invalid path"))?;
    let bare = without_version(request.uri().path()).to_owned();
    let versioned = request.uri().clone();
    *request.uri_mut() = bare.parse().map_err(|_| ApiError::bad_request("invalid path"))?;
    let (about_cluster, request) = about_cluster(&app, request).await?;
    if !about_cluster {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "only what is about the cluster is answered to other nodes",
        ));
    }
    let mut request = anew(request, versioned);
    request.extensions_mut().insert(Forwarded(caller));
    match router(app).oneshot(request).await {
        Ok(answer) => Ok(answer),
        Err(never) => match never {},
    }
}

/// Whether a request without version prefix is about the cluster. Where that depends on its body, the body is read.
async fn about_cluster(app: &App, request: Request) -> ApiResult<(bool, Request)> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if is_cluster_scoped(&method, &path) {
        return Ok((true, request));
    }
    match (method, path.strip_prefix("/networks/")) {
        (Method::POST, Some("create")) => {
            let (parts, body) = request.into_parts();
            let body = to_bytes(body, JSON_BODY_LIMIT).await;
            let body = body.map_err(|_| ApiError::bad_request("the body of the request cannot be read"))?;
            let is = makes_cluster_network(&body);
            Ok((is, Request::from_parts(parts, Body::from(body))))
        }
        (Method::DELETE, Some(id)) => {
            let found = Networks::of(app).find(id, None);
            let is = found.is_ok_and(|network| network.scope == Scope::Swarm);
            Ok((is, request))
        }
        _ => Ok((false, request)),
    }
}

/// What the body of a network's creation says of where the network shall be.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct NewNetwork {
    driver: Option<String>,
    scope: Option<String>,
}

fn makes_cluster_network(body: &Bytes) -> bool {
    // What is no JSON is refused by the handler.
    let new: NewNetwork = serde_json::from_slice(body).unwrap_or_default();
    new.driver.as_deref() == Some("overlay") || new.scope.as_deref() == Some("swarm")
}

/// The request for another router of this node: what the first has read from its path is forgotten.
pub(crate) fn anew(mut request: Request, uri: Uri) -> Request {
    *request.uri_mut() = uri;
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    request.extensions_mut().clear();
    if let Some(upgrade) = upgrade {
        request.extensions_mut().insert(upgrade);
    }
    request
}

fn forwarded(request: Request, uri: Uri, upgrade: bool) -> Request {
    let (mut parts, body) = request.into_parts();
    let wanted = (
        parts.headers.get(CONNECTION).cloned(),
        parts.headers.get(UPGRADE).cloned(),
    );
    strip(&mut parts.headers);
    if let (true, (Some(connection), Some(protocol))) = (upgrade, wanted) {
        parts.headers.insert(CONNECTION, connection);
        parts.headers.insert(UPGRADE, protocol);
    }
    parts.uri = uri;
    parts.extensions.clear();
    Request::from_parts(parts, body)
}

fn strip(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Both ends have stopped speaking HTTP: what one says, the other hears, until both are silent.
fn joined(answer: Response<Incoming>, near: OnUpgrade) -> Response {
    let (status, headers) = (answer.status(), answer.headers().clone());
    tokio::spawn(async move {
        let (near, far) = match tokio::try_join!(near, hyper::upgrade::on(answer)) {
            Ok(ends) => ends,
            Err(error) => return tracing::debug!("a forwarded connection was not taken over: {error}"),
        };
        // A connection that breaks ends the other one: there is nobody left to tell.
        let _ = copy_bidirectional(&mut TokioIo::new(near), &mut TokioIo::new(far)).await;
    });
    (status, headers).into_response()
}

/// `/v1.41/services` → `/services`.
fn without_version(path: &str) -> &str {
    let is_version = |word: &str| {
        word.strip_prefix('v')
            .is_some_and(|rest| rest.contains('.') && rest.parse::<f32>().is_ok())
    };
    match path.trim_start_matches('/').split_once('/') {
        Some((first, rest)) if is_version(first) => &path[path.len() - rest.len() - 1..],
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_kept_apart() {
        for (path, bare) in [
            ("/v1.44/services", "/services"),
            ("/v1.24/services/a/logs", "/services/a/logs"),
            ("/volumes/x", "/volumes/x"),
            ("/services", "/services"),
        ] {
            assert_eq!(without_version(path), bare);
        }
    }

    #[test]
    fn the_body_says_whose_network_it_is() {
        for (body, expected) in [
            (r#"{"Name":"n","Driver":"overlay"}"#, true),
            (r#"{"Name":"n","Driver":null,"Scope":"swarm"}"#, true),
            (r#"{"Name":"n","Driver":"bridge"}"#, false),
            ("nonsense", false),
        ] {
            assert_eq!(makes_cluster_network(&Bytes::from(body)), expected, "{body}");
        }
    }

    #[test]
    fn what_is_forwarded_speaks_of_its_own_connection() {
        let request = || {
            Request::post("/exec/x/start?a=b")
                .header(CONNECTION, "Upgrade")
                .header(UPGRADE, "tcp")
                .header(HOST, "docker")
                .header("Content-Type", "application/json")
                .body(Body::empty())
                .unwrap()
        };
        let uri = || Uri::from_static("/v1/x");
        let plain = forwarded(request(), uri(), false);
        assert_eq!(plain.uri(), "/v1/x");
        assert_eq!(plain.headers().len(), 1, "{:?}", plain.headers());
        let upgraded = forwarded(request(), uri(), true);
        assert_eq!(upgraded.headers()[UPGRADE], "tcp");
    }
}
