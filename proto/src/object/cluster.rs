//! The cluster itself.

use super::TlsInfo;
use crate::json::api_struct;
use crate::spec::ClusterSpec;
use crate::{ClusterId, Hidden, Meta, Timestamp};

/// The cluster itself; there is one in a store.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Cluster {
    /// Its identifier.
    #[serde(rename = "ID")]
    pub id: ClusterId,
    /// Version and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// Its settings.
    #[serde(default)]
    pub spec: ClusterSpec,
    /// The authority, for the API.
    #[serde(rename = "TLSInfo", default)]
    pub tls_info: TlsInfo,
    /// Whether the root is being exchanged.
    #[serde(default)]
    pub root_rotation_in_progress: bool,
    /// Pools from which networks get their subnets.
    #[serde(default)]
    pub default_addr_pool: Vec<String>,
    /// Prefix length of those subnets.
    #[serde(default)]
    pub subnet_size: u32,
    /// UDP port of VXLAN; 0 is the default.
    #[serde(default)]
    pub data_path_port: u32,
    /// What a node shows to join. The API gives it out in `GET /swarm` only.
    #[serde(default)]
    pub join_tokens: JoinTokens,
    /// The authority with its key. Never leaves the managers: the API clears it.
    #[serde(rename = "RootCA", default, skip_serializing_if = "Option::is_none")]
    pub root_ca: Option<RootCa>,
    /// What opens a locked manager, while managers lock. The API gives it out in `GET /swarm/unlockkey` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlock_key: Option<Hidden>,
    /// What the nodes' tunnels are keyed with besides their own keys, while a network is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_key: Option<NetworkKey>,
    /// How often a user has asked for services to be spread over the nodes again.
    #[serde(default, skip_serializing_if = "crate::json::is_default")]
    pub rebalances: u64,
}

/// A secret that all nodes with encrypted networks share, exchanged from time to time.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkKey {
    /// 32 bytes in base64.
    pub key: Hidden,
    /// When it was made.
    pub created_at: Timestamp,
}

api_struct! {
    /// `SWMTKN-1-<digest of the root certificate>-<secret>` for each role.
    pub struct JoinTokens {
        /// For workers.
        pub worker: Hidden,
        /// For managers.
        pub manager: Hidden,
    }
}

api_struct! {
    /// The cluster's certificate authority.
    pub struct RootCa {
        /// The root certificate in PEM.
        pub cert: String,
        /// Its private key in PEM.
        pub key: Hidden,
        /// The certificate in PEM by which the root before this one vouches for it; empty for the first. Nodes'
        /// certificates carry it along.
        pub cross: String,
        /// The root that is to come, while it is exchanged. It signs already.
        pub next: Option<NextRoot>,
    }
}

api_struct! {
    /// A root that takes another's place.
    pub struct NextRoot {
        /// Its certificate in PEM.
        pub cert: String,
        /// Its private key in PEM.
        pub key: Hidden,
        /// The certificate in PEM by which the root of now vouches for it.
        pub cross: String,
    }
}
