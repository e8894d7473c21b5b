//! One pass over the tasks that wait: group by group, each group placed by one look at all nodes.

use std::sync::Arc;

use proto::{Node, NodeId, Task};
use tokio::time::Instant;

use super::cluster::{Cluster, Decision, Group, GroupKey, Outcome};
use super::constraint::Fact;
use super::filter::{Filters, explain};
use super::resources::reservations;
use super::tree::{Candidate, Tree};

/// Said of a task that waits for a node.
const PENDING: &str = "pending task scheduling";
const ASSIGNED: &str = "scheduler assigned task to node";
const CONFIRMED: &str = "scheduler confirmed task can run on preassigned node";

impl Cluster {
    /// Decides about every group that is new, or about all if room was made. Counts what it assigns at once.
    pub(crate) fn schedule(&mut self, now: Instant) -> Vec<Decision> {
        let fresh = std::mem::take(&mut self.fresh);
        let groups: Vec<GroupKey> = match std::mem::take(&mut self.retry) {
            true => self.waiting.keys().cloned().collect(),
            false => fresh.into_iter().collect(),
        };
        let mut decisions = Vec::new();
        for key in groups {
            if let Some(group) = self.waiting.remove(&key) {
                let rest = self.schedule_group(&key, group, now, &mut decisions);
                if !rest.is_empty() {
                    self.waiting.insert(key, rest);
                }
            }
        }
        decisions
    }

    /// Places the tasks of a group. Returns those that have to wait.
    fn schedule_group(
        &mut self,
        key: &GroupKey,
        mut group: Group,
        now: Instant,
        decisions: &mut Vec<Decision>,
    ) -> Group {
        let Some(template) = group.values().next().cloned() else {
            return group;
        };
        if let Some(reason) = self.gate.closed(&key.service) {
            decisions.extend(group.values().filter_map(|task| wait(task, &reason, &reason)));
            return group;
        }
        let filters = Filters::new(&template);
        let mut tree = self.tree(key.node.as_ref(), &template, &filters, now);
        let message = if key.node.is_some() { CONFIRMED } else { ASSIGNED };
        while let Some((place, task)) = group.pop_first() {
            match self.place_one(&mut tree, &filters, &task) {
                Some((node, given)) => {
                    self.place(&task, node.clone(), given.clone());
                    decisions.push(Decision {
                        task,
                        outcome: Outcome::Assign { node, given, message },
                    });
                }
                None => {
                    group.insert(place, task);
                    break;
                }
            }
        }
        if !group.is_empty() {
            let reason = self.explain(key.node.as_ref(), &filters);
            decisions.extend(group.values().filter_map(|task| wait(task, PENDING, &reason)));
        }
        group
    }

    fn place_one(
        &mut self,
        tree: &mut Tree,
        filters: &Filters<'_>,
        task: &Task,
    ) -> Option<(NodeId, Vec<proto::spec::GenericResource>)> {
        let nodes = &mut self.nodes;
        let mut given = Vec::new();
        let chosen = tree.place(&mut |index| {
            let info = &mut nodes[index];
            if let Some(reserved) = reservations(&task.spec) {
                given = info.used().choose(&info.node.description.resources, reserved);
            }
            info.add(task, &given);
            filters.has_room_for_another(info)
        })?;
        Some((self.nodes[chosen].node.id.clone(), given))
    }

    /// The nodes that can take the tasks, ranked: all nodes, or the one that was chosen before.
    fn tree(&self, node: Option<&NodeId>, template: &Task, filters: &Filters<'_>, now: Instant) -> Tree {
        let spread = if node.is_some() {
            Vec::new()
        } else {
            preferences(template)
        };
        let candidate = |index: usize| {
            let info = &self.nodes[index];
            let fit = filters.check(info).is_ok();
            Candidate {
                path: spread.iter().map(|fact| fact.of(&info.node)).collect(),
                service_tasks: info.service_tasks(&template.service_id),
                fit: fit.then(|| (info.rank(template, now), index)),
            }
        };
        Tree::new(self.among(node).map(candidate).collect())
    }

    /// Why no node can take the tasks.
    fn explain(&self, node: Option<&NodeId>, filters: &Filters<'_>) -> String {
        let reasons = self
            .among(node)
            .filter_map(|index| filters.check(&self.nodes[index]).err());
        let reasons = explain(reasons);
        match (node, reasons.is_empty()) {
            (None, true) => "no suitable node".to_owned(),
            (None, false) => format!("no suitable node ({reasons})"),
            (Some(_), _) => reasons,
        }
    }

    fn among(&self, node: Option<&NodeId>) -> Box<dyn Iterator<Item = usize> + '_> {
        match node {
            Some(node) => Box::new(self.index.get(node).copied().into_iter()),
            None => Box::new(0..self.nodes.len()),
        }
    }
}

/// Says why the task waits, unless that is already said.
fn wait(task: &Arc<Task>, message: &str, err: &str) -> Option<Decision> {
    let said = task.status.message == message && task.status.err == err;
    let outcome = Outcome::Wait {
        message: message.to_owned(),
        err: err.to_owned(),
    };
    (!said).then(|| Decision {
        task: task.clone(),
        outcome,
    })
}

/// Over what the service wants to be spread, outermost first.
fn preferences(task: &Task) -> Vec<Fact> {
    let placement = task.spec.placement.iter();
    let spread = placement
        .flat_map(|placement| &placement.preferences)
        .filter_map(|one| one.spread.as_ref());
    spread
        .filter_map(|over| Fact::parse(&over.spread_descriptor))
        .collect()
}

/// Whether the node can take tasks at all: asked again inside the transaction that assigns one.
pub(super) fn is_open(node: &Node) -> bool {
    super::filter::is_available(node)
}
