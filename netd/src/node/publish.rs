//! A sandbox's published ports: from what was asked to what is held.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
        let has6 = self.fabric.uplink6.is_some() && self.default_endpoint6(endpoints).is_some();
        let both = has6 && self.host.forwards6();
        let mut all = Vec::new();
        for one in publish {
            all.extend(at_addresses(one, has6, both)?);
        }
        let wanted: Vec<_> = all.iter().map(|(_, wanted)| *wanted).collect();
        let frontends = self.ports.reserve(&self.host.netns, &owner(id), &wanted)?;
        let records = all.into_iter().zip(frontends).map(|((p, _), f)| PublishRecord {
            publish: Publish {
                host_port: Some(f.port),
                ..p
            },
            fabric_port: f.fabric_port,
        });
        Ok(records.collect())
    }
}

impl SandboxRecord {
    pub(super) fn frontends(&self) -> Vec<Frontend> {
        self.published.iter().map(PublishRecord::frontend).collect()
    }

    pub(super) fn container_ports(&self) -> Vec<(Protocol, u16)> {
        let port = |p: &PublishRecord| (p.publish.protocol, p.publish.container_port);
        let mut ports: Vec<_> = self.published.iter().map(port).collect();
        ports.dedup(); // one of each IP version
        ports
    }
}

impl PublishRecord {
    pub(super) fn frontend(&self) -> Frontend {
        Frontend {
            address: host_address(self.publish.host_ip),
            protocol: self.publish.protocol,
            port: self.publish.host_port.unwrap_or_default(),
            fabric_port: self.fabric_port,
        }
    }
}

/// Who holds a sandbox's ports.
pub(super) fn owner(sandbox: &str) -> String {
    format!("container {sandbox}")
}

/// `None`: every IPv4 address.
fn host_address(ip: Option<IpAddr>) -> Option<IpAddr> {
    ip.filter(|ip| *ip != IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// A port without an address is published on every address of the host, of `both` IP versions if the container `has6` and
/// others are let through: where the host forwards no IPv6, whoever tries it first shall be refused, not left to wait.
fn at_addresses(publish: &Publish, has6: bool, both: bool) -> Result<Vec<(Publish, Wanted)>> {
    if let Some(address) = publish.host_ip.filter(|address| address.is_ipv6() && !has6) {
        return Err(Error::PublishIpv6(address));
    }
    let wanted = Wanted {
        address: host_address(publish.host_ip),
        port: publish.host_port.filter(|port| *port != 0),
        same: false,
        protocol: publish.protocol,
    };
    let mut all = vec![(publish.clone(), wanted)];
    if publish.host_ip.is_none() && both {
        let any = Some(Ipv6Addr::UNSPECIFIED.into());
        let also = Publish {
            host_ip: any,
            ..publish.clone()
        };
        let wanted = Wanted {
            address: any,
            same: true,
            ..wanted
        };
        all.push((also, wanted));
    }
    Ok(all)
}
