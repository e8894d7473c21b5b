//! Which of the two balancers leads a sandbox's sockets to tasks, and what the socket balancer is told.
//!
//! By socket hooks where they can be attached; by packet filters in the sandbox (`services`) otherwise, and in a sandbox
//! that is outside the cgroup. A sandbox that had packet filters before the node turned to hooks has both until it ends: new
//! sockets get a task's address before a packet exists, and the filters go on translating those of before.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tokio::task::JoinHandle;

use super::services::{sees, virtual_ips};
use super::{Errors, Node, VersionVips};
use crate::error::{Error, Result, chain};
use crate::netlink::Socket;
use crate::sockets::{Pin, Pinned, SocketBalancer, SocketError, VirtualIp};
use crate::types::{BalancerChoice, BalancerKind, Balancing};
use crate::{names, netns};

/// The balancer of this node.
#[derive(Debug, Default)]
pub(super) struct State {
    sockets: Option<SocketBalancer>,
    /// Why there is none, if one was asked for.
    reason: Option<String>,
    releasing: Vec<JoinHandle<()>>,
}

impl State {
    /// Something that must have ended before a change is in force.
    pub(super) fn releasing(&mut self, job: JoinHandle<()>) {
        self.releasing.push(job);
    }

    pub(super) fn warning(&self) -> Option<String> {
        let reason = self.reason.as_ref()?;
        Some(format!("virtual IPs are balanced by nftables: {reason}"))
    }
}

impl Node {
    /// See [`crate::Netd::balancing`].
    pub(crate) fn balancing(&self) -> Balancing {
        Balancing {
            kind: match self.balancing.sockets {
                Some(_) => BalancerKind::Ebpf,
                None => BalancerKind::Nftables,
            },
            reason: self.balancing.reason.clone(),
        }
    }

    /// Take over or set up the socket balancer, all services and sandboxes included, if that is wanted and can be.
    pub(super) fn open_sockets(&mut self) -> Result<()> {
        let opened = match self.config.balancer {
            BalancerChoice::Nftables => return self.use_rules(),
            _ => self.make_sockets(),
        };
        match opened {
            Ok(sockets) => {
                self.balancing.sockets = Some(sockets);
                Ok(())
            }
            Err(error) if self.config.balancer == BalancerChoice::Ebpf => Err(Error::NoSocketBalancer(error)),
            Err(error) => {
                self.balancing.reason = Some(chain(&error));
                self.use_rules()
            }
        }
    }

    /// After all sandboxes have what they need: without a socket balancer nothing of one may be left.
    pub(super) fn settle_sockets(&mut self) {
        if self.balancing.sockets.is_none()
            && let Err(error) = self.abandon_sockets()
        {
            tracing::warn!(
                error = chain(&error),
                "programs of an earlier agent stay attached"
            );
        }
    }

    /// Whether packet filters must balance a new sandbox's virtual IPs.
    pub(super) fn needs_rules(&self, outside: bool) -> bool {
        outside || self.balancing.sockets.is_none()
    }

    /// Let the sandbox's sockets be balanced on the networks that it is on.
    pub(super) fn admit_sandbox(&mut self, id: &str) -> Result<()> {
        let Some(sandbox) = self.sandboxes.get(id).filter(|s| !s.record.outside) else {
            return Ok(());
        };
        let networks = sandbox.record.endpoints.iter().map(|e| e.network.clone());
        let networks: BTreeSet<String> = networks.collect();
        let Some(sockets) = &self.balancing.sockets else {
            return Ok(());
        };
        let cookie = match sockets.cookie(id) {
            Some(cookie) => cookie,
            None => self.netns_cookie(id).map_err(Error::Balance)?,
        };
        let Some(sockets) = &mut self.balancing.sockets else {
            return Ok(());
        };
        sockets.admit(id, cookie, &networks).map_err(Error::Balance)
    }

    /// The sandbox is gone.
    pub(super) fn dismiss_sandbox(&mut self, id: &str) -> Result<()> {
        match &mut self.balancing.sockets {
            Some(sockets) => sockets.dismiss(id).map_err(Error::Balance),
            None => Ok(()),
        }
    }

    /// A sandbox with no virtual IP in sight has no packet filters any more, and needs none where sockets are balanced.
    pub(super) fn forget_rules(&mut self, id: &str) -> Result<()> {
        let sockets = self.balancing.sockets.is_some();
        match self.sandboxes.get_mut(id) {
            Some(sandbox) if sockets && sandbox.record.by_rules && !sandbox.record.outside => {
                sandbox.record.by_rules = false;
                self.save(id)
            }
            _ => Ok(()),
        }
    }

    /// A service led to `old`, and now leads to `new`.
    pub(super) fn steer_sockets(&mut self, old: &[VirtualIp], new: Vec<VirtualIp>) -> Result<()> {
        let Some(sockets) = &mut self.balancing.sockets else {
            return Ok(());
        };
        let mut errors = Errors::default();
        let mut pins = Vec::new();
        let networks: BTreeSet<_> = old.iter().chain(&new).map(|vip| vip.network.clone()).collect();
        let kept: BTreeSet<_> = new.iter().map(|vip| vip.address).collect();
        for vip in old.iter().filter(|vip| !kept.contains(&vip.address)) {
            let removed = sockets.remove(vip.address).map_err(Error::Balance);
            pins.extend(errors.collect(removed).into_iter().flatten());
        }
        for vip in new {
            let set = sockets.set(vip).map_err(Error::Balance);
            pins.extend(errors.collect(set).into_iter().flatten());
        }
        self.release_pinned(pins, &networks);
        errors.first()
    }

    /// Lead sockets that are connected to these addresses elsewhere. Not while everybody else waits for the node: looking
    /// into every sandbox takes its time, and new sockets are led right already.
    fn release_pinned(&mut self, pins: Vec<(IpAddr, Pin)>, networks: &BTreeSet<String>) {
        let Some(sockets) = self.balancing.sockets.as_ref().filter(|_| !pins.is_empty()) else {
            return;
        };
        let pinned = sockets.pinned(pins);
        let seeing = self.sandboxes.iter().filter(|(_, s)| sees(s, networks));
        let paths: Vec<_> = seeing
            .map(|(id, _)| names::netns(&self.config.run_dir, id))
            .collect();
        let job = self.runtime.spawn_blocking(move || {
            for path in paths {
                let released = release(&pinned, &path);
                if let Err(error) = released {
                    tracing::warn!(error = chain(&error), "sockets stay with a lost backend");
                }
            }
        });
        self.balancing.releasing(job);
    }

    /// What must end before a change is in force for sockets that were connected before it.
    pub(crate) fn releasing(&mut self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut self.balancing.releasing)
    }

    /// Take programs and maps away, whoever attached them.
    pub(super) fn abandon_sockets(&mut self) -> Result<()> {
        self.balancing.sockets = None;
        match &self.config.cgroup {
            Some(path) => SocketBalancer::abandon(path).map_err(Error::Balance),
            None => Ok(()),
        }
    }

    fn make_sockets(&self) -> Result<SocketBalancer, SocketError> {
        let path = self.config.cgroup.as_deref().ok_or(SocketError::NoCgroup)?;
        let mut sockets = SocketBalancer::open(path)?;
        let wanted = self.services.values().flat_map(|s| virtual_ips(&s.wanted));
        let mut members = Vec::new();
        for (id, sandbox) in self.sandboxes.iter().filter(|(_, s)| !s.record.outside) {
            let endpoints = &sandbox.record.endpoints;
            if !endpoints.is_empty() {
                let networks = endpoints.iter().map(|e| e.network.clone()).collect();
                members.push((id.clone(), self.netns_cookie(id)?, networks));
            }
        }
        sockets.synchronize(wanted.collect(), members)?;
        sockets.attach()?;
        Ok(sockets)
    }

    /// Every sandbox is balanced by packet filters from now on.
    fn use_rules(&mut self) -> Result<()> {
        let mut errors = Errors::default();
        let without = self.sandboxes.values().filter(|s| !s.record.by_rules);
        let without: Vec<_> = without.map(|s| s.record.id.clone()).collect();
        for id in without {
            if let Some(sandbox) = self.sandboxes.get_mut(&id) {
                sandbox.record.by_rules = true;
                sandbox.vips = VersionVips::UNKNOWN;
            }
            errors.collect(self.save(&id));
        }
        errors.first()
    }

    fn netns_cookie(&self, id: &str) -> Result<u64, SocketError> {
        let failed = |source| SocketError::Namespace {
            sandbox: id.to_owned(),
            source,
        };
        if let Some(socket) = self.sandboxes.get(id).and_then(|s| s.netfilter.as_ref()) {
            return socket.netns_cookie().map_err(failed);
        }
        let path = names::netns(&self.config.run_dir, id);
        let cookie = || -> Result<u64> {
            let namespace = netns::open(&path)?.ok_or_else(|| Error::SandboxNotFound(id.to_owned()))?;
            netns::run(&path, &namespace, || Socket::route()?.netns_cookie())
        };
        cookie().map_err(|error| failed(std::io::Error::other(error)))
    }
}

fn release(pinned: &Pinned, path: &std::path::Path) -> Result<()> {
    let Some(namespace) = netns::open(path)? else {
        return Ok(()); // the sandbox is gone, and its sockets with it
    };
    let mut diagnostic = netns::run(path, &namespace, Socket::diagnostic)?;
    let released = pinned.release(&mut diagnostic);
    released.map(drop).map_err(|source| Error::Kernel {
        operation: "lead anew sockets of",
        object: path.display().to_string(),
        source,
    })
}
