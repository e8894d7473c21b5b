//! The IPv6 side of networks: which subnet, which addresses, and the way out.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::Ipv6Net;
use sha2::{Digest, Sha256};

use super::{Network, NetworkRecord, Node};
use crate::error::{Error, Result};
use crate::fabric6::Uplink6;
use crate::ipam;
use crate::netlink::{LinkAddress, Route};
use crate::types::{EndpointRequest, Ipv6Endpoint, Ipv6State, NetworkConfig, NetworkState};

/// Where this node's prefix is kept.
const PREFIX: &str = "ipv6-prefix";
const NO_IPV6: &str = "IPv6 is disabled on this host: networks with IPv6 have it among their containers only";
const NO_FORWARDING: &str = "IPv6 forwarding is disabled on this host: ports are published over IPv4 alone unless an IPv6 address is given, and \
     containers cannot reach the outside over IPv6 (remedy: sysctl net.ipv6.conf.all.forwarding=1)";

impl NetworkState {
    pub(super) fn gateways(&self) -> Vec<IpAddr> {
        let v6 = self.ipv6.map(|v6| v6.gateway.into());
        [self.gateway.into()].into_iter().chain(v6).collect()
    }
}

impl Node {
    /// Choose or check the IPv6 subnet of a network that is to have one.
    pub(super) fn plan_network6(&mut self, config: &NetworkConfig) -> Result<Option<Ipv6State>> {
        if !config.ipv6 && config.subnet6.is_none() {
            return Ok(None);
        }
        let mut taken = self.host.claimed::<Ipv6Net>()?;
        let ours = self.networks.values().map(|n| &n.record);
        taken.extend(ours.filter_map(|r| {
            let subnet = r.state.ipv6?.subnet;
            Some((subnet, format!("network {} ({subnet})", r.config.name)))
        }));
        let subnet = match config.subnet6 {
            Some(subnet) => check_subnet(&config.name, subnet, &taken)?,
            None => self.free_subnet6(config, &taken)?,
        };
        if let Some(range) = config.range6 {
            ipam::check_range(&config.name, range, subnet)?;
        }
        let first = || Ipv6Addr::from(u128::from(subnet.network()) + 1);
        let gateway = config.gateway6.unwrap_or_else(first);
        if !ipam::is_host6(subnet, gateway) {
            return Err(Error::InvalidGateway {
                network: config.name.clone(),
                gateway: gateway.into(),
                subnet: subnet.into(),
            });
        }
        Ok(Some(Ipv6State { subnet, gateway }))
    }

    fn free_subnet6(&self, config: &NetworkConfig, taken: &[(Ipv6Net, String)]) -> Result<Ipv6Net> {
        let prefix = self.prefix6()?;
        let digest = Sha256::digest(config.id.as_bytes());
        let start = u16::from_be_bytes([digest[0], digest[1]]);
        ipam::choose_subnet6(prefix, start, taken).ok_or_else(|| Error::NoFreeSubnet {
            network: config.name.clone(),
        })
    }

    /// The prefix of this node's own networks: drawn once, the same ever after.
    fn prefix6(&self) -> Result<Ipv6Net> {
        let path = self.config.state_dir.join(PREFIX);
        let kept = fs::read_to_string(&path).ok();
        if let Some(kept) = kept.and_then(|text| text.trim().parse().ok()) {
            return Ok(kept);
        }
        let drawn = ipam::unique_local(rand::random()).ok_or_else(|| Error::NoFreeSubnet {
            network: "IPv6 prefix".into(),
        })?;
        fs::write(&path, drawn.to_string()).map_err(|source| Error::State {
            path,
            operation: "write",
            source,
        })?;
        Ok(drawn)
    }

    /// The kernel's IPv6 side of a network: the bridge's address, and the way out unless it is internal.
    pub(super) fn make_network6(&mut self, record: &NetworkRecord) -> Result<()> {
        let Some(state) = &record.state.ipv6 else {
            return Ok(());
        };
        self.fabric.ensure_bridge6(&record.state.bridge, state)?;
        if record.config.internal || !self.has_way_out6()? {
            return Ok(());
        }
        let Some(uplink) = self.fabric.uplink6 else {
            return Ok(());
        };
        let route = Route::add(state.subnet, Some(uplink.fabric), self.fabric.host_uplink);
        self.host.route.request(route).map_err(|source| Error::Kernel {
            operation: "route",
            object: format!("subnet {} of network {}", state.subnet, record.config.name),
            source,
        })
    }

    /// Whether the uplink has IPv6; whoever wants it first makes it so. On a host without IPv6 a network has it within, and an
    /// operator is told.
    pub(super) fn has_way_out6(&mut self) -> Result<bool> {
        if self.fabric.uplink6.is_some() {
            return Ok(true);
        }
        if let Err(error) = self.raise_uplink6()? {
            tracing::warn!(%error, "IPv6 does not leave this host");
            self.refuses_ipv6 = true;
            return Ok(false);
        }
        self.restore_host()?;
        self.restore_fabric()?;
        Ok(true)
    }

    /// An uplink that an earlier process gave IPv6 has it still, before anything else is looked at: rules are written once.
    pub(super) fn adopt_uplink6(&mut self) -> Result<()> {
        let uplink = self.fabric.uplink()?;
        let given = |one: &LinkAddress| match one.address {
            IpAddr::V6(address) => one.link == uplink && !address.is_unicast_link_local(),
            IpAddr::V4(_) => false,
        };
        if self.fabric.addresses()?.iter().any(given)
            && let Err(error) = self.raise_uplink6()?
        {
            tracing::warn!(%error, "IPv6 does not leave this host any more");
        }
        Ok(())
    }

    /// The inner error is the host's refusal.
    fn raise_uplink6(&mut self) -> Result<Result<()>> {
        let prefix = self.prefix6()?;
        let subnet = ipam::uplink6(prefix).ok_or_else(|| Error::NoFreeSubnet {
            network: "fabric uplink".into(),
        })?;
        let raised = self.fabric.ensure_uplink6(&mut self.host, Uplink6::new(subnet));
        self.host_firewall.fabric6 = self.fabric.uplink6.map(|uplink| uplink.fabric);
        Ok(raised)
    }

    /// What keeps IPv6 of a network that was asked for it on this host. Nobody asks for that of published ports.
    pub(super) fn closed_ipv6(&self) -> Option<String> {
        let open = |(id, n): (&String, &Network)| {
            n.record.state.ipv6.is_some() && !n.record.config.internal && !self.is_ingress(id)
        };
        let wanted = self.networks.iter().any(open);
        self.closed6().filter(|_| wanted).map(str::to_owned)
    }

    fn closed6(&self) -> Option<&'static str> {
        if self.refuses_ipv6 {
            Some(NO_IPV6)
        } else if self.fabric.uplink6.is_some() && !self.host.forwards6() {
            Some(NO_FORWARDING)
        } else {
            None
        }
    }

    /// See [`crate::Netd::network_problems`].
    pub(crate) fn network_problems(&self, id: &str) -> Vec<String> {
        let Some(record) = self.networks.get(id).map(|n| &n.record) else {
            return Vec::new();
        };
        if record.config.internal {
            return Vec::new();
        }
        let mut problems = self.host.warnings();
        let v6 = record.state.ipv6.is_some() && !self.is_ingress(id);
        problems.extend(self.closed6().filter(|_| v6).map(str::to_owned));
        problems
    }

    /// The host's route to a network that is gone.
    pub(super) fn unroute6(&mut self, record: &NetworkRecord) {
        if let (Some(state), Some(uplink)) = (&record.state.ipv6, self.fabric.uplink6) {
            let route = Route::delete(state.subnet, Some(uplink.fabric), self.fabric.host_uplink);
            let _ = self.host.route.request(route); // gone already is fine
        }
    }

    /// The IPv6 side of an interface, if its network has one.
    pub(super) fn plan_endpoint6(&mut self, wanted: &EndpointRequest) -> Result<Option<Ipv6Endpoint>> {
        let record = self.network(&wanted.network)?;
        let (network, state) = (record.config.name.clone(), record.state.ipv6);
        let Some(state) = state else {
            return match wanted.ipv6 {
                Some(_) => Err(Error::NotIpv6(network)),
                None => Ok(None),
            };
        };
        let address = match wanted.ipv6 {
            Some(address) => self.check_address6(&wanted.network, address, state)?,
            None => self.free_address6(&wanted.network, state)?,
        };
        Ok(Some(Ipv6Endpoint {
            address,
            prefix_len: state.subnet.prefix_len(),
            gateway: state.gateway,
        }))
    }

    fn check_address6(&self, id: &str, address: Ipv6Addr, state: Ipv6State) -> Result<Ipv6Addr> {
        let network = self.network(id)?.config.name.clone();
        if !ipam::is_host6(state.subnet, address) {
            return Err(Error::AddressOutside {
                network,
                address: address.into(),
                subnet: state.subnet.into(),
            });
        }
        let holder = if state.gateway == address {
            Some("the network's gateway".to_owned())
        } else if self.virtual_ips6(id).any(|vip| vip == address) {
            Some("a service's virtual IP".to_owned())
        } else {
            let mut all = self.endpoints(id).into_iter();
            all.find(|e| e.ipv6.is_some_and(|v6| v6.address == address))
                .map(|e| e.name)
        };
        match holder {
            None => Ok(address),
            Some(holder) => Err(Error::AddressInUse {
                network,
                address: address.into(),
                holder,
            }),
        }
    }

    fn free_address6(&mut self, id: &str, state: Ipv6State) -> Result<Ipv6Addr> {
        let endpoints = self.endpoints(id);
        let mut taken: BTreeSet<_> = endpoints.iter().filter_map(|e| Some(e.ipv6?.address)).collect();
        taken.insert(state.gateway);
        taken.extend(self.virtual_ips6(id));
        let Some(entry) = self.networks.get_mut(id) else {
            return Err(Error::NetworkNotFound(id.to_owned()));
        };
        let range = entry.record.config.range6.unwrap_or(state.subnet);
        let chosen = ipam::choose_address6(state.subnet, range, &taken, entry.last6);
        entry.last6 = chosen.or(entry.last6);
        chosen.ok_or_else(|| Error::NoFreeAddress {
            network: entry.record.config.name.clone(),
            subnet: range.into(),
        })
    }

    fn virtual_ips6(&self, id: &str) -> impl Iterator<Item = Ipv6Addr> {
        let networks = self.services.values().flat_map(|s| &s.wanted.networks);
        networks.filter(move |n| n.network == id).filter_map(|n| n.vip6)
    }
}

fn check_subnet(network: &str, subnet: Ipv6Net, taken: &[(Ipv6Net, String)]) -> Result<Ipv6Net> {
    if let Some(reason) = ipam::invalid_subnet6(subnet) {
        return Err(Error::InvalidSubnet {
            network: network.to_owned(),
            subnet: subnet.into(),
            reason,
        });
    }
    match ipam::overlap(subnet, taken) {
        Some((_, with)) => Err(Error::SubnetOverlap {
            network: network.to_owned(),
            subnet: subnet.into(),
            with: with.clone(),
        }),
        None => Ok(subnet),
    }
}
