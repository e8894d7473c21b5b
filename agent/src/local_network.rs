//! Networks of this node alone, as the network room keeps them.
//!
//! That room knows subnets and names; what else the API shows of a network (when it was made, options, whether
//! containers may join) travels in one reserved label, so that a network is one record in one place.

use std::collections::BTreeMap;

use ipnet::{Ipv4Net, Ipv6Net};
use netd::{Netd, NetworkConfig};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::engine::id::random_hex;

/// Prefix of labels that are ours and not shown.
const RESERVED: &str = "shoal.";
/// The label with [`Extra`] in JSON.
const EXTRA_LABEL: &str = "shoal.network";
/// Docker's driver option for the size of packets.
const MTU_OPTION: &str = "com.docker.network.driver.mtu";
/// The network of containers that name none.
pub const DEFAULT: &str = "bridge";

/// A network to be made on this node.
#[derive(Debug, Clone, Default)]
pub struct LocalNetwork {
    /// Unique name.
    pub name: String,
    /// Empty: a free one is picked.
    pub subnet: String,
    /// Empty: the first address.
    pub gateway: String,
    /// The part of the subnet from which addresses are picked; empty: all of it.
    pub range: String,
    /// Has IPv6 beside IPv4.
    pub ipv6: bool,
    /// The same of IPv6.
    pub subnet6: String,
    /// The same of IPv6.
    pub gateway6: String,
    /// The same of IPv6.
    pub range6: String,
    /// No way out.
    pub internal: bool,
    /// Always true in effect: containers of this node may join.
    pub attachable: bool,
    /// Driver options as given.
    pub options: BTreeMap<String, String>,
    /// Labels as given.
    pub labels: BTreeMap<String, String>,
}

/// What the API shows beyond the network room's own fields.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Extra {
    /// RFC 3339.
    pub created: String,
    /// As given.
    pub attachable: bool,
    /// As given.
    pub options: BTreeMap<String, String>,
}

impl LocalNetwork {
    /// The record of a new network; the error says what is wrong with the request.
    pub fn config(self) -> Result<NetworkConfig, String> {
        let mut mtu = None;
        for (option, value) in &self.options {
            match option.as_str() {
                MTU_OPTION => {
                    mtu = Some(
                        value
                            .parse()
                            .map_err(|_| format!("invalid {MTU_OPTION} {value:?}"))?,
                    )
                }
                other => return Err(format!("network option {other:?} is not supported")),
            }
        }
        let extra = Extra {
            created: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
            attachable: self.attachable,
            options: self.options,
        };
        let mut labels = self.labels;
        if let Some(label) = labels.keys().find(|label| label.starts_with(RESERVED)) {
            return Err(format!(
                "label {label:?}: names that begin with {RESERVED:?} are reserved"
            ));
        }
        labels.extend([extra.label()]);
        if !self.ipv6 && !self.subnet6.is_empty() {
            return Err(format!("subnet {:?} needs IPv6 enabled (--ipv6)", self.subnet6));
        }
        for (subnet, range) in [(&self.subnet, &self.range), (&self.subnet6, &self.range6)] {
            if subnet.is_empty() && !range.is_empty() {
                return Err(format!("IP range {range:?} needs a subnet (--subnet)"));
            }
        }
        Ok(NetworkConfig {
            id: random_hex(),
            subnet: given(&self.subnet, "IPv4 subnet")?,
            gateway: given(&self.gateway, "IPv4 gateway")?,
            range: given(&self.range, "IPv4 range")?.map(|range: Ipv4Net| range.trunc()),
            ipv6: self.ipv6,
            subnet6: given(&self.subnet6, "IPv6 subnet")?,
            gateway6: given(&self.gateway6, "IPv6 gateway")?,
            range6: given(&self.range6, "IPv6 range")?.map(|range: Ipv6Net| range.trunc()),
            name: self.name,
            internal: self.internal,
            labels,
            mtu,
            ..NetworkConfig::default()
        })
    }
}

impl Extra {
    /// As it travels with the network.
    pub fn label(&self) -> (String, String) {
        // Plain strings always serialise.
        (
            EXTRA_LABEL.to_owned(),
            serde_json::to_string(self).unwrap_or_default(),
        )
    }
}

/// `None` if it is left open.
fn given<T: std::str::FromStr>(text: &str, what: &str) -> Result<Option<T>, String> {
    let parse = |text: &str| text.parse().map_err(|_| format!("invalid {what} {text:?}"));
    Some(text).filter(|text| !text.is_empty()).map(parse).transpose()
}

/// What the API shows of a network beyond the network room's own fields.
pub fn extra(config: &NetworkConfig) -> Extra {
    config
        .labels
        .get(EXTRA_LABEL)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// The labels that the user gave.
pub fn user_labels(config: &NetworkConfig) -> BTreeMap<String, String> {
    let given = config
        .labels
        .iter()
        .filter(|(name, _)| !name.starts_with(RESERVED));
    given.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Makes the default network at the first start.
pub async fn ensure_default(netd: &Netd) -> netd::Result<()> {
    if netd.networks().iter().any(|(config, _)| config.name == DEFAULT) {
        return Ok(());
    }
    let network = LocalNetwork {
        name: DEFAULT.into(),
        ..LocalNetwork::default()
    };
    match network.config() {
        Ok(config) => netd.ensure_network(&config).await.map(drop),
        // A constant request has nothing wrong with it.
        Err(_) => Ok(()),
    }
}

/// Identifier of a network that is only a word (`host`, `none`): stable per root.
pub fn word_id(root: &std::path::Path, name: &str) -> String {
    let digest = Sha256::new_with_prefix(root.as_os_str().as_encoded_bytes())
        .chain_update(name)
        .finalize();
    hex::encode(digest)
}

/// A creation time; the beginning of time if there is none.
pub fn moment(created: &str) -> OffsetDateTime {
    OffsetDateTime::parse(created, &Rfc3339).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserved_label_is_not_shown() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let network = LocalNetwork {
            name: "n".into(),
            labels: labels.clone(),
            ..LocalNetwork::default()
        };
        let config = network.config().unwrap();
        assert_eq!(user_labels(&config), labels);
        assert!(!extra(&config).created.is_empty());
        assert_eq!(config.subnet, None);
    }

    #[test]
    fn wrong_requests_are_named() {
        let with = |subnet: &str, option: &str| {
            let options = [option]
                .iter()
                .filter(|o| !o.is_empty())
                .map(|o| ((*o).into(), "1".into()))
                .collect();
            LocalNetwork {
                subnet: subnet.into(),
                options,
                ..LocalNetwork::default()
            }
            .config()
            .unwrap_err()
        };
        assert!(with("10.0.0.0/99", "").contains("10.0.0.0/99"));
        let alone = LocalNetwork {
            range: "10.0.0.0/25".into(),
            ..LocalNetwork::default()
        };
        assert!(
            alone.config().unwrap_err().contains("10.0.0.0/25"),
            "of which subnet?"
        );
        assert!(with("", "com.docker.network.bridge.name").contains("com.docker.network.bridge.name"));
    }
}
