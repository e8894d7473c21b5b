//! Published ports: `PortBindings` and `PublishAllPorts` as requests to netd, and netd's answer as a port map.

use std::collections::BTreeSet;

use netd::{Protocol, Publish};

use crate::api::types::config::ContainerConfig;
use crate::api::types::host_config::{HostConfig, PortBinding, PortMap};
use crate::engine::error::{EngineError, Result};

/// Every port to publish. A range of host ports for one container port is its first port; netd says if it is taken.
///
/// # Errors
/// A malformed port, quoted, or a protocol that is not built.
pub(crate) fn requests(config: &ContainerConfig, host: &HostConfig) -> Result<Vec<Publish>> {
    let mut requests = Vec::new();
    for (key, bindings) in &host.port_bindings {
        let (container_port, protocol) = parse(key)?;
        let ephemeral = [PortBinding::default()];
        let bindings = bindings
            .as_deref()
            .filter(|list| !list.is_empty())
            .unwrap_or(&ephemeral);
        for binding in bindings {
            requests.push(publish(binding, container_port, protocol)?);
        }
    }
    if host.publish_all_ports {
        for (container_port, protocol) in exposed(config)? {
            if !requests
                .iter()
                .any(|r| r.container_port == container_port && r.protocol == protocol)
            {
                requests.push(Publish {
                    container_port,
                    protocol,
                    ..Default::default()
                });
            }
        }
    }
    Ok(requests)
}

fn publish(binding: &PortBinding, container_port: u16, protocol: Protocol) -> Result<Publish> {
    let invalid = |what: &str| EngineError::Invalid(format!("invalid port specification: {what:?}"));
    let host_ip = match binding.host_ip.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| invalid(text))?),
    };
    let host_port = match binding.host_port.as_str() {
        "" | "0" => None,
        text => Some(text.parse().map_err(|_| invalid(text))?),
    };
    Ok(Publish {
        host_ip,
        host_port,
        container_port,
        protocol,
    })
}

/// The ports that image and request expose, ranges expanded.
///
/// # Errors
/// A malformed port, quoted.
pub(crate) fn exposed(config: &ContainerConfig) -> Result<BTreeSet<(u16, Protocol)>> {
    let mut ports = BTreeSet::new();
    for key in config.exposed_ports.keys() {
        let (range, protocol) = split(key)?;
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let invalid = || EngineError::Invalid(format!("invalid port specification: {key:?}"));
        let (first, last): (u16, u16) = (
            first.parse().map_err(|_| invalid())?,
            last.parse().map_err(|_| invalid())?,
        );
        ports.extend((first..=last).map(|port| (port, protocol)));
    }
    Ok(ports)
}

fn parse(key: &str) -> Result<(u16, Protocol)> {
    let (port, protocol) = split(key)?;
    match port.parse() {
        Ok(port) if port > 0 => Ok((port, protocol)),
        _ => Err(EngineError::Invalid(format!(
            "invalid port specification: {key:?}"
        ))),
    }
}

fn split(key: &str) -> Result<(&str, Protocol)> {
    let (port, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
    match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Ok((port, Protocol::Tcp)),
        "udp" => Ok((port, Protocol::Udp)),
        other => Err(EngineError::Unsupported(format!(
            "port {key}: protocol {other:?} is not built; use tcp or udp"
        ))),
    }
}

/// What is published, as Docker shows it.
pub(crate) fn published(publish: &[Publish]) -> PortMap {
    let mut map = PortMap::new();
    for port in publish {
        let binding = PortBinding {
            host_ip: port
                .host_ip
                .map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string()),
            host_port: port.host_port.map(|p| p.to_string()).unwrap_or_default(),
        };
        let key = format!("{}/{}", port.container_port, port.protocol);
        map.entry(key)
            .or_default()
            .get_or_insert_with(Vec::new)
            .push(binding);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::config::Empty;

    fn binding(ip: &str, port: &str) -> PortBinding {
        PortBinding {
            host_ip: ip.into(),
            host_port: port.into(),
        }
    }

    #[test]
    fn bindings_and_exposed_ports() {
        let mut config = ContainerConfig::default();
        for key in ["80/tcp", "53/udp", "90-91"] {
            config.exposed_ports.insert(key.into(), Empty {});
        }
        let mut host = HostConfig::default();
        host.port_bindings.insert(
            "80".into(),
            Some(vec![binding("127.0.0.1", "8080"), binding("", "")]),
        );
        assert_eq!(requests(&config, &host).unwrap().len(), 2);
        host.publish_all_ports = true;
        let all = requests(&config, &host).unwrap();
        assert_eq!(all.len(), 5);
        assert_eq!(all[0].host_ip, Some("127.0.0.1".parse().unwrap()));
        assert_eq!((all[0].host_port, all[1].host_port), (Some(8080), None));
        assert!(
            all.iter()
                .any(|p| p.container_port == 53 && p.protocol == Protocol::Udp)
        );
    }

    #[test]
    fn nonsense_is_quoted() {
        for (key, ip, port) in [
            ("x/tcp", "", ""),
            ("0", "", ""),
            ("80/sctp", "", ""),
            ("80", "1.2", ""),
            ("80", "", "99999"),
        ] {
            let mut host = HostConfig::default();
            host.port_bindings
                .insert(key.into(), Some(vec![binding(ip, port)]));
            assert!(
                requests(&ContainerConfig::default(), &host).is_err(),
                "{key} {ip} {port}"
            );
        }
    }

    #[test]
    fn an_answer_reads_as_docker_shows_it() {
        let map = published(&[Publish {
            host_port: Some(8080),
            container_port: 80,
            ..Default::default()
        }]);
        assert_eq!(map["80/tcp"], Some(vec![binding("0.0.0.0", "8080")]));
    }

    #[test]
    fn an_unspecified_address_names_its_ip_version_and_none_means_both() {
        for (ip, host_ip) in [("", None), ("0.0.0.0", Some("0.0.0.0")), ("::", Some("::"))] {
            let mut host = HostConfig::default();
            host.port_bindings
                .insert("80".into(), Some(vec![binding(ip, "8080")]));
            let asked = requests(&ContainerConfig::default(), &host).unwrap();
            assert_eq!(asked[0].host_ip, host_ip.map(|ip| ip.parse().unwrap()), "{ip:?}");
        }
    }
}
