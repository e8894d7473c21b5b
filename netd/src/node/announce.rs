//! A task may speak before the other nodes have heard of it, and who is spoken to asks in vain for the way back, again and
//! again. When his node hears of the task he is told, so that nobody waits for his next question.

use std::net::IpAddr;

use super::services::sees;
use super::{Network, Node};
use crate::overlay::{announcement, hardware_address};
use crate::types::{Mac, Member};

/// Nobody has asked for more at once: so many come only with all that a node is told when it is back.
const MOST: usize = 512;

impl Node {
    /// Everybody on the networks of these members, of which the kernel has just been told, hears where they are.
    pub(super) fn announce(&self, members: &[String]) {
        let members = members.iter().filter_map(|id| self.overlay.members.get(id));
        let frames = members.flat_map(|member| self.announcements(member)).take(MOST);
        for (bridge, frame) in frames {
            if let Err(error) = self.fabric.say(bridge, &frame) {
                tracing::debug!(%error, "who has asked for a new task has to ask again");
                return;
            }
        }
    }

    /// Frames, and the index of the bridge on which each is to be said.
    fn announcements<'a>(&'a self, member: &'a Member) -> impl Iterator<Item = (u32, Vec<u8>)> + 'a {
        let heard = |network: &String| {
            let near = [network.clone()].into();
            self.sandboxes.values().any(|sandbox| sees(sandbox, &near))
        };
        let here = member.attachments.iter().filter(move |on| heard(&on.network));
        here.flat_map(move |on| {
            let network = self.networks.get(&on.network);
            let all = on.addresses.iter().filter_map(move |address| {
                let network = network?;
                let at = self.said_of(network, *address, hardware_address(on)?)?;
                let frame = announcement(mac(network), *address, at);
                Some((network.bridge, frame))
            });
            all.collect::<Vec<_>>()
        })
    }

    /// What the bridge would answer about an address whose own hardware address is `own`; `None` if nothing.
    fn said_of(&self, network: &Network, address: IpAddr, own: Mac) -> Option<Mac> {
        if self.is_direct(address) {
            return Some(mac(network));
        }
        let carrier = self.overlay.carriers.get(&network.record.config.id)?;
        carrier.entries.knows(network.bridge, address).then_some(own)
    }
}

/// The bridge's own hardware address.
fn mac(network: &Network) -> Mac {
    Mac::from_ipv4(network.record.state.gateway)
}
