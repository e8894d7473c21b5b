//! The cluster's identity: the root certificate, the nodes' certificates, and the tokens with which nodes join.
//!
//! - [`RootCa`]: signs the nodes' certificates; kept in the cluster's object
//! - [`Identity`]: this node's certificate and key, in files
//! - [`Certificate`]: what a certificate says of its node
//! - [`Authority`]: the gRPC service through which nodes get their certificates
//! - [`JoinToken`]: proves the root to the joiner, and the joiner to the managers

mod authority;
mod certificate;
mod identity;
mod root;
mod token;

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
