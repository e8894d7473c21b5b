//! The shorter way of direct packets through the fabric; see [`crate::shortcut`].

use super::Node;
use crate::names;
use crate::netlink::Link;
use crate::nft::Ip;
use crate::shortcut::{self, Far, Place, Shortcut, ShortcutError};
use crate::types::{Endpoint, Mac};

/// Whether there is one.
#[derive(Debug, Default)]
pub(super) enum State {
    /// Nothing went directly yet.
    #[default]
    Unused,
    Open(Box<Shortcut>),
    /// The kernel cannot, or something went wrong: everything takes the longer way, until this process ends.
    Refused,
}

impl Node {
    /// What goes directly has changed.
    pub(super) fn sync_shortcut(&mut self) {
        if matches!(self.shortcut, State::Refused) {
            return;
        }
        let far = self.far();
        if matches!(self.shortcut, State::Unused) {
            if far.is_empty() {
                return;
            }
            self.open_shortcut();
        }
        // Without an uplink nothing goes directly, and when it is back this is done again.
        let Ok(uplink) = self.fabric.uplink() else { return };
        self.with_shortcut(|shortcut| shortcut.set_far(far, uplink));
    }

    fn far(&self) -> Far {
        let mut far = Far::new();
        for ip in Ip::BOTH {
            let routes = &self.direct.of(ip).routes;
            let admitted = routes.admitted.iter();
            far.extend(admitted.filter_map(|(address, bridge)| {
                Some(((*bridge.as_ref()?, *address), routes.inside.contains_key(address)))
            }));
        }
        far
    }

    fn open_shortcut(&mut self) {
        let namespace = self.fabric.netns.try_clone().map_err(ShortcutError::Fabric);
        let opened = namespace.and_then(|fabric| Shortcut::open(fabric, self.runtime.clone()));
        match opened {
            Ok(shortcut) => self.shortcut = State::Open(Box::new(shortcut)),
            Err(error) => self.refuse_shortcut(&error),
        }
        self.lead_to_all();
    }

    /// All that there are; where a bridge or a port was made again, to the new one.
    pub(super) fn lead_to_all(&mut self) {
        let all: Vec<_> = self
            .sandboxes
            .iter()
            .map(|(id, sandbox)| (id.clone(), sandbox.record.endpoints.clone()))
            .collect();
        for (id, endpoints) in all {
            self.lead_to(&id, &endpoints);
        }
    }

    /// The sandbox has these ports from now on.
    pub(super) fn lead_to(&mut self, id: &str, endpoints: &[Endpoint]) {
        if !matches!(self.shortcut, State::Open(_)) {
            return;
        }
        for endpoint in endpoints {
            let Some(place) = self.place(id, endpoint) else {
                continue;
            };
            for address in endpoint.addresses() {
                self.with_shortcut(|shortcut| shortcut.set_near(address, place));
            }
        }
    }

    /// These ports go.
    pub(super) fn lead_no_more(&mut self, endpoints: &[Endpoint]) {
        for address in endpoints.iter().flat_map(Endpoint::addresses) {
            self.with_shortcut(|shortcut| shortcut.remove_near(address));
        }
    }

    /// Only networks that span nodes matter, and only their addresses are nobody else's.
    fn place(&mut self, id: &str, endpoint: &Endpoint) -> Option<Place> {
        let network = self.networks.get(&endpoint.network)?;
        network.record.config.overlay.as_ref()?;
        let (bridge, gateway) = (network.bridge, Mac::from_ipv4(endpoint.gateway));
        let port = Link::find(&mut self.fabric.route, &names::port(id, &endpoint.network));
        Some(Place {
            // It comes back to here when a port that is missing is made again.
            port: port.ok().flatten()?.index,
            bridge,
            mac: endpoint.mac,
            gateway,
        })
    }

    /// What fails leaves the longer way, which is always there: half of the shorter one would be worse than none.
    fn with_shortcut(&mut self, change: impl FnOnce(&mut Shortcut) -> Result<(), ShortcutError>) {
        let State::Open(shortcut) = &mut self.shortcut else {
            return;
        };
        if let Err(error) = change(shortcut) {
            self.refuse_shortcut(&error);
        }
    }

    fn refuse_shortcut(&mut self, error: &ShortcutError) {
        shortcut::tell(error);
        self.shortcut = State::Refused;
    }
}
