//! A sandbox's published ports: from what was asked to what is held.

use std::net::{IpAddr, Ipv4Addr};

use super::{Node, PublishRecord, SandboxRecord};
use crate::error::{Error, Result};
use crate::firewall::Frontend;
use crate::ports::Wanted;
use crate::types::{Endpoint, Protocol, Publish};

impl Node {
    pub(super) fn reserve_ports(
        &mut self,
        id: &str,
        publish: &[Publish],
        endpoints: &[Endpoint],
    ) -> Result<Vec<PublishRecord>> {
        if publish.is_empty() {
            return Ok(Vec::new());
        }
        if self.default_endpoint(endpoints).is_none() {
            return Err(Error::PublishNowhere(id.to_owned()));
        }
        let wanted = publish.iter().map(wanted_port).collect::<Result<Vec<_>>>()?;
        let frontends = self.ports.reserve(&self.host.netns, &owner(id), &wanted)?;
        let records = publish.iter().zip(frontends).map(|(p, f)| PublishRecord {
            publish: Publish {
                host_port: Some(f.port),
                ..p.clone()
            },
            fabric_port: f.fabric_port,
        });
        Ok(records.collect())
    }
}

impl SandboxRecord {
    pub(super) fn frontends(&self) -> Vec<Frontend> {
        let frontend = |p: &PublishRecord| Frontend {
            address: host_address(p.publish.host_ip).unwrap_or_default(),
            protocol: p.publish.protocol,
            port: p.publish.host_port.unwrap_or_default(),
            fabric_port: p.fabric_port,
        };
        self.published.iter().map(frontend).collect()
    }

    pub(super) fn container_ports(&self) -> Vec<(Protocol, u16)> {
        let port = |p: &PublishRecord| (p.publish.protocol, p.publish.container_port);
        self.published.iter().map(port).collect()
    }
}

/// Who holds a sandbox's ports.
pub(super) fn owner(sandbox: &str) -> String {
    format!("container {sandbox}")
}

/// `None`: every address.
fn host_address(ip: Option<IpAddr>) -> Result<Option<Ipv4Addr>> {
    match ip {
        None => Ok(None),
        Some(any) if any.is_unspecified() => Ok(None),
        Some(IpAddr::V4(address)) => Ok(Some(address)),
        Some(v6) => Err(Error::PublishIpv6(v6)),
    }
}

fn wanted_port(publish: &Publish) -> Result<Wanted> {
    Ok(Wanted {
        address: host_address(publish.host_ip)?,
        port: publish.host_port.filter(|port| *port != 0),
        protocol: publish.protocol,
    })
}
