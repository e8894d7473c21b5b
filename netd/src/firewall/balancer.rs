//! Balancing by map: `frontend → chain lb<N>`, and in that chain `frontend . random(N) → backend`. So every backend gets
//! exactly its share, a service costs as many elements as it has backends, and the cost of a packet does not grow with the
//! number of services. A chain exists for each N in use.

use std::collections::{BTreeMap, BTreeSet};

use crate::nft::{Element, Expr, Key, Set, Table, Transaction, Verdict};

/// The two maps of one namespace and what the kernel holds of them.
#[derive(Debug, Clone)]
pub(crate) struct Balancer {
    pub(super) table: Table,
    /// frontend : verdict
    pub(super) frontends: &'static Set,
    /// frontend . slot : backend
    pub(super) backends: &'static Set,
    /// The rule of chain lb<N>.
    pub(super) spread: fn(modulus: u32) -> Vec<Expr>,
    /// Chain for a frontend without backends; `None`: it is left out of the map.
    pub(super) empty: Option<&'static str>,
    chains: BTreeSet<u32>,
    current: BTreeMap<Key, Vec<Key>>,
}

/// Frontends with the backends to which they are to lead; `None`: it is no frontend any more.
pub(crate) type Leads = BTreeMap<Key, Option<Vec<Key>>>;

/// A change of the maps.
#[derive(Debug)]
pub(crate) struct Step {
    leads: Leads,
    chains: BTreeSet<u32>,
}

impl Balancer {
    pub(super) fn new(
        table: Table,
        frontends: &'static Set,
        backends: &'static Set,
        spread: fn(u32) -> Vec<Expr>,
        empty: Option<&'static str>,
    ) -> Self {
        Self {
            table,
            frontends,
            backends,
            spread,
            empty,
            chains: BTreeSet::new(),
            current: BTreeMap::new(),
        }
    }

    /// Add to `transaction` what makes these frontends lead where they should; others stay as they are. The step is taken
    /// with [`Balancer::accept`], after the transaction was carried out.
    #[must_use]
    pub(crate) fn steer(&self, mut wanted: Leads, transaction: &mut Transaction) -> Step {
        wanted.retain(|front, backs| self.current.get(front) != backs.as_ref());
        let (mut old_fronts, mut old_backs) = (Vec::new(), Vec::new());
        let (mut new_fronts, mut new_backs) = (Vec::new(), Vec::new());
        let mut chains = BTreeSet::new();
        for (front, backs) in &wanted {
            if let Some(old) = self.current.get(front) {
                old_fronts.extend(self.frontend(front, old));
                old_backs.extend(slots(front, old));
            }
            if let Some(backs) = backs {
                self.ensure_chain(backs.len() as u32, &mut chains, transaction);
                new_fronts.extend(self.frontend(front, backs));
                new_backs.extend(slots(front, backs));
            }
        }
        transaction.remove(&self.table, self.frontends, &old_fronts);
        transaction.remove(&self.table, self.backends, &old_backs);
        transaction.add(&self.table, self.backends, &new_backs);
        transaction.add(&self.table, self.frontends, &new_fronts);
        Step {
            leads: wanted,
            chains,
        }
    }

    /// The same for all frontends: there are to be no others.
    #[must_use]
    pub(crate) fn replace(&self, wanted: BTreeMap<Key, Vec<Key>>, transaction: &mut Transaction) -> Step {
        let gone = self.current.keys().filter(|front| !wanted.contains_key(*front));
        let mut leads: Leads = gone.map(|front| (front.clone(), None)).collect();
        leads.extend(wanted.into_iter().map(|(front, backs)| (front, Some(backs))));
        self.steer(leads, transaction)
    }

    /// The kernel has it so now.
    pub(crate) fn accept(&mut self, step: Step) {
        self.chains.extend(step.chains);
        for (front, backs) in step.leads {
            match backs {
                Some(backs) => self.current.insert(front, backs),
                None => self.current.remove(&front),
            };
        }
    }

    /// What will not be led to any more: frontends with the backends that they lose.
    pub(crate) fn lost(&self, step: &Step) -> Vec<(Key, Key)> {
        let mut lost = Vec::new();
        for (front, new) in &step.leads {
            let kept = |back: &&Key| new.as_ref().is_some_and(|new| new.contains(back));
            let old = self.current.get(front).into_iter().flatten();
            lost.extend(
                old.filter(|back| !kept(back))
                    .map(|back| (front.clone(), back.clone())),
            );
        }
        lost
    }

    /// Whether no frontend will be left.
    pub(crate) fn ends_with(&self, step: &Step) -> bool {
        let stays = |front: &Key| step.leads.get(front).is_none_or(Option::is_some);
        !step.leads.values().any(Option::is_some) && !self.current.keys().any(stays)
    }

    fn ensure_chain(&self, modulus: u32, new: &mut BTreeSet<u32>, transaction: &mut Transaction) {
        if modulus > 0 && !self.chains.contains(&modulus) && new.insert(modulus) {
            let name = chain(modulus);
            transaction.chain(
                &self.table,
                &crate::nft::Chain {
                    name: name.clone(),
                    base: None,
                },
            );
            transaction.rule(&self.table, &name, &(self.spread)(modulus));
        }
    }

    fn frontend(&self, front: &Key, backs: &[Key]) -> Option<Element> {
        let target = match backs.len() as u32 {
            0 => self.empty?.to_owned(),
            n => chain(n),
        };
        Some(Element::Verdict(front.clone(), Verdict::Goto(target)))
    }
}

fn chain(modulus: u32) -> String {
    format!("lb{modulus}")
}

fn slots(front: &Key, backs: &[Key]) -> impl Iterator<Item = Element> {
    backs
        .iter()
        .enumerate()
        .map(|(slot, back)| Element::Value(front.clone().slot(slot as u32), back.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::TaskFirewall;
    use crate::nft::Ip;

    fn ip(last: u8) -> Key {
        Key::default().ipv4([10, 0, 0, last].into())
    }

    #[test]
    fn only_what_changed_is_sent() {
        let mut balancer = TaskFirewall::balancer(Ip::V4);
        let mut first = Transaction::default();
        let both = BTreeMap::from([(ip(1), vec![ip(11), ip(12)]), (ip(2), vec![ip(21)])]);
        let step = balancer.replace(both.clone(), &mut first);
        balancer.accept(step);
        let one = balancer.clone();
        let mut same = Transaction::default();
        balancer.accept(one.replace(both, &mut same));
        assert_eq!(same, Transaction::default());
        let mut less = Transaction::default();
        let step = balancer.steer(BTreeMap::from([(ip(2), Some(vec![]))]), &mut less);
        assert_eq!(balancer.lost(&step), [(ip(2), ip(21))]);
        balancer.accept(step);
        let mut by_hand = Transaction::default();
        by_hand.remove(
            &one.table,
            one.frontends,
            &[Element::Verdict(ip(2), Verdict::Goto("lb1".into()))],
        );
        by_hand.remove(&one.table, one.backends, &[Element::Value(ip(2).slot(0), ip(21))]);
        by_hand.add(
            &one.table,
            one.frontends,
            &[Element::Verdict(ip(2), Verdict::Goto("refuse".into()))],
        );
        assert_eq!(less, by_hand);
        assert!(balancer.chains.is_superset(&BTreeSet::from([1, 2])));
        let without = |fronts: &[u8]| {
            let leads = fronts.iter().map(|front| (ip(*front), None)).collect();
            balancer.steer(leads, &mut Transaction::default())
        };
        assert!(!balancer.ends_with(&without(&[1])) && balancer.ends_with(&without(&[1, 2])));
    }
}
