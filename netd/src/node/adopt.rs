//! After a start: take over what is there, repair what differs from the records, remove what nobody remembers. Containers
//! that are in order keep every link, address and connection.

use std::collections::BTreeSet;

use super::interfaces::bind_resolver;
use super::{Errors, NetworkRecord, Node, Sandbox, SandboxRecord, Service, VersionVips};
use super::{publish, services};
use crate::error::{Result, chain};
use crate::firewall::Frontend;
use crate::netlink::Socket;
use crate::{names, netns};

impl Node {
    pub(super) fn adopt(&mut self) -> Result<()> {
        self.adopt_overlay()?;
        self.adopt_ingress()?;
        self.adopt_uplink6()?;
        let networks: Vec<NetworkRecord> = self.stores.networks.read_all()?;
        for record in networks {
            let state = &record.state;
            let bridge = self
                .fabric
                .ensure_bridge(&state.bridge, state.gateway, state.subnet, state.mtu)?;
            self.make_network6(&record)?;
            self.route_to(&record)?;
            self.remember_network(record, bridge)?;
        }
        let ports: BTreeSet<_> = self.fabric.links()?.into_iter().map(|l| l.name).collect();
        for record in self.stores.sandboxes.read_all::<SandboxRecord>()? {
            self.adopt_sandbox(record, &ports)?;
        }
        for service in self.stores.services.read_all::<Service>()? {
            self.adopt_service(service);
        }
        self.restore_mesh()?;
        self.adopt_direct()?;
        self.restore_fabric()?;
        self.anchor_vips()?;
        self.restore_host()?;
        self.sync_direct()?;
        if let Err(error) = self.sync_overlay() {
            tracing::warn!(
                error = chain(&error),
                "the way to other nodes is not as it should be"
            );
        }
        self.remove_strangers()?;
        self.open_sockets()?;
        let sandboxes: Vec<_> = self.sandboxes.keys().cloned().collect();
        for id in sandboxes {
            if let Err(error) = self.balance_sandbox(&id) {
                tracing::warn!(container.id = %id, error = chain(&error), "virtual IPs not restored");
            }
        }
        self.settle_sockets();
        self.networks.keys().for_each(|id| self.refresh_zone(id));
        Ok(())
    }

    /// A record without a namespace is what a reboot or a crash in `attach` leaves: it is dropped.
    fn adopt_sandbox(&mut self, record: SandboxRecord, ports: &BTreeSet<String>) -> Result<()> {
        let (id, path) = (record.id.clone(), names::netns(&self.config.run_dir, &record.id));
        let known = record
            .endpoints
            .iter()
            .all(|e| self.networks.contains_key(&e.network));
        let Some(namespace) = netns::open(&path)?.filter(|_| known) else {
            return self.stores.sandboxes.remove(&id);
        };
        for frontend in record.frontends() {
            self.adopt_port(&publish::owner(&id), frontend);
        }
        let endpoints = record.endpoints.clone();
        let vips = if record.by_rules {
            VersionVips::UNKNOWN
        } else {
            VersionVips::default()
        };
        self.sandboxes.insert(
            id.clone(),
            Sandbox {
                record,
                vips,
                dns: None,
                netfilter: None,
            },
        );
        self.name_sandbox(&id);
        if endpoints.is_empty() {
            return Ok(());
        }
        let missing: Vec<_> = endpoints
            .into_iter()
            .filter(|e| !ports.contains(&names::port(&id, &e.network)))
            .collect();
        let kept = self.config.kept.of(&id);
        let (mut inside, resolver) = netns::run(&path, &namespace, || {
            Ok((Socket::route()?, bind_resolver(false, kept)))
        })?;
        if !missing.is_empty() {
            tracing::warn!(container.id = %id, count = missing.len(), "interfaces were missing; making them again");
            if let Err(error) = self.make_links(&id, &namespace, &mut inside, &missing) {
                tracing::warn!(container.id = %id, error = chain(&error), "interfaces not restored");
            }
        }
        match resolver {
            Ok((sockets, netfilter)) => self.serve_sandbox(&id, sockets, netfilter),
            Err(error) => {
                tracing::warn!(container.id = %id, %error, "127.0.0.11 does not answer in this container");
                Ok(())
            }
        }
    }

    fn adopt_service(&mut self, service: Service) {
        for frontend in &service.frontends {
            self.adopt_port(&services::owner(&service.wanted.name), *frontend);
        }
        self.services.insert(service.wanted.id.clone(), service);
    }

    fn adopt_port(&mut self, owner: &str, frontend: Frontend) {
        if let Err(error) = self.ports.adopt(&self.host.netns, owner, frontend) {
            self.warnings.push(format!("{owner}: {}", chain(&error)));
        }
    }

    /// Links of the fabric and namespace files that no record knows.
    fn remove_strangers(&mut self) -> Result<()> {
        let mut known: BTreeSet<String> = self
            .networks
            .iter()
            .flat_map(|(id, n)| [n.record.state.bridge.clone(), names::vxlan(id)])
            .collect();
        for sandbox in self.sandboxes.values() {
            known.extend(
                sandbox
                    .record
                    .endpoints
                    .iter()
                    .map(|e| names::port(&sandbox.record.id, &e.network)),
            );
        }
        let mut errors = Errors::default();
        let prefixes = [names::BRIDGE_PREFIX, names::PORT_PREFIX, names::VXLAN_PREFIX];
        let ours = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        for link in self
            .fabric
            .links()?
            .into_iter()
            .filter(|l| ours(&l.name) && !known.contains(&l.name))
        {
            errors.collect(self.fabric.delete_link(&link.name));
        }
        for name in netns::list(&names::netns_dir(&self.config.run_dir))? {
            if name != "fabric" && !self.sandboxes.contains_key(&name) {
                errors.collect(netns::remove(&names::netns(&self.config.run_dir, &name)));
            }
        }
        errors.first()
    }
}
