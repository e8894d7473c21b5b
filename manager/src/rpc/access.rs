//! Who may call what: one table, and nothing that is not in it.
//!
//! Who calls is said by the certificate, never by the message. A certificate is worth what the store says of its node: a
//! removed node is refused at its next call, whatever its certificate says.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures::future::Either;
use proto::spec::NodeRole;
use proto::{ClusterId, Node, NodeId};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use crate::ca::Certificate;
use crate::dispatcher::Caller;
use crate::seat::Seat;
use crate::state::{Reader, Store};
use crate::tls::server::Peer;

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowed {
    /// Whoever comes. The join token decides about the rest.
    Anyone,
    /// Nodes of this cluster with one of these roles.
    Roles(&'static [NodeRole]),
    /// Members of consensus. Their own state may be too old to know each other as nodes.
    Members,
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// Every manager.
    Any,
    /// The leader alone.
    Leader,
}

const NODES: Allowed = Allowed::Roles(&[NodeRole::Worker, NodeRole::Manager]);
const MANAGERS: Allowed = Allowed::Roles(&[NodeRole::Manager]);

/// The table.
pub(super) const TABLE: &[(&str, Allowed, By)] = &[
    ("/shoal.v1.NodeCa/GetRootCertificate", Allowed::Anyone, By::Any),
    (
        "/shoal.v1.NodeCa/IssueNodeCertificate",
        Allowed::Anyone,
        By::Leader,
    ),
    ("/shoal.v1.NodeCa/RenewNodeCertificate", NODES, By::Leader),
    ("/shoal.v1.NodeCa/WatchRoot", NODES, By::Leader),
    ("/shoal.v1.Dispatcher/Session", NODES, By::Leader),
    ("/shoal.v1.Dispatcher/Heartbeat", NODES, By::Leader),
    ("/shoal.v1.Dispatcher/UpdateTaskStatus", NODES, By::Leader),
    ("/shoal.v1.Dispatcher/Assignments", NODES, By::Leader),
    ("/shoal.v1.Dispatcher/Acknowledge", NODES, By::Leader),
    ("/shoal.v1.Dispatcher/AwaitWithdrawal", NODES, By::Leader),
    ("/shoal.v1.Dispatcher/Leave", NODES, By::Leader),
    ("/shoal.v1.Dispatcher/AttachNetwork", NODES, By::Leader),
    ("/shoal.v1.Dispatcher/DetachNetwork", NODES, By::Leader),
    ("/shoal.v1.Managers/GetLeader", Allowed::Anyone, By::Any),
    ("/shoal.v1.Managers/Deliver", Allowed::Members, By::Any),
    ("/shoal.v1.Managers/InstallSnapshot", Allowed::Members, By::Any),
    ("/shoal.v1.Managers/Join", MANAGERS, By::Leader),
    ("/shoal.v1.Managers/Leave", MANAGERS, By::Leader),
];

/// Puts [`Access`] before a service.
#[derive(Debug, Clone)]
pub(super) struct AccessLayer {
    pub(super) store: Store,
    pub(super) cluster: ClusterId,
    pub(super) seat: Seat,
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
        let known = TABLE.iter().find(|(known, ..)| *known == path);
        let (_, allowed, by) = known.ok_or_else(|| Status::unimplemented(format!("{path} is not known")))?;
        // First of all: who does not lead may be too far behind to know who belongs to the cluster.
        if *by == By::Leader && !self.seat.reigns() {
            return Err(Status::unavailable("this manager does not lead the cluster"));
        }
        let caller = match (allowed, &peer.certificate) {
            // Whatever it shows: a removed node has to find the leader to be told that it is removed.
            (Allowed::Anyone, _) => None,
            (_, None) => return Err(Status::unauthenticated("a node's certificate is needed")),
            (Allowed::Members, Some(certificate)) => Some(self.member(certificate, peer)?),
            (roles @ Allowed::Roles(_), Some(certificate)) => Some(self.node(certificate, peer, *roles)?),
        };
        Ok(caller)
    }

    /// The node whose certificate it is.
    fn node(&self, certificate: &Certificate, peer: &Peer, allowed: Allowed) -> Result<Caller, Status> {
        self.judge(certificate)?;
        let id = &certificate.node;
        let Some(node) = self.store.view(|tx| tx.get::<Node>(id)) else {
            // Whoever does not follow a leader knows nothing for sure.
            return Err(match self.seat.leader() {
                Some(_) => Caller::removed(id),
                None => Status::unavailable("this manager knows no leader"),
            });
        };
        // A manager that was demoted has the certificate of one until it is renewed.
        let role = match node.spec.role {
            NodeRole::Manager => certificate.role,
            NodeRole::Worker => NodeRole::Worker,
        };
        match allowed {
            Allowed::Roles(roles) if !roles.contains(&role) => {
                Err(Status::permission_denied("the node's role does not allow this"))
            }
            _ => Ok(caller(id, peer)),
        }
    }

    /// A member of consensus: one that this manager knows, or, while it knows no leader, any that has a manager's
    /// certificate, for it may have to learn from one that is newer than all that it has.
    fn member(&self, certificate: &Certificate, peer: &Peer) -> Result<Caller, Status> {
        self.judge(certificate)?;
        let id = &certificate.node;
        if certificate.role != NodeRole::Manager {
            return Err(Status::permission_denied("the node's role does not allow this"));
        }
        let is_known = || {
            let node = self.store.view(|tx| tx.get::<Node>(id));
            node.is_some_and(|node| node.spec.role == NodeRole::Manager)
        };
        if self.seat.has_member(id) || is_known() || self.seat.leader().is_none() {
            return Ok(caller(id, peer));
        }
        Err(Caller::removed(id))
    }

    fn judge(&self, certificate: &Certificate) -> Result<(), Status> {
        if certificate.cluster != self.cluster {
            return Err(Status::permission_denied("the certificate is another cluster's"));
        }
        // TLS looks at the time when a connection begins; connections last.
        if certificate.has_expired() {
            let id = &certificate.node;
            return Err(Status::unauthenticated(format!(
                "the certificate of node {id} has expired"
            )));
        }
        Ok(())
    }
}

fn caller(id: &NodeId, peer: &Peer) -> Caller {
    Caller::Node {
        id: id.clone(),
        address: peer.address.ip(),
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
