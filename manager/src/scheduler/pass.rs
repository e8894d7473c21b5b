//! One pass over the tasks that wait: group by group, each group placed by one look at all nodes.

use std::sync::Arc;

use proto::object::NodeState;
use proto::spec::Availability;
use proto::{Node, NodeId, ServiceId, Task};
use tokio::time::Instant;

use super::cluster::Cluster;
use super::constraint::{self, Fact};
use super::filter::{Filters, Place, explain};
use super::group::{Decision, Group, GroupKey, Outcome, sort, wait};
use super::neighbours::Neighbours;
use super::rank::{Order, Rank};
use super::resources::reservations;
use super::tree::{Candidate, Tree};
use super::volumes;

/// Said of a task that waits for a node.
const PENDING: &str = "pending task scheduling";
const ASSIGNED: &str = "scheduler assigned task to node";
const CONFIRMED: &str = "scheduler confirmed task can run on preassigned node";

impl Cluster {
    /// Decides about every group that is new, or about all if room was made. Counts what it assigns at once.
    pub(crate) fn schedule(&mut self, now: Instant) -> Vec<Decision> {
        let fresh = std::mem::take(&mut self.fresh);
        let groups: Vec<Arc<GroupKey>> = match std::mem::take(&mut self.retry) {
            true => self.waiting.keys().cloned().collect(),
            false => fresh.into_iter().collect(),
        };
        let mut decisions = Vec::new();
        for key in groups {
            if let Some(group) = self.waiting.remove(&key) {
                let rest = self.schedule_group(&key, group, now, &mut decisions);
                self.put_back(key, rest);
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
        sort(&mut group);
        let Some(template) = group.first().map(|(_, task)| task.clone()) else {
            return group;
        };
        let waits = |group: &Group, message: &str, reason: &str| -> Vec<Decision> {
            let tasks = group.iter().map(|(_, task)| task);
            tasks.filter_map(|task| wait(task, message, reason)).collect()
        };
        if let Some(reason) = self.gate.closed(&self.services, &key.service) {
            decisions.extend(waits(&group, &reason, &reason));
            return group;
        }
        if let Some(volume) = self.volumes.on_its_way(&template) {
            let reason = format!("volume {volume} is being moved to another node");
            decisions.extend(waits(&group, PENDING, &reason));
            return group;
        }
        let filters = self.filters(&template);
        let mut tree = self.tree(key.node.as_ref(), &template, &filters, now);
        let message = if key.node.is_some() { CONFIRMED } else { ASSIGNED };
        let mut placed = 0;
        for (_, task) in &group {
            let Some((node, given)) = self.place_one(&mut tree, &filters, task) else {
                break;
            };
            self.place(task, node.clone(), given.clone());
            decisions.push(Decision {
                task: task.clone(),
                outcome: Outcome::Assign { node, given, message },
            });
            placed += 1;
        }
        group.drain(..placed);
        if placed > 0 {
            self.wake_followers(&key.service);
        }
        if !group.is_empty() {
            let reason = self.explain(key.node.as_ref(), &filters);
            decisions.extend(waits(&group, PENDING, &reason));
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
        let chosen = tree.place(&mut |rank: Rank, index| {
            let info = &mut nodes[index];
            if let Some(reserved) = reservations(&task.spec) {
                given = info.used().choose(&info.node.description.resources, reserved);
            }
            info.add(task, &given);
            filters
                .has_room_for_another(info)
                .then(|| rank.with_another_task(info.reserved()))
        })?;
        Some((self.nodes[chosen].node.id.clone(), given))
    }

    /// What the tasks ask of a node.
    pub(super) fn filters<'t>(&self, template: &'t Task) -> Filters<'t> {
        let is_placed = |service: &ServiceId| self.nodes.iter().any(|node| node.service_tasks(service) > 0);
        let neighbours = Neighbours::of(&self.services, &template.service_id, is_placed);
        Filters::new(template)
            .with_volumes(self.places(template))
            .with_neighbours(neighbours)
    }

    /// Where the task's data is.
    fn places(&self, task: &Task) -> Vec<Place> {
        let binding = self.binding(task);
        let last = self.volumes.last(task);
        let place = |volume: String| {
            let mut nodes = self.volumes.holders(&volume, last);
            nodes.retain(|node| self.index.contains_key(node));
            let text = format!("{volume} is on {}", self.describe(&nodes)).into();
            (!nodes.is_empty()).then_some(Place { nodes, text })
        };
        binding.into_iter().filter_map(place).collect()
    }

    fn binding(&self, task: &Task) -> Vec<String> {
        let service = self.services.get(&task.service_id);
        volumes::binding(task, service.map(|known| known.service.as_ref()))
    }

    /// The nodes for people, with what keeps them from taking tasks.
    fn describe(&self, nodes: &[NodeId]) -> String {
        let known = nodes.iter().filter_map(|node| self.index.get(node));
        let texts: Vec<String> = known.map(|index| describe(&self.nodes[*index].node)).collect();
        texts.join(" or ")
    }

    /// The nodes that can take the tasks, ranked: all nodes, or the one that was chosen before.
    fn tree(&self, node: Option<&NodeId>, template: &Task, filters: &Filters<'_>, now: Instant) -> Tree {
        let spread = if node.is_some() {
            Vec::new()
        } else {
            preferences(template)
        };
        let service = self.services.get(&template.service_id);
        let strategy = service.map(|known| known.placement.strategy).unwrap_or_default();
        // A new volume is best made where the slot was before.
        let bound = !self.binding(template).is_empty();
        let last = self.volumes.last(template).filter(|_| bound);
        let candidate = |index: usize| {
            let info = &self.nodes[index];
            let service_tasks = info.service_tasks(&template.service_id);
            let rank = || Rank {
                failures: info.failures(template, now),
                away: last.is_some_and(|last| *last != info.node.id),
                order: Order::of(strategy, info, service_tasks, self.loads.step(&info.node.id)),
            };
            Candidate {
                path: spread.iter().map(|fact| fact.of(&info.node)).collect(),
                service_tasks,
                fit: filters.check(info).is_ok().then(|| (rank(), index)),
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

/// The node for people, with what keeps it from taking tasks.
fn describe(node: &Node) -> String {
    let name = match node.description.hostname.as_str() {
        "" => node.id.as_str(),
        name => name,
    };
    match (node.status.state, node.spec.availability) {
        (NodeState::Ready, Availability::Active) => format!("node {name}"),
        (NodeState::Ready, Availability::Drain) => format!("node {name}, which is drained"),
        (NodeState::Ready, Availability::Pause) => format!("node {name}, which is paused"),
        (state, _) => format!("node {name}, which is {state}"),
    }
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

/// Whether the node can take the task: asked again inside the transaction that assigns it, because the node may have been
/// drained or labelled since.
pub(super) fn is_open(node: &Node, task: &Task) -> bool {
    let constraints = task
        .spec
        .placement
        .iter()
        .flat_map(|placement| &placement.constraints);
    let constraints: Vec<String> = constraints.cloned().collect();
    super::filter::is_available(node)
        && (constraints.is_empty()
            || constraint::parse(&constraints).is_ok_and(|parsed| constraint::matches(&parsed, node)))
}
