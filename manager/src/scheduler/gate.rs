//! Services that wait for others: the label `shoal.depends_on`.
//!
//! Its value is JSON, `{"<name of a service>": "service_started" | "service_healthy" | "service_completed_successfully"}`.
//! Tasks of such a service stay PENDING until every service named is as far as asked. Docker's stacks have no such
//! thing; the Compose Specification has.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::spec::Labels;
use proto::{Service, ServiceId, Task, TaskId, TaskState};

use super::services::Services;
use crate::hash::QuickMap;

/// The label.
pub const DEPENDS_ON: &str = "shoal.depends_on";

/// How far a service has to be before another one starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// A task of it has been started.
    #[serde(rename = "service_started")]
    Started,
    /// A task of it runs, and is healthy if it has a healthcheck.
    #[serde(rename = "service_healthy")]
    Healthy,
    /// A task of it, made from its present spec, has ended well.
    #[serde(rename = "service_completed_successfully")]
    CompletedSuccessfully,
}

impl Condition {
    /// The Compose Specification's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "service_started",
            Self::Healthy => "service_healthy",
            Self::CompletedSuccessfully => "service_completed_successfully",
        }
    }
}

/// Reads the label of a service; empty if it has none.
///
/// # Errors
/// The value is not as described above.
pub fn dependencies(service: &Service) -> Result<BTreeMap<String, Condition>, serde_json::Error> {
    conditions(&service.spec.labels)
}

/// As [`dependencies`], of labels alone.
///
/// # Errors
/// The value is not as described above.
pub fn conditions(labels: &Labels) -> Result<BTreeMap<String, Condition>, serde_json::Error> {
    labels
        .get(DEPENDS_ON)
        .map_or_else(|| Ok(BTreeMap::new()), |text| serde_json::from_str(text))
}

/// How far services are, as far as others can wait for it.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    progress: QuickMap<ServiceId, Progress>,
}

/// Tasks of a service by how far they are.
#[derive(Debug, Default)]
struct Progress {
    started: u32,
    running: u32,
    complete: BTreeMap<TaskId, Arc<Task>>,
}

impl Progress {
    /// What others can see of it.
    fn visible(&self) -> (bool, bool, usize) {
        (self.started > 0, self.running > 0, self.complete.len())
    }

    fn is_at(&self, condition: Condition, service: &Service) -> bool {
        match condition {
            Condition::Started => self.started > 0,
            Condition::Healthy => self.running > 0,
            // What an earlier spec completed is not what the service is about now.
            Condition::CompletedSuccessfully => {
                self.complete.values().any(|task| does_the_same(service, task))
            }
        }
    }
}

fn has_started(task: &Task) -> bool {
    (TaskState::Starting..=TaskState::Complete).contains(&task.status.state)
}

/// Whether the task did what the service asks for now, wherever it did it.
fn does_the_same(service: &Service, task: &Task) -> bool {
    let mut wanted = service.spec.task_template.clone();
    wanted.placement.clone_from(&task.spec.placement);
    wanted.log_driver.clone_from(&task.spec.log_driver);
    service.spec_version == task.spec_version || wanted == *task.spec
}

impl Gate {
    /// Forgets a service.
    pub(crate) fn remove_service(&mut self, service: &ServiceId) {
        self.progress.remove(service);
    }

    /// Learns how far a task is, and how far it was known to be. Returns whether that can open a gate or close one.
    pub(crate) fn note(&mut self, old: Option<&Arc<Task>>, new: Option<&Arc<Task>>) -> bool {
        let Some(task) = new.or(old).filter(|task| !task.service_id.is_empty()) else {
            return false;
        };
        // Of most changes of most tasks nobody waits for anything.
        if !old.is_some_and(|task| has_started(task)) && !new.is_some_and(|task| has_started(task)) {
            return false;
        }
        let is_new = |holds: fn(&Task) -> bool| u32::from(new.is_some_and(|task| holds(task)));
        let was = |holds: fn(&Task) -> bool| u32::from(old.is_some_and(|task| holds(task)));
        let runs = |task: &Task| task.status.state == TaskState::Running;
        let progress = self.progress.entry(task.service_id.clone()).or_default();
        let visible = progress.visible();
        progress.started = progress.started.saturating_sub(was(has_started)) + is_new(has_started);
        progress.running = progress.running.saturating_sub(was(runs)) + is_new(runs);
        match new.filter(|task| task.status.state == TaskState::Complete) {
            Some(task) => drop(progress.complete.insert(task.id.clone(), task.clone())),
            None => drop(progress.complete.remove(&task.id)),
        }
        let now_visible = progress.visible();
        // Tasks outlive their service for a while; what is known of it goes with the last one.
        if now_visible == (false, false, 0) {
            self.progress.remove(&task.service_id);
        }
        visible != now_visible
    }

    /// Why tasks of the service have to wait; `None` if they need not.
    pub(crate) fn closed(&self, services: &Services, service: &ServiceId) -> Option<String> {
        let dependencies = match dependencies(&services.get(service)?.service) {
            Ok(dependencies) => dependencies,
            Err(error) => return Some(format!("cannot read the label {DEPENDS_ON}: {error}")),
        };
        let waits: Vec<String> = dependencies
            .iter()
            .filter_map(|(name, condition)| self.waits(services, name, *condition))
            .collect();
        (!waits.is_empty()).then(|| format!("waiting for {}", waits.join(", ")))
    }

    fn waits(&self, services: &Services, name: &str, condition: Condition) -> Option<String> {
        let text = format!("{name} ({})", condition.as_str());
        let Some(service) = services.by_name(name).map(|known| &known.service) else {
            return Some(format!("{text}: no such service"));
        };
        let done = self
            .progress
            .get(&service.id)
            .is_some_and(|progress| progress.is_at(condition, service));
        (!done).then_some(text)
    }
}
