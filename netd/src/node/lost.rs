//! Nodes that the managers have given up. What runs there is found under no name, and connections with it are ended: nobody
//! answers on them any more, and whoever has them would wait until his patience ends, for minutes or, if he only listens,
//! for ever. The ways there stay, for the node may be back in a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use super::overlay::named_on;
use super::{Errors, Node};
use crate::dns::Source;
use crate::error::{Error, Result, chain};
use crate::netlink::{Connected, Flow, Socket};
use crate::types::Protocol;
use crate::{names, netns};

/// Name of the one record of its kind.
const LOST: &str = "nodes";

impl Node {
    /// See [`crate::Netd::set_lost`].
    pub(crate) fn set_lost(&mut self, nodes: BTreeSet<String>) -> Result<()> {
        if self.overlay.lost == nodes {
            return Ok(());
        }
        let mut errors = Errors::default();
        errors.collect(self.stores.lost.write(LOST, &nodes));
        let before = std::mem::replace(&mut self.overlay.lost, nodes);
        let turned: BTreeSet<_> = before.symmetric_difference(&self.overlay.lost).cloned().collect();
        let members = self.overlay.members.values();
        for member in members.filter(|member| turned.contains(&member.node)) {
            let source = Source::Member(member.id.clone());
            named_on(member).for_each(|network| self.rename(&network, source.clone()));
        }
        self.end_connections(&turned);
        errors.first()
    }

    /// What an earlier process of this agent was told.
    pub(super) fn adopt_lost(&mut self) -> Result<()> {
        self.overlay.lost = self.stores.lost.read_all()?.pop().unwrap_or_default();
        Ok(())
    }

    /// End connections with what runs on those of the nodes that are lost. Not while everybody else waits for the node.
    fn end_connections(&mut self, turned: &BTreeSet<String>) {
        let mut gone: BTreeMap<&str, BTreeSet<IpAddr>> = BTreeMap::new();
        let lost = |node: &String| turned.contains(node) && self.overlay.lost.contains(node);
        for member in self.overlay.members.values().filter(|m| lost(&m.node)) {
            for on in &member.attachments {
                gone.entry(&on.network).or_default().extend(&on.addresses);
            }
        }
        let mut places = Vec::new();
        for (id, sandbox) in &self.sandboxes {
            let networks = sandbox.record.endpoints.iter().map(|e| e.network.as_str());
            let peers: BTreeSet<IpAddr> = networks
                .filter_map(|network| gone.get(network))
                .flatten()
                .copied()
                .collect();
            if !peers.is_empty() {
                let path = names::netns(&self.config.run_dir, id);
                places.push((path, peers, sandbox.record.by_rules));
            }
        }
        let passed_on = self
            .mesh
            .ingress
            .as_deref()
            .and_then(|ingress| gone.remove(ingress));
        let passed_on = passed_on.map(|tasks| (self.fabric.path.clone(), tasks));
        if places.is_empty() && passed_on.is_none() {
            return;
        }
        let job = self.runtime.spawn_blocking(move || {
            if let Some((fabric, tasks)) = passed_on
                && let Err(error) = forget_passed_on(&fabric, &tasks)
            {
                tracing::warn!(
                    error = chain(&error),
                    "clients of a lost node's tasks are not refused"
                );
            }
            for (path, peers, by_rules) in places {
                if let Err(error) = end_in(&path, &peers, by_rules) {
                    tracing::warn!(error = chain(&error), "connections to a lost node stay");
                }
            }
        });
        self.balancing.releasing(job);
    }
}

/// Forget the connections from outside that this node passes on to these tasks. What their clients send next is led to another
/// task, or to none: whoever gets it knows no such connection and says so (RFC 9293, section 3.10.7.1), and the client has
/// an error. One that only listens hears nothing: what would end it must carry its sequence number, which nobody here knows.
fn forget_passed_on(fabric: &Path, tasks: &BTreeSet<IpAddr>) -> Result<()> {
    let Some(namespace) = netns::open(fabric)? else {
        return Ok(());
    };
    let to_lost = |flow: &Flow| flow.protocol == Protocol::Tcp.number() && tasks.contains(&flow.answering.0);
    let forgotten = netns::run(fabric, &namespace, || {
        Flow::forget(&mut Socket::netfilter()?, to_lost)
    })?;
    if forgotten > 0 {
        tracing::info!(forgotten, "connections through published ports to a lost node");
    }
    Ok(())
}

/// Fine if the sandbox is gone.
fn end_in(path: &Path, peers: &BTreeSet<IpAddr>, by_rules: bool) -> Result<()> {
    let Some(namespace) = netns::open(path)? else {
        return Ok(());
    };
    let sockets = || {
        let tracked = if by_rules {
            Some(Socket::netfilter()?)
        } else {
            None
        };
        Ok((Socket::diagnostic()?, tracked))
    };
    let (mut diagnostic, tracked) = netns::run(path, &namespace, sockets)?;
    let ended = || -> std::io::Result<()> {
        let flows = tracked.map_or(Ok(Vec::new()), |mut socket| Flow::list(&mut socket))?;
        let translated = translated(&flows, peers);
        let connected = Connected::list(&mut diagnostic, Protocol::Tcp.number())?;
        let lost =
            |one: &&Connected| peers.contains(&one.peer.0) || translated.contains(&(one.local, one.peer));
        let mut lost = connected.iter().filter(lost);
        lost.try_for_each(|one| one.destroy(&mut diagnostic))
    };
    ended().map_err(|source| Error::Kernel {
        operation: "end connections of",
        object: path.display().to_string(),
        source,
    })
}

/// Ends of connections to virtual addresses, where packet filters lead them to one of these.
fn translated(flows: &[Flow], peers: &BTreeSet<IpAddr>) -> BTreeSet<((IpAddr, u16), (IpAddr, u16))> {
    let to_lost = |flow: &&Flow| flow.protocol == Protocol::Tcp.number() && peers.contains(&flow.answering.0);
    let flows = flows.iter().filter(to_lost);
    flows.map(|flow| (flow.source, flow.wanted)).collect()
}
