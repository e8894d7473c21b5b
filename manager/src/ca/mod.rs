//! The cluster's identity: the root certificate, the nodes' certificates, and the tokens with which nodes join.
//!
//! - [`RootCa`]: signs the nodes' certificates; kept in the cluster's object
//! - [`Identity`]: this node's certificate and key, in files
//! - [`JoinToken`]: proves the root to the joiner, and the joiner to the managers

mod identity;
mod root;
mod token;

pub use identity::Identity;
pub(crate) use root::NODE_LIFE;
pub use root::{CaError, RootCa, Signed};
pub use token::{JoinToken, TokenError};
