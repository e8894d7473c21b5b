//! Who takes part in consensus.

use proto::NodeId;
use serde::{Deserialize, Serialize};

/// A manager as the others know it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// `host:port` at which the other managers reach it.
    #[serde(rename = "addr")]
    pub address: String,
    /// The node that it runs on; its certificate must say the same. Empty in groups of one from before it was recorded.
    #[serde(default)]
    pub node: NodeId,
}
