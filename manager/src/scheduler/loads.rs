//! How busy nodes are, as they say with their heartbeats. Kept in memory alone: it is no part of the replicated state.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use proto::NodeId;
use proto::wire::NodeLoad;

/// Percent in one step of the ranking: what a node does in a moment shall not decide.
const STEP: u32 = 25;

/// The last word of each node. Cheap to clone: all clones are the same table.
#[derive(Debug, Clone, Default)]
pub struct Loads {
    table: Arc<RwLock<HashMap<NodeId, NodeLoad>>>,
}

impl Loads {
    /// A node has told how busy it is.
    pub fn put(&self, node: &NodeId, load: NodeLoad) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        match table.get_mut(node) {
            Some(known) => *known = load,
            None => drop(table.insert(node.clone(), load)),
        }
    }

    /// The node has no session any more.
    pub fn remove(&self, node: &NodeId) {
        self.table
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(node);
    }

    /// How busy the node is, from 0 to 4; 0 if it has not said so. The busier of processor and memory counts.
    pub fn step(&self, node: &NodeId) -> u8 {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let busiest = table
            .get(node)
            .map_or(0, |load| load.cpu_percent.max(load.memory_percent));
        u8::try_from((busiest / STEP).min(4)).unwrap_or(4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busier_of_the_two_counts_in_coarse_steps() {
        let (loads, node) = (Loads::default(), NodeId::from("n"));
        let step = |cpu_percent, memory_percent| {
            let load = NodeLoad {
                cpu_percent,
                memory_percent,
            };
            loads.put(&node, load);
            loads.step(&node)
        };
        assert_eq!(loads.step(&node), 0);
        assert_eq!((step(3, 24), step(3, 30), step(60, 30)), (0, 1, 2));
        assert_eq!((step(100, 0), step(900, 99)), (4, 4));
        loads.remove(&node);
        assert_eq!(loads.step(&node), 0);
    }
}
