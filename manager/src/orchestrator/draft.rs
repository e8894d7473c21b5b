//! One reconciliation of one service: what is there, and the changes planned so far.
//!
//! A [`Picture`] is read from the store; the planners change a [`Draft`] of it, and each sees what those before it have
//! planned. What comes out are [`Step`]s, each to be applied whole or not at all.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use proto::object::UpdateState;
use proto::spec::LogDriver;
use proto::upkeep::Upkeep;
use proto::{Node, NodeId, Service, Task, TaskId, TaskSpec, TaskState};
use tokio::time::Instant;

use super::slot::{Slot, SlotKey, by_slot};
use super::task::{is_dirty, new_task, task_spec};

/// What the store says of one service.
#[derive(Debug, Clone, Default)]
pub(crate) struct Picture {
    pub(crate) service: Arc<Service>,
    pub(crate) tasks: Vec<Arc<Task>>,
    /// The nodes of the tasks; every node for services that have one task per node.
    pub(crate) nodes: BTreeMap<NodeId, Arc<Node>>,
    /// The cluster's log driver for tasks that do not name one.
    pub(crate) default_log: Option<LogDriver>,
    /// When the nodes of tasks that have a lease were heard last.
    pub(crate) heard: BTreeMap<NodeId, Instant>,
}

/// One change to the store.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Adds a task.
    Create(Arc<Task>),
    /// Wants a task in a later state than before.
    Desire(TaskId, TaskState),
    /// Tells how the service's update goes.
    Update(UpdateChange),
    /// Takes out a service whose removal waited for its tasks.
    RemoveService,
}

/// A change of the service's update status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UpdateChange {
    /// An update begins, unless one is already told of.
    Start,
    /// It ran to its end.
    Complete,
    /// It waits for the user.
    Pause(String),
    /// The spec before becomes the spec again.
    RollBack(String),
}

/// Changes that are made together or not at all.
pub(crate) type Step = Vec<Action>;

/// The picture with the planned changes made.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) picture: &'a Picture,
    pub(crate) slots: BTreeMap<SlotKey, Slot>,
    /// What the labels of the service say.
    pub(crate) upkeep: Upkeep,
    steps: Vec<Step>,
    /// What its new tasks run: made once for all.
    spec: OnceCell<Arc<TaskSpec>>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(picture: &'a Picture) -> Self {
        let slots = by_slot(&picture.service, &picture.tasks);
        Self {
            picture,
            slots,
            upkeep: Upkeep::of(&picture.service.spec.labels),
            steps: Vec::new(),
            spec: OnceCell::new(),
        }
    }

    /// The planned changes.
    pub(crate) fn into_steps(self) -> Vec<Step> {
        self.steps
    }

    pub(crate) fn service(&self) -> &'a Service {
        &self.picture.service
    }

    /// The node with the identifier.
    pub(crate) fn node(&self, id: &NodeId) -> Option<&'a Node> {
        self.picture.nodes.get(id).map(Arc::as_ref)
    }

    /// The tasks of the slot; none if there is no such slot.
    pub(crate) fn slot(&self, key: &SlotKey) -> &[Arc<Task>] {
        self.slots.get(key).map_or(&[], Vec::as_slice)
    }

    /// The task as planned so far.
    pub(crate) fn task(&self, key: &SlotKey, id: &TaskId) -> Option<&Arc<Task>> {
        self.slot(key).iter().find(|task| task.id == *id)
    }

    /// Whether the task has to be replaced because the service asks for something else.
    pub(crate) fn is_dirty(&self, task: &Task) -> bool {
        is_dirty(
            self.service(),
            self.picture.default_log.as_ref(),
            task,
            self.node(&task.node_id),
        )
    }

    /// Whether the service is going back to its spec before.
    pub(crate) fn is_rolling_back(&self) -> bool {
        self.update_state() == Some(UpdateState::RollbackStarted)
    }

    /// How the service's update goes, if there is one.
    pub(crate) fn update_state(&self) -> Option<UpdateState> {
        self.service().update_status.as_ref().map(|status| status.state)
    }

    /// Begins a step: what follows until the next one is applied whole or not at all.
    pub(crate) fn begin(&mut self) {
        if self.steps.last().is_none_or(|step| !step.is_empty()) {
            self.steps.push(Step::new());
        }
    }

    /// Wants the task in the state, if that is later than what was wanted.
    pub(crate) fn desire(&mut self, key: &SlotKey, id: &TaskId, state: TaskState) {
        let slot = self.slots.get_mut(key).map_or(&mut [][..], Vec::as_mut_slice);
        let Some(task) = slot
            .iter_mut()
            .find(|task| task.id == *id && task.desired_state < state)
        else {
            return;
        };
        Arc::make_mut(task).desired_state = state;
        self.act(Action::Desire(id.clone(), state));
    }

    /// Adds a task to the slot; `desired` is what is wanted of it.
    pub(crate) fn create(&mut self, key: &SlotKey, desired: TaskState) -> TaskId {
        self.create_with(key, desired, |_| {}).id.clone()
    }

    /// As [`Self::create`], for a task of which there is more to say.
    pub(crate) fn create_with(
        &mut self,
        key: &SlotKey,
        desired: TaskState,
        say: impl FnOnce(&mut Task),
    ) -> Arc<Task> {
        let (service, default_log) = (&self.picture.service, self.picture.default_log.as_ref());
        let spec = self
            .spec
            .get_or_init(|| Arc::new(task_spec(service, default_log)));
        let mut task = new_task(service, spec.clone(), key);
        task.desired_state = desired;
        say(&mut task);
        let task = Arc::new(task);
        self.slots.entry(key.clone()).or_default().push(task.clone());
        self.act(Action::Create(task.clone()));
        task
    }

    /// Tells how the service's update goes.
    pub(crate) fn update(&mut self, change: UpdateChange) {
        self.begin();
        self.act(Action::Update(change));
    }

    /// Takes out the service.
    pub(crate) fn remove_service(&mut self) {
        self.begin();
        self.act(Action::RemoveService);
    }

    fn act(&mut self, action: Action) {
        match self.steps.last_mut() {
            Some(step) => step.push(action),
            None => self.steps.push(vec![action]),
        }
    }
}
