//! Addresses that services ask for by name (`ipv4_address` and `ipv6_address` in a compose file): nobody else is given them, whether they are in
//! use at the moment or not.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use proto::{NetworkId, Service, ServiceId};

use super::ledger::parse;

/// Who asks for which address of which network, whoever asked first in front.
#[derive(Debug, Default)]
pub(super) struct Claims {
    networks: HashMap<NetworkId, BTreeMap<IpAddr, Vec<ServiceId>>>,
}

impl Claims {
    /// The service asks for the addresses of its spec; for those that it asked for before it keeps its place.
    pub(super) fn add(&mut self, service: &Service) {
        for (network, address) in claimed(service) {
            let claimants = self.networks.entry(network).or_default();
            let claimants = claimants.entry(address).or_default();
            if !claimants.contains(&service.id) {
                claimants.push(service.id.clone());
            }
        }
    }

    /// Withdraws what `old` asked for and `new` does not; whether there was any.
    pub(super) fn remove(&mut self, old: &Service, new: Option<&Service>) -> bool {
        let kept: Vec<_> = new.into_iter().flat_map(claimed).collect();
        let gone: Vec<_> = claimed(old).filter(|claim| !kept.contains(claim)).collect();
        for (network, address) in &gone {
            let Some(addresses) = self.networks.get_mut(network) else {
                continue;
            };
            if let Some(claimants) = addresses.get_mut(address) {
                claimants.retain(|id| *id != old.id);
            }
            addresses.retain(|_, claimants| !claimants.is_empty());
        }
        self.networks.retain(|_, addresses| !addresses.is_empty());
        !gone.is_empty()
    }

    /// The service that may have the address, if any asks for it.
    pub(super) fn owner(&self, network: &NetworkId, address: impl Into<IpAddr>) -> Option<&ServiceId> {
        self.networks.get(network)?.get(&address.into())?.first()
    }
}

fn claimed(service: &Service) -> impl Iterator<Item = (NetworkId, IpAddr)> {
    let networks = &service.spec.task_template.networks;
    networks.iter().flat_map(|on| {
        let addresses = on.addresses.iter().filter_map(|address| parse(address));
        addresses.map(|address| (NetworkId::from(on.target.as_str()), address))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::spec::NetworkAttachmentConfig;

    fn service(id: &str, address: &str) -> Service {
        let mut service = Service {
            id: id.into(),
            ..Service::default()
        };
        service.spec.task_template.networks = vec![NetworkAttachmentConfig {
            target: "net".into(),
            addresses: vec![address.into()],
            ..NetworkAttachmentConfig::default()
        }];
        service
    }

    #[test]
    fn whoever_asked_first_has_it_until_it_asks_no_more() {
        let mut claims = Claims::default();
        let (first, second) = (service("a", "10.0.0.9"), service("b", "10.0.0.9"));
        claims.add(&first);
        claims.add(&second);
        claims.add(&first);
        let nine = std::net::Ipv4Addr::new(10, 0, 0, 9);
        let owner = |claims: &Claims| claims.owner(&"net".into(), nine).map(ToString::to_string);
        assert_eq!(owner(&claims).as_deref(), Some("a"));
        assert_eq!(claims.owner(&"other".into(), nine), None);
        assert!(!claims.remove(&first, Some(&first)));
        assert_eq!(owner(&claims).as_deref(), Some("a"));
        assert!(claims.remove(&first, Some(&service("a", "10.0.0.8"))));
        assert_eq!(owner(&claims).as_deref(), Some("b"));
        assert!(claims.remove(&second, None));
        assert_eq!(owner(&claims), None);
    }
}
