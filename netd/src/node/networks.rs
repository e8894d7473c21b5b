//! Networks: choose or check the subnet, make the bridge, serve names.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Errors, Network, NetworkRecord, Node, overlay, sandboxes, services};
use crate::dns::{DnsSockets, DnsTasks, Names, Scope, Source, Zone};
use crate::error::{Error, Result};
use crate::firewall::FabricFirewall;
use crate::netlink::Route;
use crate::nft::Transaction;
use crate::types::{EndpointInfo, Member, NetworkConfig, NetworkState};
use crate::{ipam, names, netns};

const DNS: u16 = 53;

impl Node {
    /// See [`crate::Netd::ensure_network`].
    pub(crate) fn ensure_network(&mut self, config: &NetworkConfig) -> Result<NetworkState> {
        names::check_id(&config.id)?;
        if let Some(network) = self.networks.get_mut(&config.id) {
            check_same(&network.record, config)?;
            let renamed = network.record.config.name != config.name;
            network.record.config.name.clone_from(&config.name);
            network.record.config.labels.clone_from(&config.labels);
            if network.record.config.overlay != config.overlay {
                network.record.config.overlay = config.overlay;
                self.respan_network(&config.id)?;
            }
            if renamed {
                self.refresh_zone(&config.id);
            }
            return Ok(self.network(&config.id)?.state.clone());
        }
        let record = NetworkRecord {
            state: self.plan_network(config)?,
            config: config.clone(),
        };
        self.stores.networks.write(&config.id, &record)?;
        if let Err(error) = self.make_network(&record) {
            let _ = self.forget_network(&record);
            return Err(error);
        }
        self.sync_direct()?;
        Ok(record.state)
    }

    /// How a network that exists spans nodes is another now.
    fn respan_network(&mut self, id: &str) -> Result<()> {
        let record = self.network(id)?.clone();
        self.stores.networks.write(id, &record)?;
        let mut errors = Errors::default();
        errors.collect(self.drop_carrier(id));
        let links = self.fabric.links()?;
        errors.collect(self.sync_mtu(id, &links));
        // First: whoever is reached directly is no neighbour.
        let networks = BTreeSet::from([id.to_owned()]);
        self.turn_direct(&networks, &mut errors, |node, errors| {
            errors.collect(node.sync_carrier(id, &links));
        });
        errors.first()
    }

    /// See [`crate::Netd::claimed_subnets`].
    pub(crate) fn claimed_subnets(&mut self) -> Result<Vec<IpNet>> {
        let v4 = self.host.claimed::<Ipv4Net>()?.into_iter();
        let v6 = self.host.claimed::<Ipv6Net>()?.into_iter();
        let both = v4
            .map(|(subnet, _)| IpNet::from(subnet))
            .chain(v6.map(|(subnet, _)| subnet.into()));
        Ok(both.filter(|subnet| ipam::claims(*subnet)).collect())
    }

    /// See [`crate::Netd::interface_addresses`].
    pub(crate) fn interface_addresses(&mut self, name: &str) -> Result<Option<Vec<IpAddr>>> {
        self.host.addresses(name)
    }

    pub(crate) fn has_network(&self, id: &str) -> bool {
        self.networks.contains_key(id)
    }

    pub(crate) fn list_networks(&self) -> Vec<(NetworkConfig, NetworkState)> {
        self.networks
            .values()
            .map(|n| (n.record.config.clone(), n.record.state.clone()))
            .collect()
    }

    /// See [`crate::Netd::remove_network`].
    pub(crate) fn remove_network(&mut self, id: &str) -> Result<()> {
        let Some(network) = self.networks.get(id) else {
            return Ok(());
        };
        let record = network.record.clone();
        let endpoints: Vec<_> = self.endpoints(id).into_iter().map(|e| e.name).collect();
        if !endpoints.is_empty() {
            return Err(Error::NetworkInUse {
                network: record.config.name,
                endpoints,
            });
        }
        self.forget_network(&record)
    }

    /// See [`crate::Netd::endpoints`].
    pub(crate) fn endpoints(&self, network: &str) -> Vec<EndpointInfo> {
        let all = self
            .sandboxes
            .values()
            .flat_map(|s| s.record.endpoints.iter().map(move |e| (&s.record.id, e)));
        all.filter(|(_, endpoint)| endpoint.network == network)
            .map(|(sandbox, endpoint)| EndpointInfo {
                sandbox: sandbox.clone(),
                name: endpoint.aliases.first().unwrap_or(sandbox).clone(),
                ipv4: endpoint.ipv4,
                prefix_len: endpoint.prefix_len,
                ipv6: endpoint.ipv6,
                mac: endpoint.mac,
            })
            .collect()
    }

    /// The kernel's side of a network: bridge, the host's route to it, DNS, and filter elements.
    fn make_network(&mut self, record: &NetworkRecord) -> Result<()> {
        let NetworkState {
            subnet,
            gateway,
            bridge,
            mtu,
            ..
        } = &record.state;
        let index = self.fabric.ensure_bridge(bridge, *gateway, *subnet, *mtu)?;
        self.make_network6(record)?;
        self.route_to(record)?;
        self.remember_network(record.clone(), index)?;
        if record.config.overlay.is_some() {
            let links = self.fabric.links()?;
            self.sync_carrier(&record.config.id, &links)?;
        }
        let mut transaction = Transaction::default();
        FabricFirewall::add_network(
            &mut transaction,
            bridge,
            &record.state.gateways(),
            record.config.internal,
        );
        self.change_fabric(transaction, "admit a network to")?;
        self.anchor_vips()?;
        self.follow_mesh()
    }

    /// The host's route to a network that is not internal.
    pub(super) fn route_to(&mut self, record: &NetworkRecord) -> Result<()> {
        if record.config.internal {
            return Ok(());
        }
        let route = Route::add(
            record.state.subnet,
            Some(self.fabric.address),
            self.fabric.host_uplink,
        );
        self.host.route.request(route).map_err(|source| Error::Kernel {
            operation: "route",
            object: format!("subnet {} of network {}", record.state.subnet, record.config.name),
            source,
        })
    }

    /// Count the network among ours and serve its names at its gateway.
    pub(super) fn remember_network(&mut self, record: NetworkRecord, bridge: u32) -> Result<()> {
        let id = record.config.id.clone();
        let gateways = record.state.gateways();
        let dns = gateways
            .into_iter()
            .map(|gateway| self.serve_gateway(&id, gateway));
        let dns = dns.collect::<Result<_>>()?;
        self.networks.insert(
            id.clone(),
            Network {
                record,
                last: None,
                last6: None,
                bridge,
                dns,
            },
        );
        self.refresh_zone(&id);
        Ok(())
    }

    /// Compute a network's names anew from the records.
    pub(super) fn refresh_zone(&self, id: &str) {
        let Some(network) = self.networks.get(id) else {
            return;
        };
        let NetworkRecord { config, state } = &network.record;
        let mut zone = Zone::new(&config.name, config.internal, subnets(state));
        let services = self.services.keys().cloned().map(Source::Service);
        let members = self.overlay.members.keys().cloned().map(Source::Member);
        let sandboxes = self.sandboxes.keys().cloned().map(Source::Sandbox);
        for source in services.chain(members).chain(sandboxes) {
            zone.set(&source, self.names_of(&source, id));
        }
        self.directory().set_zone(id, zone);
    }

    /// Compute the names that one has on a network anew from the records.
    pub(super) fn rename(&self, network: &str, source: Source) {
        let names = self.names_of(&source, network);
        self.directory().set_names(network, &source, names);
    }

    /// None for one of which there is no record.
    fn names_of(&self, source: &Source, network: &str) -> Names {
        let found = match source {
            Source::Service(id) => {
                let service = self.services.get(id);
                service.map(|service| services::names_on(&service.wanted, network))
            }
            Source::Member(id) => {
                let member = self.overlay.members.get(id);
                let there = |member: &&Member| !self.overlay.lost.contains(&member.node);
                member
                    .filter(there)
                    .map(|member| overlay::names_on(member, network))
            }
            Source::Sandbox(id) => {
                let sandbox = self.sandboxes.get(id);
                sandbox.map(|sandbox| sandboxes::names_on(&sandbox.record, network))
            }
        };
        found.unwrap_or_default()
    }

    /// Choose an address, or check the wanted one. `also` is taken too.
    pub(super) fn choose_address(
        &mut self,
        id: &str,
        wanted: Option<Ipv4Addr>,
        also: &BTreeSet<Ipv4Addr>,
    ) -> Result<Ipv4Addr> {
        let record = self.network(id)?.clone();
        let (network, subnet) = (record.config.name, record.state.subnet);
        let range = record.config.range.unwrap_or(subnet);
        if let Some(address) = wanted {
            if !ipam::is_host(subnet, address) {
                return Err(Error::AddressOutside {
                    network,
                    address: address.into(),
                    subnet: subnet.into(),
                });
            }
            return match self.address_holder(id, address) {
                Some(holder) => Err(Error::AddressInUse {
                    network,
                    address: address.into(),
                    holder,
                }),
                None => Ok(address),
            };
        }
        let mut taken: BTreeSet<_> = self.endpoints(id).iter().map(|e| e.ipv4).collect();
        taken.extend(also);
        taken.insert(record.state.gateway);
        taken.extend(self.virtual_ips(id));
        let Some(entry) = self.networks.get_mut(id) else {
            return Err(Error::NetworkNotFound(id.to_owned()));
        };
        let chosen = ipam::choose_address(subnet, range, &taken, entry.last);
        entry.last = chosen.or(entry.last);
        chosen.ok_or(Error::NoFreeAddress {
            network,
            subnet: range.into(),
        })
    }

    fn address_holder(&self, id: &str, address: Ipv4Addr) -> Option<String> {
        if self.networks.get(id)?.record.state.gateway == address {
            return Some("the network's gateway".into());
        }
        if self.virtual_ips(id).any(|vip| vip == address) {
            return Some("a service's virtual IP".into());
        }
        self.endpoints(id)
            .into_iter()
            .find(|e| e.ipv4 == address)
            .map(|e| e.name)
    }

    fn virtual_ips(&self, id: &str) -> impl Iterator<Item = Ipv4Addr> {
        let networks = self.services.values().flat_map(|s| &s.wanted.networks);
        networks.filter(move |n| n.network == id).filter_map(|n| n.vip)
    }

    fn plan_network(&mut self, config: &NetworkConfig) -> Result<NetworkState> {
        if config.overlay.is_some_and(|overlay| overlay.encrypted) {
            self.encryption_key()?; // never in clear instead
        }
        let mut taken = self.host.claimed()?;
        let ours = self.networks.values().map(|n| &n.record);
        taken.extend(ours.map(|r| {
            (
                r.state.subnet,
                format!("network {} ({})", r.config.name, r.state.subnet),
            )
        }));
        let network = config.name.clone();
        let subnet = match config.subnet {
            Some(subnet) => check_subnet(&network, subnet, &taken)?,
            None => ipam::choose_subnet(&taken).ok_or_else(|| Error::NoFreeSubnet {
                network: network.clone(),
            })?,
        };
        let gateway = config
            .gateway
            .unwrap_or_else(|| Ipv4Addr::from(u32::from(subnet.network()) + 1));
        if !ipam::is_host(subnet, gateway) {
            return Err(Error::InvalidGateway {
                network,
                gateway: gateway.into(),
                subnet: subnet.into(),
            });
        }
        if let Some(range) = config.range {
            ipam::check_range(&network, range, subnet)?;
        }
        let mtu = self.plan_mtu(config)?;
        let ipv6 = self.plan_network6(config)?;
        Ok(NetworkState {
            subnet,
            gateway,
            ipv6,
            bridge: names::bridge(&config.id),
            mtu,
        })
    }

    fn plan_mtu(&mut self, config: &NetworkConfig) -> Result<u32> {
        match (config.mtu, self.fitting(config)) {
            (Some(mtu), Some(fits)) if mtu > fits => Err(Error::MtuTooLarge {
                network: config.name.clone(),
                mtu,
                fits,
            }),
            (Some(mtu), _) | (None, Some(mtu)) => Ok(mtu),
            (None, None) => Ok(self.host.mtu()),
        }
    }

    /// Take away all that there is of a network, also if it was only half made.
    fn forget_network(&mut self, record: &NetworkRecord) -> Result<()> {
        let (id, state) = (&record.config.id, &record.state);
        let known = self.networks.remove(id).is_some();
        self.directory().remove_zone(id);
        let mut errors = Errors::default();
        if known {
            let mut transaction = Transaction::default();
            let internal = record.config.internal;
            FabricFirewall::remove_network(&mut transaction, &state.bridge, &state.gateways(), internal);
            errors.collect(self.change_fabric(transaction, "dismiss a network from"));
            errors.collect(self.anchor_vips());
            errors.collect(self.follow_mesh());
        }
        if !record.config.internal {
            let route = Route::delete(state.subnet, Some(self.fabric.address), self.fabric.host_uplink);
            let _ = self.host.route.request(route); // gone already is fine
        }
        errors.collect(self.sync_direct());
        errors.collect(self.drop_carrier(id));
        self.unroute6(record);
        errors.collect(self.fabric.delete_link(&state.bridge));
        errors.collect(self.stores.networks.remove(id));
        errors.first()
    }

    fn serve_gateway(&self, id: &str, gateway: IpAddr) -> Result<DnsTasks> {
        let sockets = netns::run(&self.fabric.path, &self.fabric.netns, || bind_patiently(gateway))?;
        self.dns
            .serve(sockets, Scope::Network(id.to_owned()))
            .map_err(|source| Error::Kernel {
                operation: "serve DNS at",
                object: gateway.to_string(),
                source,
            })
    }
}

/// A network removed a moment ago with the same gateway may still be closing its sockets: that is done by their task.
fn bind_patiently(gateway: IpAddr) -> io::Result<DnsSockets> {
    let mut left = 200;
    loop {
        match DnsSockets::bind(gateway, DNS) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && left > 0 => left -= 1,
            done => return done,
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn check_subnet(network: &str, subnet: Ipv4Net, taken: &[(Ipv4Net, String)]) -> Result<Ipv4Net> {
    let network = || network.to_owned();
    if let Some(reason) = ipam::invalid_subnet(subnet) {
        return Err(Error::InvalidSubnet {
            network: network(),
            subnet: subnet.into(),
            reason,
        });
    }
    match ipam::overlap(subnet, taken) {
        Some((_, with)) => Err(Error::SubnetOverlap {
            network: network(),
            subnet: subnet.into(),
            with: with.clone(),
        }),
        None => Ok(subnet),
    }
}

fn subnets(state: &NetworkState) -> impl Iterator<Item = IpNet> {
    let v6 = state.ipv6.map(|v6| v6.subnet.into());
    [state.subnet.into()].into_iter().chain(v6)
}

/// What was left open at creation may stay open; what was said must be the same.
fn check_same(record: &NetworkRecord, config: &NetworkConfig) -> Result<()> {
    let differs = |what| {
        Err(Error::NetworkDiffers {
            network: config.name.clone(),
            what,
        })
    };
    let ipv6 = record.state.ipv6;
    if config.subnet.is_some_and(|subnet| subnet != record.state.subnet) {
        differs("subnet")
    } else if (config.ipv6 || config.subnet6.is_some()) && ipv6.is_none() {
        differs("IPv6")
    } else if config
        .subnet6
        .is_some_and(|subnet| Some(subnet) != ipv6.map(|v6| v6.subnet))
    {
        differs("IPv6 subnet")
    } else if config
        .gateway6
        .is_some_and(|gateway| Some(gateway) != ipv6.map(|v6| v6.gateway))
    {
        differs("IPv6 gateway")
    } else if config
        .gateway
        .is_some_and(|gateway| gateway != record.state.gateway)
    {
        differs("gateway")
    } else if config
        .range
        .is_some_and(|range| Some(range) != record.config.range)
        || config
            .range6
            .is_some_and(|range| Some(range) != record.config.range6)
    {
        differs("range")
    } else if config.internal != record.config.internal {
        differs("internal")
    } else if config.mtu.is_some_and(|mtu| mtu != record.state.mtu) {
        differs("mtu")
    } else {
        Ok(())
    }
}
