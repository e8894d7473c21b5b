//! The names of one network, each with whoever has it: a service, a container of another node, a sandbox. A change of one of
//! them costs what its own names cost, however many others there are.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::types::Protocol;

/// What is known of one name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) addresses: Vec<IpAddr>,
    /// Where it is to be found by protocol and port (SRV): names of the same zone.
    pub(crate) targets: Vec<String>,
    pub(crate) ports: Vec<(Protocol, u16)>,
}

/// Who has names, by identifier. Where several claim one address, the first in this order is the answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Source {
    Service(String),
    Member(String),
    Sandbox(String),
}

/// The names that one of them has, in lower case and without a final dot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    entries: HashMap<String, Entry>,
    pointers: HashMap<IpAddr, String>,
    members: HashMap<IpAddr, String>,
}

/// The names of one network.
#[derive(Debug, Clone, Default)]
pub(crate) struct Zone {
    pub(crate) name: String,
    pub(crate) internal: bool,
    subnets: Vec<IpNet>,
    names: HashMap<String, Named>,
    pointers: Claims<IpAddr>,
    members: Claims<IpAddr>,
    sources: HashMap<Source, Keys>,
}

/// A name with all who have it.
#[derive(Debug, Clone, Default)]
struct Named {
    by: Vec<(Source, Entry)>,
    /// What they say together, if they are several.
    merged: Option<Entry>,
}

/// What a source has said something of.
#[derive(Debug, Clone, Default)]
struct Keys {
    names: Vec<String>,
    pointers: Vec<IpAddr>,
    members: Vec<IpAddr>,
}

/// What several may claim, the first of them first.
#[derive(Debug, Clone)]
struct Claims<K>(HashMap<K, Vec<(Source, String)>>);

impl Names {
    /// One more address for a name. A name without an address is known, but answers with nothing.
    pub(crate) fn add(&mut self, name: &str, addresses: impl IntoIterator<Item = impl Into<IpAddr>>) {
        let known = &mut self.entry(name).addresses;
        extend(known, addresses.into_iter().map(Into::into));
    }

    /// The name answers at these ports, under the names of `targets`.
    pub(crate) fn offer(&mut self, name: &str, ports: &[(Protocol, u16)], targets: &[String]) {
        let entry = self.entry(name);
        extend(&mut entry.ports, ports.iter().copied());
        extend(&mut entry.targets, targets.iter().map(|target| lower(target)));
    }

    /// The answer to a reverse question; the first one given stays.
    pub(crate) fn point(&mut self, address: impl Into<IpAddr>, name: &str) {
        self.pointers
            .entry(address.into())
            .or_insert_with(|| name.to_owned());
    }

    /// The address belongs to this sandbox.
    pub(crate) fn member(&mut self, address: impl Into<IpAddr>, sandbox: &str) {
        self.members.insert(address.into(), sandbox.to_owned());
    }

    fn entry(&mut self, name: &str) -> &mut Entry {
        self.entries.entry(lower(name)).or_default()
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.pointers.is_empty() && self.members.is_empty()
    }
}

impl Zone {
    pub(crate) fn new(name: &str, internal: bool, subnets: impl IntoIterator<Item = IpNet>) -> Self {
        Self {
            name: name.to_ascii_lowercase(),
            internal,
            subnets: subnets.into_iter().collect(),
            ..Self::default()
        }
    }

    /// These are the names that it has from now on, and no others.
    pub(crate) fn set(&mut self, source: &Source, names: Names) {
        self.forget(source);
        if names.is_empty() {
            return;
        }
        let mut keys = Keys::default();
        for (name, entry) in names.entries {
            keys.names.push(name.clone());
            self.names.entry(name).or_default().set(source, entry);
        }
        for (address, name) in names.pointers {
            keys.pointers.push(address);
            self.pointers.add(address, source, name);
        }
        for (address, sandbox) in names.members {
            keys.members.push(address);
            self.members.add(address, source, sandbox);
        }
        self.sources.insert(source.clone(), keys);
    }

    /// What is known of a name in lower case.
    pub(crate) fn find(&self, name: &str) -> Option<&Entry> {
        self.names.get(name)?.entry()
    }

    pub(crate) fn addresses(&self, name: &str) -> &[IpAddr] {
        self.find(name).map_or(&[], |entry| &entry.addresses)
    }

    /// The name of an address.
    pub(crate) fn pointer(&self, address: IpAddr) -> Option<&str> {
        self.pointers.first(&address)
    }

    /// The sandbox to which an address belongs.
    pub(crate) fn sandbox_at(&self, address: IpAddr) -> Option<&str> {
        self.members.first(&address)
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.subnets.iter().any(|net| net.contains(&address))
    }

    fn forget(&mut self, source: &Source) {
        let Some(keys) = self.sources.remove(source) else {
            return;
        };
        for name in keys.names {
            if self
                .names
                .get_mut(&name)
                .is_some_and(|named| named.forget(source))
            {
                self.names.remove(&name);
            }
        }
        keys.pointers
            .iter()
            .for_each(|address| self.pointers.remove(address, source));
        keys.members
            .iter()
            .for_each(|address| self.members.remove(address, source));
    }
}

impl Named {
    fn entry(&self) -> Option<&Entry> {
        self.merged.as_ref().or(self.by.first().map(|(_, entry)| entry))
    }

    fn set(&mut self, source: &Source, entry: Entry) {
        self.by.push((source.clone(), entry));
        self.merge();
    }

    /// Whether nobody has the name any more.
    fn forget(&mut self, source: &Source) -> bool {
        self.by.retain(|(by, _)| by != source);
        self.merge();
        self.by.is_empty()
    }

    fn merge(&mut self) {
        self.merged = match self.by.as_slice() {
            [] | [_] => None,
            several => {
                let entries = || several.iter().map(|(_, entry)| entry);
                let mut merged = Entry::default();
                extend(
                    &mut merged.addresses,
                    entries().flat_map(|one| &one.addresses).copied(),
                );
                extend(
                    &mut merged.targets,
                    entries().flat_map(|one| &one.targets).cloned(),
                );
                extend(&mut merged.ports, entries().flat_map(|one| &one.ports).copied());
                Some(merged)
            }
        };
    }
}

impl<K> Default for Claims<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> Claims<K> {
    fn add(&mut self, key: K, source: &Source, value: String) {
        let all = self.0.entry(key).or_default();
        let place = all.partition_point(|(by, _)| by <= source);
        all.insert(place, (source.clone(), value));
    }

    fn remove(&mut self, key: &K, source: &Source) {
        if let Some(all) = self.0.get_mut(key) {
            all.retain(|(by, _)| by != source);
            if all.is_empty() {
                self.0.remove(key);
            }
        }
    }

    fn first(&self, key: &K) -> Option<&str> {
        let (_, value) = self.0.get(key)?.first()?;
        Some(value)
    }
}

/// Add what is not there yet.
fn extend<T: Clone + Eq + Hash>(known: &mut Vec<T>, new: impl Iterator<Item = T>) {
    let mut seen: HashSet<T> = known.iter().cloned().collect();
    known.extend(new.filter(|one| seen.insert(one.clone())));
}

fn lower(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 1, last])
    }

    fn names(name: &str, last: u8) -> Names {
        let mut names = Names::default();
        names.add(name, [ip(last), ip(last)]);
        names.offer(name, &[(Protocol::Tcp, 80)], &[format!("{name}.{last}")]);
        names.point(ip(9), &format!("{name}.{last}"));
        names
    }

    #[test]
    fn a_name_of_several_is_all_of_theirs_until_one_leaves() {
        let mut zone = Zone::new("front", false, []);
        let source = |id: &str| Source::Service(id.into());
        zone.set(&source("b"), names("web", 2));
        zone.set(&source("a"), names("Web.", 1));
        let mut found = zone.addresses("web").to_vec();
        found.sort_unstable();
        assert_eq!(found, [ip(1), ip(2)]);
        let entry = zone.find("web").unwrap();
        assert_eq!((entry.targets.len(), entry.ports.len()), (2, 1));
        assert_eq!(zone.pointer(ip(9)), Some("Web..1"), "the first of them");
        zone.set(&source("a"), names("other", 3));
        assert_eq!(zone.addresses("web"), [ip(2)]);
        assert_eq!(zone.pointer(ip(9)), Some("other.3"));
        zone.set(&source("b"), Names::default());
        assert_eq!(zone.find("web"), None);
        zone.set(&source("a"), Names::default());
        assert!(zone.names.is_empty() && zone.pointers.0.is_empty() && zone.sources.is_empty());
    }

    #[test]
    fn an_address_that_moves_belongs_to_its_new_sandbox() {
        let mut zone = Zone::new("front", false, []);
        let mut at = |id: &str, here: bool| {
            let mut names = Names::default();
            if here {
                names.member(ip(5), id);
            }
            zone.set(&Source::Sandbox(id.into()), names);
        };
        at("old", true);
        at("old", false);
        at("new", true);
        assert_eq!(zone.sandbox_at(ip(5)), Some("new"));
    }
}
