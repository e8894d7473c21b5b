//! Who may call what: one table, and nothing that is not in it.
//!
//! Who calls is said by the certificate, never by the request. A certificate is worth what the managers say of its node: a
//! node that was removed, or is a manager no longer, is refused at its next request, whatever its certificate says.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use manager::ca::Certificate;
use proto::NodeId;
use proto::spec::NodeRole;

use super::Members;
use crate::api::error::{ApiError, ApiResult};
use crate::api::{cluster_events, service_logs};
use crate::transfer::{images, volumes};

/// An entry of the table.
#[derive(Debug)]
pub(super) struct Entry {
    /// `*` for all of them.
    pub(super) method: &'static str,
    /// As the router has it.
    pub(super) path: &'static str,
    /// Who may.
    pub(super) roles: &'static [NodeRole],
}

const NODES: &[NodeRole] = &[NodeRole::Worker, NodeRole::Manager];
const MANAGERS: &[NodeRole] = &[NodeRole::Manager];

/// The table.
pub(super) const TABLE: &[Entry] = &[
    entry("GET", "/v1/ping", NODES),
    entry("GET", service_logs::NODE_PATH, MANAGERS),
    entry("GET", cluster_events::NODE_PATH, MANAGERS),
    entry("POST", "/v1/tasks/{id}/exec", MANAGERS),
    entry("POST", "/v1/tasks/{id}/exec/{exec}/start", MANAGERS),
    entry("POST", "/v1/tasks/{id}/exec/{exec}/resize", MANAGERS),
    entry("GET", "/v1/tasks/{id}/exec/{exec}/json", MANAGERS),
    entry("*", "/api/{*path}", MANAGERS),
    entry("GET", images::OFFER, NODES),
    entry("GET", images::RESOLVE, NODES),
    entry("GET", images::CONFIG, NODES),
    entry("GET", images::MANIFEST, NODES),
    entry("GET", images::LAYER, NODES),
    entry("POST", volumes::LEND, MANAGERS),
    entry("GET", volumes::DESCRIBE, NODES),
    entry("GET", volumes::DATA, NODES),
    entry("POST", volumes::TAKE, MANAGERS),
    entry("POST", volumes::GIVE_UP, MANAGERS),
];

const fn entry(method: &'static str, path: &'static str, roles: &'static [NodeRole]) -> Entry {
    Entry { method, path, roles }
}

/// The node that calls; an extension of every request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The node.
    pub node: NodeId,
    /// What it may do here.
    pub role: NodeRole,
    /// From where it comes.
    pub address: IpAddr,
}

/// The node of a certificate that TLS has verified, if it is still one of the cluster's.
pub(super) fn recognise(
    certificate: &Arc<Certificate>,
    members: &Members,
    address: IpAddr,
) -> ApiResult<Caller> {
    let node = certificate.node.clone();
    // TLS looks at the time when a connection begins; connections last.
    if certificate.has_expired() {
        return Err(forbidden(format!("the certificate of node {node} has expired")));
    }
    if !members.are_known() {
        return Err(ApiError::unavailable(
            "this node does not know the cluster's nodes yet",
        ));
    }
    let member = members.get(&node);
    let member = member.ok_or_else(|| forbidden(format!("node {node} is not part of the cluster")))?;
    // Who was demoted keeps a manager's certificate for a while.
    let role = match (certificate.role, member.role) {
        (NodeRole::Manager, NodeRole::Manager) => NodeRole::Manager,
        _ => NodeRole::Worker,
    };
    Ok(Caller { node, role, address })
}

/// Lets requests through that the table allows. To be laid around routes that are matched already.
pub(super) async fn check(request: Request, next: Next) -> Response {
    match allowed(&request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            let (method, path) = (request.method(), request.uri().path());
            tracing::debug!("refused {method} {path} of a node: {refusal}");
            refusal.into_response()
        }
    }
}

fn allowed(request: &Request) -> ApiResult<()> {
    let path = request.extensions().get::<MatchedPath>();
    let roles = path.and_then(|path| roles(request.method(), path.as_str()));
    let roles = roles.ok_or_else(|| ApiError::not_found("page not found"))?;
    let caller = request.extensions().get::<Caller>();
    let caller = caller.ok_or_else(|| forbidden("a node's certificate is needed"))?;
    match roles.contains(&caller.role) {
        true => Ok(()),
        false => Err(forbidden("the node's role does not allow this")),
    }
}

fn roles(method: &Method, path: &str) -> Option<&'static [NodeRole]> {
    let is_it = |entry: &&Entry| entry.path == path && (entry.method == "*" || entry.method == method);
    TABLE.iter().find(is_it).map(|entry| entry.roles)
}

fn forbidden(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, message)
}
