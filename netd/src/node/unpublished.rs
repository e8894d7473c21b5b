//! At which ports of the node a service answers, of IPv4 and IPv6, and which of them it does not have because another program
//! holds them. The other nodes answer there all the same; this one says what is in the way, and tries again whenever it looks
//! around.

use super::services::serves;
use super::{Errors, Node};
use crate::error::{ErrorKind, Result};
use crate::firewall::Frontend;
use crate::nft::Ip;
use crate::types::{IngressPort, ServiceEndpoint};

impl Node {
    /// Which they are, and who has them.
    pub(super) fn unpublished(&self) -> impl Iterator<Item = String> {
        let missing = self.services.values().flat_map(|service| {
            let missing = self.missing(&service.wanted, &service.frontends).into_iter();
            missing.map(move |(port, ip)| (&service.wanted.name, port, ip))
        });
        missing.map(|(service, port, ip)| {
            let holder = self.ports.blocker(&self.host.netns, ip, port.published, port.protocol);
            let holder = holder.unwrap_or_else(|| "nobody any more".into());
            let version = if ip == Ip::V6 { " over IPv6" } else { "" };
            format!(
                "service {service}: this node does not answer at port {}/{}{version}, which is held by {holder}",
                port.published, port.protocol
            )
        })
    }

    /// Publish those that are free by now.
    pub(super) fn publish_missing(&mut self) -> Result<()> {
        let waiting = self
            .services
            .values()
            .filter(|service| !self.missing(&service.wanted, &service.frontends).is_empty());
        let waiting: Vec<_> = waiting.map(|service| service.wanted.clone()).collect();
        let mut errors = Errors::default();
        for wanted in waiting {
            match self.set_service(wanted) {
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                other => drop(errors.collect(other)),
            }
        }
        errors.first()
    }

    /// The ports that the service is to have on this node and that are not among those `held`.
    pub(super) fn missing(&self, service: &ServiceEndpoint, held: &[Frontend]) -> Vec<(IngressPort, Ip)> {
        let lacks = |port: &IngressPort, ip| !held.iter().any(|f| f.ip() == ip && serves(f, port));
        let of = |ip| {
            let ports = service.ports.iter().filter(move |port| lacks(port, ip));
            ports.map(move |port| (*port, ip))
        };
        let mut missing: Vec<_> = of(Ip::V4).collect();
        let mut missing6 = of(Ip::V6).peekable();
        if missing6.peek().is_some() && self.publishes6(service) {
            missing.extend(missing6);
        }
        missing
    }

    /// Have IPv6 between host and fabric, if the service answers over it.
    pub(super) fn open_ipv6(&mut self, service: &ServiceEndpoint) -> Result<()> {
        if self.speaks6(service) && !self.refuses_ipv6 {
            self.has_way_out6()?;
        }
        Ok(())
    }

    /// Where the host forwards no IPv6, whoever tries it first shall be refused, not left to wait.
    fn publishes6(&self, service: &ServiceEndpoint) -> bool {
        self.speaks6(service) && self.fabric.uplink6.is_some() && self.host.forwards6()
    }

    /// Whether the service's tasks can be reached over IPv6 from every node. Its virtual IP tells, which it has from its
    /// beginning, or a task.
    fn speaks6(&self, service: &ServiceEndpoint) -> bool {
        let vip = |on: &crate::types::ServiceNetwork| on.vip6.is_some() && self.is_ingress(&on.network);
        let mut tasks = service.backends.iter().flat_map(|backend| &backend.addresses6);
        let reached = service.networks.iter().any(vip) || tasks.any(|(on, _)| self.is_ingress(on));
        reached && !service.ports.is_empty()
    }
}
