//! What would move, for people who ask before it does.

use std::sync::Arc;

use proto::{Node, NodeId, Service, ServiceId, TaskId};
use serde::{Deserialize, Serialize};

use super::judge::judge;
use super::plan::plan;
use crate::state::{ReadTx, Reader};

/// Everything that would move, and what would if nothing were in its way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RebalancePlan {
    /// Tasks that move, in order within their service.
    pub moves: Vec<PlannedMove>,
    /// Services that are uneven and stay so.
    pub unmoved: Vec<Unmoved>,
}

/// A task that moves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PlannedMove {
    /// Its service.
    #[serde(rename = "ServiceID")]
    pub service_id: ServiceId,
    /// Name of the service.
    pub service_name: String,
    /// The task that ends.
    #[serde(rename = "TaskID")]
    pub task_id: TaskId,
    /// From which node, by hostname.
    pub from: String,
    /// To which node, by hostname.
    pub to: String,
}

/// A service that is uneven and stays so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Unmoved {
    /// Its identifier.
    #[serde(rename = "ServiceID")]
    pub service_id: ServiceId,
    /// Its name.
    pub service_name: String,
    /// Why, for people.
    pub reason: String,
}

/// The plan for all services as they are now, as if all nodes had been there for long.
pub(crate) fn preview(tx: &ReadTx<'_>) -> RebalancePlan {
    let nodes = tx.all::<Node>();
    let name = |id: &NodeId| {
        let node = nodes.iter().find(|node| node.id == *id);
        node.map_or_else(|| id.to_string(), |node| node.description.hostname.clone())
    };
    let mut services: Vec<Arc<Service>> = tx.all();
    services.sort_by(|one, other| one.spec.name.cmp(&other.spec.name));
    let mut whole = RebalancePlan::default();
    for service in &services {
        let Some(judgement) = judge(tx, &nodes, service, &|_| true) else {
            continue;
        };
        let moves = plan(judgement.places);
        match judgement.obstacle {
            _ if moves.is_empty() => {}
            Some(obstacle) => whole.unmoved.push(Unmoved {
                service_id: service.id.clone(),
                service_name: service.spec.name.clone(),
                reason: obstacle.to_string(),
            }),
            None => whole.moves.extend(moves.into_iter().map(|one| PlannedMove {
                service_id: service.id.clone(),
                service_name: service.spec.name.clone(),
                from: name(&one.from),
                to: name(&one.to),
                task_id: one.task,
            })),
        }
    }
    whole
}
