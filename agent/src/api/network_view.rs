//! All networks that this node knows, whoever keeps them, in the API's JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use netd::{NetworkConfig, NetworkState};
use proto::Network;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::error::{ApiError, ApiResult};
use super::network_peers::peers;
use super::state::App;
use crate::local_network::{self, DEFAULT, extra, user_labels, word_id};
use crate::worker::networks::is_swarm;

/// Networks that are only words: no bridge stands behind them.
const WORDS: &[(&str, &str)] = &[("host", "host"), ("none", "null")];

/// Which of the balancers leads this node's containers to services, among the options that the driver adds.
const BALANCER: &str = "com.shoal.balancer";

/// Who keeps a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// This node.
    Local,
    /// The cluster's managers.
    Swarm,
}

impl Scope {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Swarm => "swarm",
        }
    }
}

/// One network, whoever keeps it.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its identifier.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Docker's name of the driver.
    pub driver: String,
    /// Who keeps it.
    pub scope: Scope,
    /// Made by the engine, not by a user.
    pub builtin: bool,
    /// RFC 3339.
    pub created: String,
    /// As the user gave them.
    pub labels: BTreeMap<String, String>,
    internal: bool,
    attachable: bool,
    /// Whether it is that of published ports.
    pub ingress: bool,
    ipv6: bool,
    options: BTreeMap<String, String>,
    pools: Vec<Value>,
}

/// All networks that this node knows.
#[derive(Debug)]
pub struct Networks(Vec<Found>);

impl Networks {
    /// The networks of this moment: the cluster's first, as they hide their copies on this node.
    pub fn of(app: &App) -> Self {
        let control = app.cluster.control();
        let cluster = control.as_ref().map(manager::Control::networks);
        let mut all: Vec<Found> = cluster.iter().flatten().map(swarm).collect();
        let here = app.netd.networks();
        // A network that the manager has removed may still carry tasks that stop. Who deploys its stack again must not
        // take it for the one that is to be made (moby#29293).
        let local = here
            .iter()
            .filter(|(config, _)| cluster.is_none() || !is_swarm(config));
        let local: Vec<Found> = local
            .map(|(config, state)| local_or_stray(config, state))
            .collect();
        all.extend(local);
        all.extend(WORDS.iter().map(|(name, driver)| word(app, name, driver)));
        Self(all)
    }

    /// Every network.
    pub fn all(self) -> Vec<Found> {
        self.0
    }

    /// By identifier, name, or unambiguous beginning of the identifier; in this order.
    pub fn find(self, reference: &str, scope: Option<&str>) -> ApiResult<Found> {
        let in_scope = |network: &&Found| scope.is_none_or(|scope| scope == network.scope.as_str());
        let all: Vec<&Found> = self.0.iter().filter(in_scope).collect();
        let exact = all.iter().find(|network| network.id == reference);
        let exact = exact.or_else(|| all.iter().find(|network| network.name == reference));
        if let Some(found) = exact {
            return Ok(Found::clone(found));
        }
        let begun: Vec<_> = all
            .iter()
            .filter(|network| !reference.is_empty() && network.id.starts_with(reference))
            .collect();
        match begun.as_slice() {
            [one] => Ok(Found::clone(one)),
            [] => Err(ApiError::not_found(format!("network {reference} not found"))),
            many => Err(ApiError::bad_request(format!(
                "network {reference} is ambiguous ({} matches found based on ID prefix)",
                many.len()
            ))),
        }
    }
}

impl Found {
    /// The network in the API's JSON; `verbose` adds who is on it.
    pub fn json(&self, app: &App, verbose: bool) -> Value {
        let containers = if verbose {
            members(app, &self.id)
        } else {
            Map::new()
        };
        let mut value = json!({
            "Name": self.name,
            "Id": self.id,
            "Created": self.created,
            "Scope": self.scope.as_str(),
            "Driver": self.driver,
            "EnableIPv4": true,
            "EnableIPv6": self.ipv6,
            "IPAM": { "Driver": "default", "Options": null, "Config": self.pools },
            "Internal": self.internal,
            "Attachable": self.attachable,
            "Ingress": self.ingress,
            "ConfigFrom": { "Network": "" },
            "ConfigOnly": false,
            "Containers": containers,
            "Options": self.options,
            "Labels": self.labels,
        });
        if verbose && self.scope == Scope::Swarm {
            value["Options"][BALANCER] = json!(app.netd.balancing().kind.to_string());
        }
        if self.scope == Scope::Swarm {
            value["Peers"] = json!(peers(app, &self.id));
        }
        let problems = self.problems(app);
        if !problems.is_empty() {
            value["Problems"] = json!(problems);
        }
        value
    }
}

impl Found {
    /// What a manager knows to be wrong with it, and what is wrong with it on this node.
    fn problems(&self, app: &App) -> Vec<String> {
        let control = app.cluster.control().filter(|_| self.scope == Scope::Swarm);
        let mut problems = control
            .map(|control| control.network_problems(&self.id))
            .unwrap_or_default();
        problems.extend(app.netd.network_problems(&self.id));
        problems
    }
}

/// Containers of this node on the network.
fn members(app: &App, network: &str) -> Map<String, Value> {
    let endpoint = |info: netd::EndpointInfo| {
        let value = json!({
            "Name": info.name,
            "EndpointID": hex::encode(Sha256::new_with_prefix(network).chain_update(&info.sandbox).finalize()),
            "MacAddress": info.mac.to_string(),
            "IPv4Address": format!("{}/{}", info.ipv4, info.prefix_len),
            "IPv6Address": info.ipv6.map_or_else(String::new, |v6| format!("{}/{}", v6.address, v6.prefix_len)),
        });
        (info.sandbox, value)
    };
    app.netd.endpoints(network).into_iter().map(endpoint).collect()
}

fn swarm(network: &Arc<Network>) -> Found {
    let spec = &network.spec;
    let driver = spec.driver_configuration.clone().unwrap_or_default();
    let pools = network
        .ipam
        .configs
        .iter()
        .map(|pool| pool_json(&pool.subnet, &pool.gateway, &pool.ip_range));
    Found {
        id: network.id.to_string(),
        name: spec.name.clone(),
        driver: if driver.name.is_empty() {
            "overlay".into()
        } else {
            driver.name
        },
        scope: Scope::Swarm,
        builtin: spec.ingress,
        created: network.meta.created_at.to_string(),
        labels: spec.labels.clone(),
        internal: spec.internal,
        attachable: spec.attachable,
        ingress: spec.ingress,
        ipv6: spec.ipv6_enabled,
        options: driver.options,
        pools: pools.collect(),
    }
}

fn local_or_stray(config: &NetworkConfig, state: &NetworkState) -> Found {
    let stray = is_swarm(config);
    let extra = extra(config);
    let range = config.range.map(|range| range.to_string()).unwrap_or_default();
    let v4 = pool_json(&state.subnet.to_string(), &state.gateway.to_string(), &range);
    let range = config.range6.map(|range| range.to_string()).unwrap_or_default();
    let v6 = state
        .ipv6
        .map(|v6| pool_json(&v6.subnet.to_string(), &v6.gateway.to_string(), &range));
    let pools = [v4].into_iter().chain(v6);
    Found {
        id: config.id.clone(),
        name: config.name.clone(),
        driver: if stray { "overlay".into() } else { "bridge".into() },
        scope: if stray { Scope::Swarm } else { Scope::Local },
        builtin: config.name == DEFAULT,
        created: if extra.created.is_empty() {
            "0001-01-01T00:00:00Z".into()
        } else {
            extra.created
        },
        labels: user_labels(config),
        internal: config.internal,
        attachable: extra.attachable,
        ingress: false,
        ipv6: state.ipv6.is_some(),
        options: extra.options,
        pools: pools.collect(),
    }
}

fn word(app: &App, name: &str, driver: &str) -> Found {
    Found {
        id: word_id(&app.root, name),
        name: name.into(),
        driver: driver.into(),
        scope: Scope::Local,
        builtin: true,
        created: local_network::moment("")
            .format(&time::format_description::well_known::Rfc3339)
            .unwrap_or_default(),
        labels: BTreeMap::new(),
        internal: false,
        attachable: false,
        ingress: false,
        ipv6: false,
        options: BTreeMap::new(),
        pools: Vec::new(),
    }
}

fn pool_json(subnet: &str, gateway: &str, range: &str) -> Value {
    let mut pool = json!({ "Subnet": subnet, "Gateway": gateway.split('/').next().unwrap_or_default() });
    if !range.is_empty() {
        pool["IPRange"] = json!(range);
    }
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(id: &str, name: &str) -> Found {
        Found {
            id: id.into(),
            name: name.into(),
            driver: "bridge".into(),
            scope: Scope::Local,
            builtin: false,
            created: String::new(),
            labels: BTreeMap::new(),
            internal: false,
            attachable: false,
            ingress: false,
            ipv6: false,
            options: BTreeMap::new(),
            pools: Vec::new(),
        }
    }

    fn find(reference: &str) -> ApiResult<Found> {
        Networks(vec![
            named("abc1", "x"),
            named("abc2", "y"),
            named("dddd", "abc1"),
        ])
        .find(reference, None)
    }

    #[test]
    fn identifiers_win_over_names_and_names_over_beginnings() {
        assert_eq!(find("abc1").unwrap().name, "x");
        assert_eq!(find("y").unwrap().id, "abc2");
        assert_eq!(find("dd").unwrap().id, "dddd");
        assert!(find("abc").unwrap_err().message.contains("ambiguous"));
        assert_eq!(find("").unwrap_err().message, "network  not found");
    }
}
