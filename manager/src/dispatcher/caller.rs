//! Who speaks. Whoever serves a service of this crate says so with every request; what is not said is refused.

use std::net::IpAddr;

use proto::NodeId;
use tonic::{Request, Status};

/// Who speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// This process: believed.
    InProcess,
    /// A node that has shown its certificate.
    Node {
        /// As the certificate says.
        id: NodeId,
        /// From where it connected.
        address: IpAddr,
    },
}

impl Caller {
    /// The request's caller.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Self>().cloned();
        caller.ok_or_else(|| Status::unauthenticated("a node's certificate is needed"))
    }

    /// The answer to a node that was removed.
    pub(crate) fn removed(id: &NodeId) -> Status {
        Status::permission_denied(format!("node {id} is not part of the cluster"))
    }
}
