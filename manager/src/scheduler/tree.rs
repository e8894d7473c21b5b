//! Where the next task of a service goes: a tree of heaps.
//!
//! Every spread preference makes one level of branches, one branch per value of its label; the leaves rank nodes. The
//! next task goes down the branch that holds the fewest tasks of the service and still has room, and there to the best
//! node. One placement costs the logarithm of the number of nodes, whatever the number of tasks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::rank::Rank;

/// One level of the decision.
#[derive(Debug)]
pub(crate) enum Tree {
    /// Nodes by rank; the index breaks ties, so that equal input gives equal output.
    Leaf(BinaryHeap<Reverse<(Rank, usize)>>),
    /// Branches by their number of tasks of the service.
    Branch {
        order: BinaryHeap<Reverse<(u32, usize)>>,
        children: Vec<Tree>,
    },
}

/// A node as the tree is built: its label values level by level, its tasks of the service, and its rank if it is fit.
#[derive(Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) path: Vec<&'a str>,
    pub(crate) service_tasks: u32,
    pub(crate) fit: Option<(Rank, usize)>,
}

impl Tree {
    /// Builds the tree over nodes whose paths all have the same length. A node that is not fit counts for the balance
    /// of its branch but is never chosen.
    pub(crate) fn new(candidates: Vec<Candidate<'_>>) -> Self {
        Self::level(candidates, 0)
    }

    fn level(candidates: Vec<Candidate<'_>>, depth: usize) -> Self {
        if candidates
            .first()
            .is_none_or(|candidate| candidate.path.len() <= depth)
        {
            return Self::Leaf(
                candidates
                    .into_iter()
                    .filter_map(|candidate| candidate.fit.map(Reverse))
                    .collect(),
            );
        }
        let mut branches: BTreeMap<&str, Vec<Candidate<'_>>> = BTreeMap::new();
        for candidate in candidates {
            branches.entry(candidate.path[depth]).or_default().push(candidate);
        }
        let mut order = BinaryHeap::new();
        let mut children = Vec::new();
        for members in branches.into_values() {
            order.push(Reverse((
                members.iter().map(|member| member.service_tasks).sum(),
                children.len(),
            )));
            children.push(Self::level(members, depth + 1));
        }
        Self::Branch { order, children }
    }

    /// Places one task and returns the index of its node; `None` if no node has room. `assign` takes the task
    /// to the chosen node and answers how that ranks now, if it has room for another.
    pub(crate) fn place(&mut self, assign: &mut impl FnMut(Rank, usize) -> Option<Rank>) -> Option<usize> {
        match self {
            Self::Leaf(nodes) => {
                let Reverse((rank, node)) = nodes.pop()?;
                if let Some(rank) = assign(rank, node) {
                    nodes.push(Reverse((rank, node)));
                }
                Some(node)
            }
            Self::Branch { order, children } => loop {
                // A branch without room is not put back.
                let Reverse((tasks, child)) = order.pop()?;
                if let Some(node) = children[child].place(assign) {
                    order.push(Reverse((tasks + 1, child)));
                    return Some(node);
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::rank::{Order, Share};

    /// Places tasks one by one on nodes of a capacity; returns the number of tasks per node.
    fn fill(nodes: &[(&[&'static str], u32, u32)], tasks: usize) -> Vec<u32> {
        let mut counts: Vec<u32> = nodes.iter().map(|node| node.1).collect();
        let rank = |count| Rank {
            failures: 0,
            away: false,
            order: Order::Spread {
                service_tasks: count,
                tasks: count,
                reserved: Share(0),
                load: 0,
            },
        };
        let mut tree = Tree::new(
            nodes
                .iter()
                .enumerate()
                .map(|(index, (path, count, room))| Candidate {
                    path: path.to_vec(),
                    service_tasks: *count,
                    fit: (count < room).then_some((rank(*count), index)),
                })
                .collect(),
        );
        for _ in 0..tasks {
            tree.place(&mut |rank, node| {
                counts[node] += 1;
                (counts[node] < nodes[node].2).then(|| rank.with_another_task(Share(0)))
            });
        }
        counts
    }

    #[test]
    fn without_preferences_nodes_fill_evenly_up_to_their_room() {
        assert_eq!(fill(&[(&[], 0, 9), (&[], 0, 9), (&[], 0, 9)], 7), [3, 2, 2]);
        assert_eq!(fill(&[(&[], 4, 9), (&[], 0, 9)], 4), [4, 4]);
        assert_eq!(fill(&[(&[], 0, 1), (&[], 0, 9)], 5), [1, 4]);
        assert_eq!(fill(&[(&[], 0, 1), (&[], 0, 1)], 5), [1, 1]);
        assert!(fill(&[], 5).is_empty());
    }

    #[test]
    fn a_preference_balances_branches_before_nodes() {
        let nodes: &[(&[&str], u32, u32)] = &[(&["a"], 0, 9), (&["b"], 0, 9), (&["b"], 0, 9), (&["b"], 0, 9)];
        assert_eq!(fill(nodes, 6), [3, 1, 1, 1]);
    }

    #[test]
    fn a_full_branch_leaves_the_rest_to_the_others() {
        assert_eq!(fill(&[(&["a"], 0, 1), (&["b"], 0, 9)], 6), [1, 5]);
        // A node that is full already counts for its branch.
        assert_eq!(
            fill(&[(&["a"], 3, 3), (&["a"], 0, 9), (&["b"], 0, 9)], 3),
            [3, 0, 3]
        );
    }

    #[test]
    fn preferences_nest() {
        let nodes: &[(&[&str], u32, u32)] = &[
            (&["a", "1"], 0, 9),
            (&["a", "2"], 0, 9),
            (&["b", "1"], 0, 9),
            (&["b", "1"], 0, 9),
        ];
        assert_eq!(fill(nodes, 8), [2, 2, 2, 2]);
        assert_eq!(fill(nodes, 3), [1, 1, 1, 0]);
    }
}
