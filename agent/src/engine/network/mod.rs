//! A container's networks: which ones it wants, the request to netd, and what netd's answer looks like in Docker's words.

mod connect;
pub mod places;
mod ports;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use netd::{AttachRequest, Endpoint, EndpointRequest, Mac, NetworkConfig, Sandbox};

use super::error::{EngineError, Result};
use super::record::ContainerRecord;
use crate::api::types::config::ContainerConfig;
use crate::api::types::host_config::HostConfig;
use crate::api::types::network_settings::{EndpointSettings, NetworkingConfig};

use places::Places;
pub(crate) use ports::{exposed, published};

/// Name of the network of containers that ask for none.
pub const DEFAULT_NETWORK: &str = "bridge";

/// `HostConfig.NetworkMode`, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkMode {
    /// Loopback only.
    None,
    /// The host's namespace.
    Host,
    /// The namespace of this container.
    Container(String),
    /// A network by name or id.
    Network(String),
}

impl NetworkMode {
    /// Reads a mode; empty and `default` are the default bridge.
    pub fn parse(mode: &str) -> Self {
        match mode {
            "none" => Self::None,
            "host" => Self::Host,
            "" | "default" => Self::Network(DEFAULT_NETWORK.into()),
            other => match other.strip_prefix("container:") {
                Some(container) => Self::Container(container.into()),
                None => Self::Network(other.into()),
            },
        }
    }

    /// The mode of a container.
    pub fn of(config: &ContainerConfig, host: &HostConfig) -> Self {
        if config.network_disabled {
            Self::None
        } else {
            Self::parse(&host.network_mode)
        }
    }
}

/// The networks a new container wants, by the names it used for them.
///
/// # Errors
/// Endpoints beside a mode that has none.
pub fn wanted(
    config: &ContainerConfig,
    host: &HostConfig,
    networking: NetworkingConfig,
) -> Result<BTreeMap<String, EndpointSettings>> {
    let mut networks: BTreeMap<String, EndpointSettings> = networking
        .endpoints_config
        .into_iter()
        .map(|(name, endpoint)| {
            (
                if name == "default" {
                    DEFAULT_NETWORK.into()
                } else {
                    name
                },
                endpoint.unwrap_or_default(),
            )
        })
        .collect();
    let mode = NetworkMode::of(config, host);
    match &mode {
        // There the node's own server answers, and must, for the names of other containers to be found.
        NetworkMode::Network(name) if name != DEFAULT_NETWORK && !host.dns.is_empty() => {
            return Err(EngineError::Unsupported(format!(
                "HostConfig.Dns is supported on the network {DEFAULT_NETWORK} only, not on {name}"
            )));
        }
        NetworkMode::Network(name) => {
            let endpoint = networks.entry(name.clone()).or_default();
            if endpoint.mac_address.is_empty() {
                endpoint.mac_address.clone_from(&config.mac_address);
            }
        }
        // The command line sends an empty endpoint named after the mode.
        NetworkMode::None | NetworkMode::Host | NetworkMode::Container(_) => {
            networks.retain(|name, _| *name != host.network_mode);
            if let Some(name) = networks.keys().next() {
                return Err(EngineError::Invalid(format!(
                    "container cannot be connected to network {name}: its network mode is {}",
                    host.network_mode
                )));
            }
        }
    }
    networks.values().try_for_each(check_endpoint)?;
    Ok(networks)
}

pub(crate) fn check_endpoint(endpoint: &EndpointSettings) -> Result<()> {
    address(endpoint)?;
    address6(endpoint)?;
    mac(endpoint)?;
    let ipam = endpoint.ipam_config.clone().unwrap_or_default();
    if !ipam.link_local_ips.is_empty() {
        return Err(EngineError::Unsupported(
            "link-local addresses of endpoints are not supported by this engine".into(),
        ));
    }
    if endpoint.gw_priority != 0 {
        return Err(EngineError::Unsupported(
            "GwPriority of endpoints is not supported by this engine".into(),
        ));
    }
    if !endpoint.links.is_empty() {
        return Err(EngineError::Unsupported(
            "links of endpoints are not supported by this engine".into(),
        ));
    }
    match endpoint
        .driver_opts
        .as_ref()
        .and_then(|options| options.keys().next())
    {
        Some(option) => Err(EngineError::Unsupported(format!(
            "driver option {option:?} of an endpoint is not supported"
        ))),
        None => Ok(()),
    }
}

fn address(endpoint: &EndpointSettings) -> Result<Option<Ipv4Addr>> {
    let text = endpoint
        .ipam_config
        .as_ref()
        .map_or("", |ipam| ipam.ipv4_address.as_str());
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| EngineError::Invalid(format!("invalid IPv4 address: {text}")))
}

fn address6(endpoint: &EndpointSettings) -> Result<Option<Ipv6Addr>> {
    let ipam = endpoint.ipam_config.as_ref();
    match ipam.map_or("", |ipam| ipam.ipv6_address.as_str()) {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| EngineError::Invalid(format!("invalid IPv6 address: {text}"))),
    }
}

fn mac(endpoint: &EndpointSettings) -> Result<Option<Mac>> {
    if endpoint.mac_address.is_empty() {
        return Ok(None);
    }
    endpoint
        .mac_address
        .parse()
        .map(Some)
        .map_err(|error: netd::InvalidMac| EngineError::Invalid(error.to_string()))
}

/// Checks published and exposed ports.
///
/// # Errors
/// A malformed port, quoted.
pub(crate) fn check_ports(config: &ContainerConfig, host: &HostConfig) -> Result<()> {
    exposed(config)?;
    ports::requests(config, host).map(drop)
}

/// A network as netd knows it, by id, name, or unambiguous id prefix.
///
/// # Errors
/// There is none.
pub(crate) fn find(known: &[NetworkConfig], text: &str) -> Result<NetworkConfig> {
    let exact = known
        .iter()
        .find(|n| n.id == text)
        .or_else(|| known.iter().find(|n| n.name == text));
    if let Some(network) = exact {
        return Ok(network.clone());
    }
    let mut matches = known
        .iter()
        .filter(|n| !text.is_empty() && n.id.starts_with(text));
    match (matches.next(), matches.next()) {
        (Some(network), None) => Ok(network.clone()),
        _ => Err(EngineError::NoSuchNetwork(text.to_owned())),
    }
}

/// The request for a container's sandbox: the network of its mode first (eth0), then the others by name.
///
/// # Errors
/// A network that does not exist.
pub(crate) fn request(
    record: &ContainerRecord,
    hostname: &str,
    known: &[NetworkConfig],
    places: &Places,
) -> Result<AttachRequest> {
    let first = match NetworkMode::of(&record.config, &record.host_config) {
        NetworkMode::Network(name) => name,
        _ => String::new(),
    };
    let mut names: Vec<&String> = record.networks.keys().collect();
    names.sort_by_key(|name| **name != first);
    let endpoints = names
        .into_iter()
        .map(|name| {
            let place = places.get(name);
            let network = find(known, place.map_or(name, |place| &place.network))?;
            let mut request = endpoint_request(record, &record.networks[name], &network)?;
            if let Some(place) = place {
                place.enter(&mut request);
            }
            Ok(request)
        })
        .collect::<Result<_>>()?;
    Ok(AttachRequest {
        sandbox: record.id.to_string(),
        hostname: hostname.to_owned(),
        endpoints,
        publish: ports::requests(&record.config, &record.host_config)?,
        outside: !record.host_config.cgroup_parent.trim_matches('/').is_empty(),
    })
}

pub(crate) fn endpoint_request(
    record: &ContainerRecord,
    endpoint: &EndpointSettings,
    network: &NetworkConfig,
) -> Result<EndpointRequest> {
    Ok(EndpointRequest {
        network: network.id.clone(),
        ipv4: address(endpoint)?,
        ipv6: address6(endpoint)?,
        mac: mac(endpoint)?,
        aliases: dns_names(record, endpoint),
    })
}

/// Names of a container on a network: its own, its aliases, its short id.
fn dns_names(record: &ContainerRecord, endpoint: &EndpointSettings) -> Vec<String> {
    let mut names = vec![record.name.clone()];
    for name in endpoint
        .aliases
        .iter()
        .map(String::as_str)
        .chain([record.id.short()])
    {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// The endpoints of a container as netd has set them up, by the names the container uses.
pub(crate) fn attached(
    record: &ContainerRecord,
    sandbox: &Sandbox,
    known: &[NetworkConfig],
) -> BTreeMap<String, EndpointSettings> {
    let attach = |(name, wanted): (&String, &EndpointSettings)| {
        // A name may stand for a network of this node and for one of the cluster; the container is on one of them.
        let is = |id: &str| {
            let network = known.iter().find(|network| network.id == id);
            network.is_some_and(|network| network.id.starts_with(name.as_str()) || network.name == *name)
        };
        let actual = sandbox.endpoints.iter().find(|endpoint| is(&endpoint.network))?;
        Some((name.clone(), describe(record, wanted, actual)))
    };
    record.networks.iter().filter_map(attach).collect()
}

/// An endpoint in Docker's words.
pub(crate) fn describe(
    record: &ContainerRecord,
    wanted: &EndpointSettings,
    actual: &Endpoint,
) -> EndpointSettings {
    let v6 = |part: fn(&netd::Ipv6Endpoint) -> String| actual.ipv6.as_ref().map(part).unwrap_or_default();
    EndpointSettings {
        network_id: actual.network.clone(),
        endpoint_id: endpoint_id(record.id.as_str(), &actual.network),
        gateway: actual.gateway.to_string(),
        ip_address: actual.ipv4.to_string(),
        ip_prefix_len: actual.prefix_len,
        ipv6_gateway: v6(|v6| v6.gateway.to_string()),
        global_ipv6_address: v6(|v6| v6.address.to_string()),
        global_ipv6_prefix_len: actual.ipv6.map_or(0, |v6| v6.prefix_len),
        mac_address: actual.mac.to_string(),
        dns_names: dns_names(record, wanted),
        ..wanted.clone()
    }
}

/// Docker gives every endpoint an id of its own; ours follows from container and network.
fn endpoint_id(container: &str, network: &str) -> String {
    use sha2::{Digest, Sha256};
    hex::encode(Sha256::digest(format!("{container}/{network}")))
}

#[cfg(test)]
mod tests;
