//! Which entries of the maps change when a virtual address gets other backends. The new ones are written beside the old
//! ones, then the address points at them, then the old ones go: whoever looks meanwhile sees one set or the other.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::tables::{self, Target};

/// A virtual address as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vip {
    pub(super) network: u64,
    pub(super) set: u32,
    pub(super) backends: BTreeSet<IpAddr>,
}

/// Keys and values, one after another, in the order in which they are to be carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) new_slots: Vec<u8>,
    pub(super) new_addresses: Vec<u8>,
    pub(super) new_pairs: Vec<u8>,
    /// `None`: the virtual address goes.
    pub(super) target: Option<Target>,
    pub(super) old_pairs: Vec<u8>,
    pub(super) old_slots: Vec<u8>,
    /// Backends that the address has no more.
    pub(super) lost: Vec<IpAddr>,
}

impl Change {
    /// From `old` to `new`; a new set must have a number of its own.
    pub(super) fn between(vip: IpAddr, old: Option<&Vip>, new: Option<&Vip>) -> Self {
        let none = BTreeSet::new();
        let before = old.map_or(&none, |old| &old.backends);
        let after = new.map_or(&none, |new| &new.backends);
        let mut change = Self {
            target: new.map(Vip::target),
            lost: before.difference(after).copied().collect(),
            ..Self::default()
        };
        change.old_pairs = pairs(vip, before.difference(after));
        if let Some(old) = old {
            change.old_slots = old.slots();
        }
        if let Some(new) = new {
            change.new_slots = new.slots();
            change.new_addresses = after.iter().flat_map(|ip| tables::address(*ip)).collect();
            change.new_pairs = pairs(vip, after.difference(before));
        }
        change
    }
}

impl Vip {
    pub(super) fn target(&self) -> Target {
        Target {
            network: self.network,
            set: self.set,
            count: self.backends.len() as u32,
        }
    }

    fn slots(&self) -> Vec<u8> {
        (0..self.backends.len() as u32)
            .flat_map(|index| tables::slot(self.set, index))
            .collect()
    }
}

fn pairs<'a>(vip: IpAddr, backends: impl Iterator<Item = &'a IpAddr>) -> Vec<u8> {
    backends.flat_map(|ip| tables::pair(vip, *ip)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(set: u32, last: &[u8]) -> Vip {
        Vip {
            network: 1,
            set,
            backends: last.iter().map(|n| IpAddr::from([10, 0, 0, *n])).collect(),
        }
    }

    fn values(change: &[Vec<u8>], size: usize) -> Vec<usize> {
        change.iter().map(|bytes| bytes.len() / size).collect()
    }

    #[test]
    fn a_new_set_stands_beside_the_old_one_until_it_counts() {
        let ip = IpAddr::from([10, 0, 0, 200]);
        let (old, new) = (vip(1, &[1, 2, 3]), vip(2, &[2, 3, 4, 5]));
        let change = Change::between(ip, Some(&old), Some(&new));
        assert_eq!(values(&[change.new_slots, change.old_slots], 8), [4, 3]);
        assert_eq!(values(&[change.new_pairs, change.old_pairs], 32), [2, 1]);
        assert_eq!(change.new_addresses.len(), 4 * 16);
        assert_eq!(change.target, Some(new.target()));
        assert_eq!(change.lost, [IpAddr::from([10, 0, 0, 1])]);
    }

    #[test]
    fn the_first_and_the_last() {
        let ip = IpAddr::from([10, 0, 0, 200]);
        let first = Change::between(ip, None, Some(&vip(1, &[])));
        assert_eq!((first.target.map(|t| t.count), first.lost.len()), (Some(0), 0));
        let last = Change::between(ip, Some(&vip(1, &[1])), None);
        assert_eq!((last.target, last.lost.len()), (None, 1));
        assert_eq!((last.old_slots.len(), last.new_slots.len()), (8, 0));
    }
}
