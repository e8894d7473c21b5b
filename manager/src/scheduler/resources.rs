//! What tasks reserve and what nodes have: processor time, memory, and things that a node's operator counts or names.

use std::collections::{BTreeMap, BTreeSet};

use proto::TaskSpec;
use proto::spec::{DiscreteResource, GenericResource, NamedResource, Reservations};

use super::rank::Share;

/// What is taken on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Used {
    nano_cpus: i64,
    memory_bytes: i64,
    /// Counted things by kind.
    counted: BTreeMap<String, i64>,
    /// Named things by kind and name.
    named: BTreeSet<(String, String)>,
}

/// What a task reserves; `None` if nothing.
pub(crate) fn reservations(spec: &TaskSpec) -> Option<&Reservations> {
    let reserved = spec.resources.as_ref()?.reservations.as_ref()?;
    (*reserved != Reservations::default()).then_some(reserved)
}

/// What a node has too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack<'t> {
    /// Processor time or memory.
    Room,
    /// Things of this kind.
    Things(&'t str),
}

impl Used {
    /// What the node has too little of for one more task that reserves this; `None` if it has room.
    pub(crate) fn lack<'t>(&self, node: &Reservations, wanted: &'t Reservations) -> Option<Lack<'t>> {
        if wanted.nano_cpus > node.nano_cpus - self.nano_cpus
            || wanted.memory_bytes > node.memory_bytes - self.memory_bytes
        {
            return Some(Lack::Room);
        }
        let mut things = wanted.generic_resources.iter().filter_map(kind_and_count);
        things
            .find(|&(kind, count)| count > self.free(node, kind))
            .map(|(kind, _)| Lack::Things(kind))
    }

    /// How much of the node is taken.
    pub(crate) fn share(&self, node: &Reservations) -> Share {
        let thousandths = |used: i64, all: i64| match u128::try_from(all) {
            Ok(all) if all > 0 => u128::try_from(used).unwrap_or(0) * 1000 / all,
            _ => 0,
        };
        let processor = thousandths(self.nano_cpus, node.nano_cpus);
        let memory = thousandths(self.memory_bytes, node.memory_bytes);
        Share(u32::try_from(processor.midpoint(memory)).unwrap_or(u32::MAX))
    }

    /// Chooses the counted or named things that a task on the node gets.
    pub(crate) fn choose(&self, node: &Reservations, wanted: &Reservations) -> Vec<GenericResource> {
        let wanted = wanted.generic_resources.iter().filter_map(kind_and_count);
        wanted
            .flat_map(|(kind, count)| self.choose_kind(node, kind, count))
            .collect()
    }

    /// Takes what a task reserves and was given.
    pub(crate) fn take(&mut self, reserved: &Reservations, given: &[GenericResource]) {
        self.change(reserved, given, 1);
    }

    /// Gives it back.
    pub(crate) fn give_back(&mut self, reserved: &Reservations, given: &[GenericResource]) {
        self.change(reserved, given, -1);
    }

    fn change(&mut self, reserved: &Reservations, given: &[GenericResource], sign: i64) {
        self.nano_cpus += sign * reserved.nano_cpus;
        self.memory_bytes += sign * reserved.memory_bytes;
        for thing in given {
            if let Some(named) = &thing.named_resource_spec {
                let name = (named.kind.clone(), named.value.clone());
                if sign > 0 {
                    self.named.insert(name)
                } else {
                    self.named.remove(&name)
                };
            } else if let Some(counted) = &thing.discrete_resource_spec {
                *self.counted.entry(counted.kind.clone()).or_default() += sign * counted.value;
            }
        }
    }

    fn free(&self, node: &Reservations, kind: &str) -> i64 {
        let counted = counted(node, kind) - self.counted.get(kind).copied().unwrap_or_default();
        i64::try_from(self.free_names(node, kind).count()).unwrap_or(i64::MAX) + counted
    }

    /// Named things first; what is left is counted.
    fn choose_kind(&self, node: &Reservations, kind: &str, count: i64) -> Vec<GenericResource> {
        let names = self
            .free_names(node, kind)
            .take(usize::try_from(count).unwrap_or_default());
        let mut given: Vec<_> = names
            .map(|value| GenericResource {
                named_resource_spec: Some(NamedResource {
                    kind: kind.to_owned(),
                    value: value.to_owned(),
                }),
                ..GenericResource::default()
            })
            .collect();
        let value = count - i64::try_from(given.len()).unwrap_or(i64::MAX);
        if value > 0 {
            given.push(GenericResource {
                discrete_resource_spec: Some(DiscreteResource {
                    kind: kind.to_owned(),
                    value,
                }),
                ..GenericResource::default()
            });
        }
        given
    }

    fn free_names<'a>(&'a self, node: &'a Reservations, kind: &'a str) -> impl Iterator<Item = &'a str> {
        let named = node
            .generic_resources
            .iter()
            .filter_map(|thing| thing.named_resource_spec.as_ref());
        named
            .filter(move |thing| thing.kind == kind)
            .filter(|thing| !self.named.contains(&(thing.kind.clone(), thing.value.clone())))
            .map(|thing| thing.value.as_str())
    }
}

/// What is asked for: a number of things of a kind. To ask for a certain name is to ask for one of its kind.
fn kind_and_count(thing: &GenericResource) -> Option<(&str, i64)> {
    match (&thing.discrete_resource_spec, &thing.named_resource_spec) {
        (Some(counted), _) => Some((&counted.kind, counted.value)),
        (None, Some(named)) => Some((&named.kind, 1)),
        (None, None) => None,
    }
}

fn counted(node: &Reservations, kind: &str) -> i64 {
    let counted = node
        .generic_resources
        .iter()
        .filter_map(|thing| thing.discrete_resource_spec.as_ref());
    counted
        .filter(|thing| thing.kind == kind)
        .map(|thing| thing.value)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(kind: &str, value: i64) -> GenericResource {
        GenericResource {
            discrete_resource_spec: Some(DiscreteResource {
                kind: kind.into(),
                value,
            }),
            ..GenericResource::default()
        }
    }

    fn name(kind: &str, value: &str) -> GenericResource {
        GenericResource {
            named_resource_spec: Some(NamedResource {
                kind: kind.into(),
                value: value.into(),
            }),
            ..GenericResource::default()
        }
    }

    #[test]
    fn room_shrinks_by_what_tasks_take_and_comes_back() {
        let node = Reservations {
            nano_cpus: 10,
            memory_bytes: 100,
            ..Reservations::default()
        };
        let task = Reservations {
            nano_cpus: 6,
            memory_bytes: 10,
            ..Reservations::default()
        };
        let mut used = Used::default();
        assert_eq!(used.lack(&node, &task), None);
        used.take(&task, &[]);
        assert_eq!(used.lack(&node, &task), Some(Lack::Room));
        assert_eq!(used.share(&node), Share(350), "600 and 100 thousandths");
        used.give_back(&task, &[]);
        assert_eq!(used, Used::default());
    }

    #[test]
    fn things_are_given_by_name_where_they_have_names() {
        let node = Reservations {
            generic_resources: vec![name("gpu", "a"), name("gpu", "b"), count("ssd", 3)],
            ..Reservations::default()
        };
        let task = Reservations {
            generic_resources: vec![count("gpu", 1), count("ssd", 2)],
            ..Reservations::default()
        };
        let mut used = Used::default();
        let given = used.choose(&node, &task);
        assert_eq!(given, [name("gpu", "a"), count("ssd", 2)]);
        used.take(&task, &given);
        assert_eq!(used.lack(&node, &task), Some(Lack::Things("ssd")), "one is left");
        let gpu = Reservations {
            generic_resources: vec![count("gpu", 1)],
            ..Reservations::default()
        };
        assert_eq!(used.choose(&node, &gpu), [name("gpu", "b")]);
    }
}
