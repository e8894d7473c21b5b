//! What this node knows of the others: where they are, and which of their containers are on networks that this node has.
//! Records first; the kernel follows them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::carriers::Carrier;
use super::encryption::Tunnels;
use super::{Errors, Node};
use crate::dns::{Names, Source};
use crate::error::Result;
use crate::firewall::UnderlayFirewall;
use crate::names;
use crate::types::{Member, Underlay, UnderlayFacts};

/// Name of the one record of its kind.
const UNDERLAY: &str = "underlay";

/// The other nodes and their containers, as the manager said last.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) underlay: Option<Underlay>,
    pub(super) members: BTreeMap<String, Member>,
    /// Nodes that the managers have given up.
    pub(super) lost: BTreeSet<String>,
    /// Once somebody has asked whether this node can encrypt.
    pub(super) tunnels: Option<Tunnels>,
    /// What the kernel has of the networks that span nodes, by network.
    pub(super) carriers: BTreeMap<String, Carrier>,
    /// Bytes of a packet that pass between all nodes.
    pub(super) mtu: Option<u32>,
    /// The link of the host that has this node's address, and its packet size.
    pub(super) carried_by: Option<(u32, u32)>,
    /// The table that guards the data path, and whether the kernel has it so.
    pub(super) guard: Option<UnderlayFirewall>,
    pub(super) guard_known: bool,
}

impl State {
    /// Whether another node's container has this address on the network, as far as it is known.
    pub(super) fn has_member(&self, network: &str, address: IpAddr) -> bool {
        let attachments = self.members.values().flat_map(|m| &m.attachments);
        let mut on = attachments.filter(|on| on.network == network);
        on.any(|on| on.addresses.contains(&address))
    }
}

impl Node {
    /// See [`crate::Netd::set_underlay`].
    pub(crate) fn set_underlay(&mut self, underlay: Option<Underlay>) -> Result<()> {
        if self.overlay.underlay == underlay {
            return Ok(());
        }
        match &underlay {
            Some(underlay) => self.stores.underlay.write(UNDERLAY, underlay)?,
            None => self.stores.underlay.remove(UNDERLAY)?,
        }
        self.overlay.underlay = underlay;
        self.find_near();
        let mut errors = Errors::default();
        errors.collect(self.sync_direct());
        errors.collect(self.sync_tunnels(false));
        errors.collect(self.sync_overlay());
        errors.collect(self.follow_underlay());
        errors.first()
    }

    /// See [`crate::Netd::set_members`].
    pub(crate) fn set_members(&mut self, members: Vec<Member>) -> Result<()> {
        let (mut errors, mut named) = (Errors::default(), BTreeSet::new());
        let (mut touched, mut news) = (BTreeSet::new(), Vec::new());
        members
            .iter()
            .try_for_each(|member| names::check_id(&member.id))?;
        for member in members {
            if self.overlay.members.get(&member.id) == Some(&member) {
                continue;
            }
            errors.collect(self.stores.members.write(&member.id, &member));
            let id = member.id.clone();
            news.push(id.clone());
            named.extend(named_on(&member).map(|network| (network, id.clone())));
            touched.extend(networks_of(&member));
            let old = self.overlay.members.insert(id.clone(), member);
            let before = old.iter().flat_map(named_on);
            named.extend(before.map(|network| (network, id.clone())));
            touched.extend(old.iter().flat_map(networks_of));
        }
        errors.collect(self.sync_direct());
        self.sync_members(&touched, &mut errors);
        self.announce(&news);
        for (network, member) in named {
            self.rename(&network, Source::Member(member));
        }
        errors.collect(self.follow_mesh());
        errors.first()
    }

    /// See [`crate::Netd::remove_members`].
    pub(crate) fn remove_members(&mut self, ids: &BTreeSet<String>) -> Result<()> {
        let (mut errors, mut named) = (Errors::default(), BTreeSet::new());
        let mut touched = BTreeSet::new();
        for id in ids {
            if let Some(member) = self.overlay.members.remove(id) {
                errors.collect(self.stores.members.remove(id));
                named.extend(named_on(&member).map(|network| (network, id.clone())));
                touched.extend(networks_of(&member));
            }
        }
        errors.collect(self.sync_direct());
        self.sync_members(&touched, &mut errors);
        for (network, member) in named {
            self.rename(&network, Source::Member(member));
        }
        errors.collect(self.follow_mesh());
        errors.first()
    }

    /// See [`crate::Netd::underlay_facts`].
    pub(crate) fn underlay_facts(&mut self, address: IpAddr) -> Result<Option<UnderlayFacts>> {
        let forwards = self.host.forwards();
        let next_hops6 = self.host.next_hops6();
        let carrier = self.host.carrier(address)?;
        Ok(carrier.map(|link| UnderlayFacts {
            mtu: link.mtu,
            forwards,
            next_hop6: next_hops6.get(&link.index).copied(),
        }))
    }

    /// See [`crate::Netd::members_on`].
    pub(crate) fn members_on(&self, network: &str) -> Vec<Member> {
        let on = |member: &&Member| member.attachments.iter().any(|on| on.network == network);
        self.overlay.members.values().filter(on).cloned().collect()
    }

    pub(crate) fn member_ids(&self) -> Vec<String> {
        self.overlay.members.keys().cloned().collect()
    }

    /// What an earlier process of this agent was told.
    pub(super) fn adopt_overlay(&mut self) -> Result<()> {
        self.overlay.underlay = self.stores.underlay.read_all()?.pop();
        let members = self.stores.members.read_all::<Member>()?;
        self.overlay.members = members
            .into_iter()
            .map(|member| (member.id.clone(), member))
            .collect();
        self.adopt_lost()
    }
}

/// A member's names on a network.
pub(super) fn names_on(member: &Member, network: &str) -> Names {
    let mut names = Names::default();
    for on in member.attachments.iter().filter(|on| on.network == network) {
        for name in &on.names {
            names.add(name, on.addresses.iter().copied());
        }
        if let Some(first) = on.names.first() {
            let all = on.addresses.iter();
            all.for_each(|address| names.point(*address, first));
        }
    }
    names
}

/// The networks on which a member has names.
pub(super) fn named_on(member: &Member) -> impl Iterator<Item = String> + '_ {
    let named = member.attachments.iter().filter(|on| !on.names.is_empty());
    named.map(|on| on.network.clone())
}

fn networks_of(member: &Member) -> impl Iterator<Item = String> + '_ {
    member.attachments.iter().map(|on| on.network.clone())
}
