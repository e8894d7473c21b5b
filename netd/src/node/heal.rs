//! Packet filters that differ from what we believe (somebody flushed them) are written anew as a whole, each table in one
//! transaction: no packet sees a gap, no connection is forgotten.

use super::interfaces::bindings;
use super::{NetworkRecord, Node};
use crate::error::{Error, Result};
use crate::firewall::{Admitted, Direct, FabricFirewall, Leads, Step};
use crate::netlink::Flow;
use crate::nft::{Ip, Key, Transaction};

impl Node {
    /// Carry out a change of the host's table. If it is refused the table is not what we believe, and is written anew; the
    /// records must already say what is wanted.
    pub(super) fn change_host(&mut self, change: Transaction, operation: &'static str) -> Result<()> {
        self.commit_host(change, operation)
            .or_else(|refusal| self.restore_host().map_err(|_| refusal))
    }

    /// Bring the fabric's published ports in line with all sandboxes and services, together with `change`; all anew if that
    /// is refused, as in [`Node::change_host`].
    pub(super) fn change_fabric(&mut self, mut change: Transaction, operation: &'static str) -> Result<()> {
        let [v4, v6] = &self.fabric.balancers;
        let steps = [
            v4.replace(self.published(Ip::V4), &mut change),
            v6.replace(self.published(Ip::V6), &mut change),
        ];
        self.step_fabric(change, steps, operation)
    }

    /// The same for these published ports, of IPv4 and IPv6; nothing else has changed.
    pub(super) fn change_fabric_at(
        &mut self,
        mut change: Transaction,
        leads: [Leads; 2],
        operation: &'static str,
    ) -> Result<()> {
        let ([v4, v6], [leads4, leads6]) = (&self.fabric.balancers, leads);
        let steps = [v4.steer(leads4, &mut change), v6.steer(leads6, &mut change)];
        self.step_fabric(change, steps, operation)
    }

    fn step_fabric(&mut self, change: Transaction, steps: [Step; 2], operation: &'static str) -> Result<()> {
        match self.commit_fabric(change, operation) {
            Ok(()) => {
                let mut lost = Vec::new();
                for (balancer, step) in self.fabric.balancers.iter_mut().zip(steps) {
                    lost.extend(balancer.lost(&step));
                    balancer.accept(step);
                }
                self.forget_flows(&lost)
            }
            Err(refusal) => self.restore_fabric().map_err(|_| refusal),
        }
    }

    /// Let UDP clients of lost backends find another one.
    fn forget_flows(&mut self, lost: &[(Key, Key)]) -> Result<()> {
        if !lost.iter().any(|(front, _)| FabricFirewall::is_udp(front)) {
            return Ok(());
        }
        let forgotten = Flow::forget(&mut self.fabric.netfilter, |flow| {
            FabricFirewall::is_stale(flow, lost)
        });
        forgotten.map(drop).map_err(|source| Error::Kernel {
            operation: "forget flows of",
            object: "the fabric".into(),
            source,
        })
    }

    /// Write the host's table anew.
    pub(crate) fn restore_host(&mut self) -> Result<()> {
        let sandboxes = self.sandboxes.values().flat_map(|s| s.record.frontends());
        let services = self.services.values().flat_map(|s| s.frontends.clone());
        let frontends: Vec<_> = sandboxes.chain(services).collect();
        let mut ruleset = self.host_firewall.ruleset(&frontends);
        for ip in Ip::BOTH {
            let table = self.host_firewall.table(ip);
            Direct::change(ip, &mut ruleset, &table, &Admitted::new(), &self.admitted(ip));
        }
        let done = self.commit_host(ruleset, "write the rules of");
        done.and(self.restore_guard())
    }

    /// Write the fabric's tables anew.
    pub(crate) fn restore_fabric(&mut self) -> Result<()> {
        let mut ruleset = self.fabric.firewall().ruleset();
        for NetworkRecord { config, state } in self.networks.values().map(|n| &n.record) {
            FabricFirewall::add_network(&mut ruleset, &state.bridge, &state.gateways(), config.internal);
        }
        self.restore_anchors(&mut ruleset);
        for record in self.sandboxes.values().map(|s| &s.record) {
            FabricFirewall::bind(&mut ruleset, &bindings(&record.id, &record.endpoints));
        }
        let transit = self.wanted_transit_sets();
        transit.add(&mut ruleset);
        for ip in Ip::BOTH {
            Direct::change_fabric(ip, &mut ruleset, &Admitted::new(), &self.admitted(ip));
        }
        let mut balancers = FabricFirewall::balancers();
        let steps = [Ip::V4, Ip::V6].map(|ip| self.published(ip));
        let steps = balancers.iter().zip(steps);
        let steps: Vec<_> = steps
            .map(|(balancer, wanted)| balancer.replace(wanted, &mut ruleset))
            .collect();
        self.commit_fabric(ruleset, "write the rules of")?;
        balancers
            .iter_mut()
            .zip(steps)
            .for_each(|(balancer, step)| balancer.accept(step));
        self.fabric.balancers = balancers;
        self.mesh.sets = transit;
        Ok(())
    }

    fn commit_host(&mut self, transaction: Transaction, operation: &'static str) -> Result<()> {
        transaction
            .commit(&mut self.host.netfilter)
            .map_err(|source| Error::Kernel {
                operation,
                object: "the host's packet filter".into(),
                source,
            })
    }

    fn commit_fabric(&mut self, transaction: Transaction, operation: &'static str) -> Result<()> {
        transaction
            .commit(&mut self.fabric.netfilter)
            .map_err(|source| Error::Kernel {
                operation,
                object: "the fabric's packet filter".into(),
                source,
            })
    }

    /// Remove the host's table.
    pub(super) fn delete_host_table(&mut self) -> Result<()> {
        self.overlay.underlay = None;
        let guard = self.restore_guard();
        let done = self.commit_host(self.host_firewall.delete(), "remove the table of");
        done.and(guard)
    }
}
