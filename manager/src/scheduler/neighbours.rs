//! Affinity and anti-affinity between services: beside whom a task must be, and beside whom it must not.
//!
//! Both are hard rules, asked when a task is placed; a task that runs stays where it is when they change. Anti-affinity
//! goes both ways: what A says it dislikes does not come to A either. A service that dislikes itself has one task
//! per node. A task that is on its way out is nobody's neighbour any more.
//!
//! Two services that name each other by affinity would wait for each other: the one whose turn comes while nothing of the
//! other is placed goes where it likes, and the other follows.

use std::sync::Arc;

use proto::ServiceId;

use super::filter::Unsuitable;
use super::node::NodeInfo;
use super::services::{Known, Services};

/// What the tasks of one service ask of their neighbours, read once for all nodes.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    /// Names for people, and the service, unless there is none of that name.
    with: Vec<(Arc<str>, Option<ServiceId>)>,
    without: Vec<(Arc<str>, ServiceId)>,
}

impl Neighbours {
    /// Those of the service. `is_placed` says whether a service has a task on any node.
    pub(crate) fn of(
        services: &Services,
        service: &ServiceId,
        is_placed: impl Fn(&ServiceId) -> bool,
    ) -> Self {
        let mut neighbours = Self::default();
        let Some(asker) = services.get(service) else {
            return neighbours;
        };
        for name in &asker.placement.affinity {
            match services.resolve(&asker.service, name) {
                Some(other) if wants(services, other, asker) && !is_placed(&other.service.id) => {}
                Some(other) => neighbours
                    .with
                    .push((name_of(other), Some(other.service.id.clone()))),
                None => neighbours.with.push((Arc::from(name.as_str()), None)),
            }
        }
        for other in services.choosy() {
            if dislikes(services, asker, other) || dislikes(services, other, asker) {
                neighbours.avoid(other);
            }
        }
        // Services that have no labels of their own can be disliked.
        let named = asker.placement.anti_affinity.iter();
        named
            .filter_map(|name| services.resolve(&asker.service, name))
            .for_each(|other| neighbours.avoid(other));
        neighbours
    }

    fn avoid(&mut self, other: &Known) {
        if !self.without.iter().any(|(_, known)| *known == other.service.id) {
            self.without.push((name_of(other), other.service.id.clone()));
        }
    }

    /// Whether the node has the neighbours that are wanted, and none of the others.
    ///
    /// # Errors
    /// The first rule that is not satisfied.
    pub(crate) fn check(&self, node: &NodeInfo) -> Result<(), Unsuitable> {
        let has = |service: &ServiceId| node.service_tasks(service) > 0;
        let missing = self
            .with
            .iter()
            .find(|(_, service)| !service.as_ref().is_some_and(has));
        if let Some((name, service)) = missing {
            return Err(match service {
                Some(_) => Unsuitable::Affinity(name.clone()),
                None => Unsuitable::Stranger(name.clone()),
            });
        }
        match self.without.iter().find(|(_, service)| has(service)) {
            Some((name, _)) => Err(Unsuitable::AntiAffinity(name.clone())),
            None => Ok(()),
        }
    }

    /// Whether tasks of the service may not be beside each other.
    pub(crate) fn avoids(&self, service: &ServiceId) -> bool {
        self.without.iter().any(|(_, other)| other == service)
    }
}

/// The services that want a task of `service` beside theirs.
pub(crate) fn followers<'s>(
    services: &'s Services,
    service: &'s ServiceId,
) -> impl Iterator<Item = &'s ServiceId> {
    let follows = move |known: &&Known| {
        services
            .get(service)
            .is_some_and(|target| wants(services, known, target))
    };
    services.choosy().filter(follows).map(|known| &known.service.id)
}

fn wants(services: &Services, asker: &Known, other: &Known) -> bool {
    names(services, asker, &asker.placement.affinity, other)
}

fn dislikes(services: &Services, asker: &Known, other: &Known) -> bool {
    names(services, asker, &asker.placement.anti_affinity, other)
}

fn names(services: &Services, asker: &Known, names: &[String], other: &Known) -> bool {
    names.iter().any(|name| {
        services
            .resolve(&asker.service, name)
            .is_some_and(|found| found.service.id == other.service.id)
    })
}

fn name_of(known: &Known) -> Arc<str> {
    Arc::from(known.service.spec.name.as_str())
}
