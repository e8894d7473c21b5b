//! Volumes that hold tasks on a node: drained, the tasks wait for the node or for their volumes to move.

use std::collections::BTreeSet;

use proto::spec::Availability;
use proto::{Node, Service, Task};

use super::{Control, Result, lookup};
use crate::scheduler::volumes;
use crate::state::{ReadTx, Reader};

/// A volume on a node, and the service whose task goes nowhere without it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct BoundVolume {
    /// Its name.
    pub volume: String,
    /// The service's name.
    pub service: String,
}

impl Control {
    /// The volumes that hold tasks on a node: no other node has them.
    ///
    /// # Errors
    /// Those of [`Self::node`].
    pub fn bound_volumes(&self, reference: &str) -> Result<Vec<BoundVolume>> {
        self.store.view(|tx| {
            let node = lookup::object::<Node>(&tx, reference)?;
            Ok(bound(&tx, &node).into_iter().collect())
        })
    }

    /// What a user has to know who drains this node.
    ///
    /// # Errors
    /// Those of [`Self::node`].
    pub fn drain_warnings(&self, reference: &str) -> Result<Vec<String>> {
        let node = self.node(reference)?;
        if node.spec.availability != Availability::Drain {
            return Ok(Vec::new());
        }
        let bound = self.bound_volumes(reference)?;
        Ok(bound.iter().map(|bound| warning(&node, bound)).collect())
    }
}

fn warning(node: &Node, bound: &BoundVolume) -> String {
    let BoundVolume { volume, service } = bound;
    format!(
        "volume {volume} is on this node alone: the task of service {service} that uses it waits until the node is active \
         again, or until the volume has moved (agent volume mv --from {} {volume} NODE)",
        node.description.hostname
    )
}

fn bound(tx: &ReadTx<'_>, node: &Node) -> BTreeSet<BoundVolume> {
    let held = &node.description.volumes;
    if held.is_empty() {
        return BTreeSet::new();
    }
    let others: BTreeSet<String> = tx
        .all::<Node>()
        .iter()
        .filter(|other| other.id != node.id)
        .flat_map(|other| other.description.volumes.clone())
        .collect();
    let tasks = tx.all::<Task>();
    let wanted = tasks
        .iter()
        .filter(|task| task.desired_state <= proto::TaskState::Complete);
    wanted
        .filter_map(|task| Some((task, tx.get::<Service>(task.service_id.as_str())?)))
        .flat_map(|(task, service)| {
            let names = volumes::binding(task, Some(&service)).into_iter();
            names.map(move |volume| BoundVolume {
                volume,
                service: service.spec.name.clone(),
            })
        })
        .filter(|bound| held.contains(&bound.volume) && !others.contains(&bound.volume))
        .collect()
}
