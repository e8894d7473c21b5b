//! Who may call what: one table, and nothing that is not in it.
//!
//! Who calls is said by the certificate, never by the message. A certificate is worth what the store says of its node: a
//! removed node is refused at its next call, whatever its certificate says.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures::future::Either;
use proto::spec::NodeRole;
use proto::{ClusterId, Node};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use crate::ca::Certificate;
use crate::dispatcher::Caller;
use crate::state::{Reader, Store};
use crate::tls::server::Peer;

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowed {
    /// Whoever comes. The join token decides about the rest.
    Anyone,
    /// Nodes of this cluster with one of these roles.
    Roles(&'static [NodeRole]),
}

const NODES: Allowed = Allowed::Roles(&[NodeRole::Worker, NodeRole::Manager]);

/// The table.
pub(super) const TABLE: &[(&str, Allowed)] = &[
    ("/shoal.v1.NodeCa/GetRootCertificate", Allowed::Anyone),
    ("/shoal.v1.NodeCa/IssueNodeCertificate", Allowed::Anyone),
    ("/shoal.v1.NodeCa/RenewNodeCertificate", NODES),
    ("/shoal.v1.Dispatcher/Session", NODES),
    ("/shoal.v1.Dispatcher/Heartbeat", NODES),
    ("/shoal.v1.Dispatcher/UpdateTaskStatus", NODES),
    ("/shoal.v1.Dispatcher/Assignments", NODES),
    ("/shoal.v1.Dispatcher/Leave", NODES),
];

/// Puts [`Access`] before a service.
#[derive(Debug, Clone)]
pub(super) struct AccessLayer {
    pub(super) store: Store,
    pub(super) cluster: ClusterId,
}

impl<S> Layer<S> for AccessLayer {
    type Service = Access<S>;

    fn layer(&self, service: S) -> Access<S> {
        Access {
            rules: self.clone(),
            service,
        }
    }
}

impl AccessLayer {
    /// The caller, if it may; `None` for one without a certificate where that is allowed.
    pub(super) fn check(&self, path: &str, peer: &Peer) -> Result<Option<Caller>, Status> {
        let known = TABLE.iter().find(|(known, _)| *known == path);
        let (_, allowed) = known.ok_or_else(|| Status::unimplemented(format!("{path} is not known")))?;
        let caller = match &peer.certificate {
            Some(certificate) => Some(self.node(certificate, peer)?),
            None => None,
        };
        match (allowed, &peer.certificate) {
            (Allowed::Anyone, _) => Ok(caller),
            (Allowed::Roles(_), None) => Err(Status::unauthenticated("a node's certificate is needed")),
            (Allowed::Roles(roles), Some(certificate)) if roles.contains(&certificate.role) => Ok(caller),
            (Allowed::Roles(_), Some(_)) => {
                Err(Status::permission_denied("the node's role does not allow this"))
            }
        }
    }

    /// The node whose certificate it is.
    fn node(&self, certificate: &Certificate, peer: &Peer) -> Result<Caller, Status> {
        let id = &certificate.node;
        if certificate.cluster != self.cluster {
            return Err(Status::permission_denied("the certificate is another cluster's"));
        }
        // TLS looks at the time when a connection begins; connections last.
        if certificate.has_expired() {
            return Err(Status::unauthenticated(format!(
                "the certificate of node {id} has expired"
            )));
        }
        if self.store.view(|tx| tx.get::<Node>(id)).is_none() {
            return Err(Caller::removed(id));
        }
        Ok(Caller::Node {
            id: id.clone(),
            address: peer.address.ip(),
        })
    }
}

/// Lets calls through that the table allows, and says with them who calls.
#[derive(Debug, Clone)]
pub(super) struct Access<S> {
    rules: AccessLayer,
    service: S,
}

impl<S, B> Service<Request<B>> for Access<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        let peer = peer.ok_or_else(|| Status::internal("a connection without a peer"));
        match peer.and_then(|peer| self.rules.check(request.uri().path(), peer)) {
            Ok(caller) => {
                // Nobody else's word is taken.
                request.extensions_mut().remove::<Caller>();
                if let Some(caller) = caller {
                    request.extensions_mut().insert(caller);
                }
                Either::Left(self.service.call(request))
            }
            Err(status) => {
                tracing::debug!(
                    path = request.uri().path(),
                    "refused a call: {}",
                    status.message()
                );
                Either::Right(ready(Ok(status.into_http())))
            }
        }
    }
}
