//! Ports of services that another program holds on this node. The other nodes answer at them all the same; this one says
//! what is in the way, and tries again whenever it looks around.

use super::{Errors, Node, Service};
use crate::error::{ErrorKind, Result};
use crate::types::IngressPort;

impl Node {
    /// Which they are, and who has them.
    pub(super) fn unpublished(&self) -> impl Iterator<Item = String> {
        let missing = self
            .services
            .values()
            .flat_map(|service| missing(service).map(move |port| (&service.wanted.name, port)));
        missing.map(|(service, port)| {
            let holder = self.publish_conflict(port.published, port.protocol);
            let holder = holder.unwrap_or_else(|| "nobody any more".into());
            format!(
                "service {service}: this node does not answer at port {}/{}, which is held by {holder}",
                port.published, port.protocol
            )
        })
    }

    /// Publish those that are free by now.
    pub(super) fn publish_missing(&mut self) -> Result<()> {
        let waiting = self
            .services
            .values()
            .filter(|service| missing(service).next().is_some());
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
}

fn missing(service: &Service) -> impl Iterator<Item = &IngressPort> {
    let held = |port: &&IngressPort| {
        let mut all = service.frontends.iter();
        all.any(|held| held.port == port.published && held.protocol == port.protocol)
    };
    service.wanted.ports.iter().filter(move |port| !held(port))
}
