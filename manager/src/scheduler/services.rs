//! The services that the scheduler knows, by identifier and by name, with what their labels say of placement.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use proto::spec::PlacementLabels;
use proto::{Service, ServiceId};

/// The label that keeps the name of the stack that a service belongs to.
const STACK: &str = "com.docker.stack.namespace";

/// All services.
#[derive(Debug, Default)]
pub(crate) struct Services {
    by_id: HashMap<ServiceId, Known>,
    names: HashMap<String, ServiceId>,
    /// Those that name others in their labels.
    choosy: BTreeSet<ServiceId>,
}

/// A service with its labels read.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) service: Arc<Service>,
    pub(crate) placement: PlacementLabels,
}

impl Services {
    /// Learns of a service.
    pub(crate) fn put(&mut self, service: &Arc<Service>) {
        self.remove(&service.id);
        // What cannot be read was refused when the service was written.
        let placement = PlacementLabels::parse(&service.spec.labels).unwrap_or_default();
        if !(placement.affinity.is_empty() && placement.anti_affinity.is_empty()) {
            self.choosy.insert(service.id.clone());
        }
        self.names.insert(service.spec.name.clone(), service.id.clone());
        let service = service.clone();
        self.by_id
            .insert(service.id.clone(), Known { service, placement });
    }

    /// Forgets a service.
    pub(crate) fn remove(&mut self, id: &ServiceId) {
        let Some(known) = self.by_id.remove(id) else {
            return;
        };
        self.choosy.remove(id);
        if self.names.get(&known.service.spec.name) == Some(id) {
            self.names.remove(&known.service.spec.name);
        }
    }

    /// The service with the identifier.
    pub(crate) fn get(&self, id: &ServiceId) -> Option<&Known> {
        self.by_id.get(id)
    }

    /// The service of that name.
    pub(crate) fn by_name(&self, name: &str) -> Option<&Known> {
        self.names.get(name).and_then(|id| self.by_id.get(id))
    }

    /// The service that a label of `asker` names: within a stack first the one of that short name.
    pub(crate) fn resolve(&self, asker: &Service, name: &str) -> Option<&Known> {
        let stack = asker.spec.labels.get(STACK);
        stack
            .and_then(|stack| self.by_name(&format!("{stack}_{name}")))
            .or_else(|| self.by_name(name))
    }

    /// The services that name others in their labels.
    pub(crate) fn choosy(&self) -> impl Iterator<Item = &Known> {
        self.choosy.iter().filter_map(|id| self.by_id.get(id))
    }
}
