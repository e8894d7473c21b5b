//! The cluster's identity: the root certificate, the nodes' certificates, and the tokens with which nodes join.
//!
//! - [`RootCa`]: signs the nodes' certificates; kept in the cluster's object
//! - [`Identity`]: this node's certificate and key, in files
//! - [`Certificate`]: what a certificate says of its node
//! - [`Authority`]: the gRPC service through which nodes get their certificates
//! - `rotation`: one root takes another's place
//! - `unseen`: nodes whose answer was lost
//! - [`JoinToken`]: proves the root to the joiner, and the joiner to the managers

mod authority;
mod certificate;
mod cross;
mod identity;
mod root;
pub(crate) mod rotation;
mod token;
pub(crate) mod unseen;

pub use authority::Authority;
pub use certificate::Certificate;
pub use identity::Identity;
pub(crate) use root::{BACKDATE, NODE_LIFE, role_name};
pub use root::{CaError, RootCa, Signed};
pub use token::{JoinToken, TokenError};

/// How long the cluster's nodes' certificates are valid.
pub(crate) fn node_life(cluster: &proto::Cluster) -> time::Duration {
    let life = cluster
        .spec
        .ca_config
        .as_ref()
        .map(|ca_config| ca_config.node_cert_expiry);
    life.filter(|&life| life > 0)
        .map_or(NODE_LIFE, time::Duration::nanoseconds)
}
