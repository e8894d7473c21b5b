//! The cluster's identity: the root certificate, the nodes' certificates, and the tokens with which nodes join.
//!
//! - [`JoinToken`]: proves the root to the joiner, and the joiner to the managers

mod token;

pub use token::{JoinToken, TokenError};
