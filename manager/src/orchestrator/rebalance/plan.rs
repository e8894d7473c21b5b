//! Which tasks of one service should move so that it is spread evenly again. Pure.
//!
//! A move goes from one branch of the tree of preferences to another of the same parent, or from node to node where
//! there are none, and only if the one has at least two tasks more. So each move makes the sum of squares of its level
//! smaller and leaves the levels above as they are: there is an end, and at the end nothing moves.

use std::collections::BTreeMap;

use proto::{NodeId, TaskId};

/// A node, as far as the spread of one service is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) node: NodeId,
    /// What the node is under each of the service's preferences, outermost first; as long for all nodes.
    pub(crate) path: Vec<String>,
    /// Tasks of the service that are there.
    pub(crate) tasks: usize,
    /// Those of them that may move; the last one goes first.
    pub(crate) movable: Vec<TaskId>,
    /// How many tasks of the service it could take.
    pub(crate) room: usize,
}

/// A task that should move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) task: TaskId,
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
}

/// All moves, in order, until nothing is to be moved.
pub(crate) fn plan(mut places: Vec<Place>) -> Vec<Move> {
    let mut moves = Vec::new();
    while let Some((from, to)) = next(&places) {
        let Some(task) = places[from].movable.pop() else {
            break;
        };
        places[from].tasks -= 1;
        places[from].room = places[from].room.saturating_add(1);
        places[to].tasks += 1;
        places[to].room -= 1;
        moves.push(Move {
            task,
            from: places[from].node.clone(),
            to: places[to].node.clone(),
        });
    }
    moves
}

/// From where to where the next task should move, looking at the outermost preference first.
fn next(places: &[Place]) -> Option<(usize, usize)> {
    let depth = places.first()?.path.len();
    (0..=depth).find_map(|level| {
        let mut parents: BTreeMap<&[String], Vec<usize>> = BTreeMap::new();
        for (index, place) in places.iter().enumerate() {
            parents.entry(&place.path[..level]).or_default().push(index);
        }
        parents
            .values()
            .find_map(|children| between(places, &branches(places, children, level)))
    })
}

/// The nodes of one parent, grouped by what they are at this level: at the innermost, each by itself.
fn branches(places: &[Place], nodes: &[usize], level: usize) -> Vec<Vec<usize>> {
    let mut branches: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for &index in nodes {
        let place = &places[index];
        let name = place.path.get(level).map_or(place.node.as_str(), String::as_str);
        branches.entry(name).or_default().push(index);
    }
    branches.into_values().collect()
}

/// The fullest branch with a task that may move, and the emptiest with room, if they are two tasks apart; of each the
/// node that gives or takes.
fn between(places: &[Place], branches: &[Vec<usize>]) -> Option<(usize, usize)> {
    let count = |branch: &Vec<usize>| branch.iter().map(|&index| places[index].tasks).sum::<usize>();
    let giver = |branch: &Vec<usize>| {
        let nodes = branch.iter().copied();
        nodes
            .filter(|&index| !places[index].movable.is_empty())
            .max_by_key(|&index| places[index].tasks)
    };
    let taker = |branch: &Vec<usize>| {
        let nodes = branch.iter().copied();
        nodes
            .filter(|&index| places[index].room > 0)
            .min_by_key(|&index| places[index].tasks)
    };
    let givers = branches
        .iter()
        .filter_map(|branch| Some((count(branch), giver(branch)?)));
    let takers = branches
        .iter()
        .filter_map(|branch| Some((count(branch), taker(branch)?)));
    let (most, from) = givers.max_by_key(|(count, _)| *count)?;
    let (least, to) = takers.min_by_key(|(count, _)| *count)?;
    (most >= least + 2).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(node: &str, zone: Option<&str>, tasks: usize, room: usize) -> Place {
        Place {
            node: node.into(),
            path: zone.into_iter().map(str::to_owned).collect(),
            tasks,
            movable: (0..tasks)
                .map(|number| format!("{node}-{number}").into())
                .collect(),
            room,
        }
    }

    fn moved(places: &[Place]) -> Vec<(String, String)> {
        let pair = |one: &Move| (one.from.to_string(), one.to.to_string());
        plan(places.to_vec()).iter().map(pair).collect()
    }

    #[test]
    fn an_empty_node_takes_from_the_fullest_until_the_difference_is_one() {
        let places = [
            place("a", None, 4, 9),
            place("b", None, 3, 9),
            place("c", None, 0, 9),
        ];
        let pair = |from: &str| (from.to_owned(), "c".to_owned());
        assert_eq!(moved(&places), [pair("a"), pair("b")]);
        assert_eq!(moved(&[place("a", None, 1, 9), place("b", None, 0, 9)]), []);
    }

    #[test]
    fn a_node_without_room_takes_nothing_and_what_may_not_move_stays() {
        assert_eq!(moved(&[place("a", None, 6, 9), place("b", None, 0, 0)]), []);
        assert_eq!(moved(&[place("a", None, 6, 9), place("b", None, 0, 1)]).len(), 1);
        let mut paused = place("a", None, 6, 0);
        paused.movable.clear();
        assert_eq!(moved(&[paused, place("b", None, 0, 9)]), []);
    }

    #[test]
    fn preferences_come_before_nodes() {
        let places = [
            place("a", Some("east"), 2, 9),
            place("b", Some("east"), 2, 9),
            place("c", Some("west"), 0, 9),
        ];
        assert_eq!(moved(&places).len(), 2, "as many in the west as in the east");
        let even = [
            place("a", Some("east"), 2, 9),
            place("b", Some("east"), 0, 9),
            place("c", Some("west"), 2, 9),
        ];
        assert_eq!(moved(&even), [("a".to_owned(), "b".to_owned())]);
    }

    /// Sums of squares, outermost level first: what a move makes smaller.
    fn unevenness(places: &[Place]) -> Vec<usize> {
        let depth = places[0].path.len();
        let sum = |level: usize| {
            let mut counts: BTreeMap<(&[String], &str), usize> = BTreeMap::new();
            for place in places {
                let name = place.path.get(level).map_or(place.node.as_str(), String::as_str);
                *counts.entry((&place.path[..level], name)).or_default() += place.tasks;
            }
            counts.values().map(|count| count * count).sum()
        };
        (0..=depth).map(sum).collect()
    }

    fn cluster() -> impl Strategy<Value = Vec<Place>> {
        let node = (
            0..3usize,
            0..3usize,
            0..9usize,
            prop_oneof![Just(0), Just(2), Just(99)],
        );
        (0..3usize, proptest::collection::vec(node, 1..12)).prop_map(|(depth, nodes)| {
            let one = |(number, (zone, rack, tasks, room)): (usize, (usize, usize, usize, usize))| Place {
                path: [format!("z{zone}"), format!("r{rack}")][..depth].to_vec(),
                ..place(&format!("n{number:02}"), None, tasks, room)
            };
            nodes.into_iter().enumerate().map(one).collect()
        })
    }

    proptest! {
        #[test]
        fn every_move_improves_and_at_the_end_nothing_moves(before in cluster()) {
            let moves = plan(before.clone());
            let mut places = before.clone();
            for one in &moves {
                let worse = unevenness(&places);
                let from = places.iter_mut().find(|place| place.node == one.from).unwrap();
                prop_assert!(from.movable.contains(&one.task));
                from.movable.retain(|task| *task != one.task);
                (from.tasks, from.room) = (from.tasks - 1, from.room + 1);
                let to = places.iter_mut().find(|place| place.node == one.to).unwrap();
                prop_assert!(to.room > 0, "a node is never asked to take more than it can");
                (to.tasks, to.room) = (to.tasks + 1, to.room - 1);
                prop_assert!(unevenness(&places) < worse);
            }
            prop_assert_eq!(plan(places.clone()), vec![]);
            let count = |places: &[Place]| places.iter().map(|place| place.tasks).sum::<usize>();
            prop_assert_eq!(count(&places), count(&before), "no task is lost");
            let mut tasks: Vec<_> = moves.iter().map(|one| &one.task).collect();
            tasks.sort();
            tasks.dedup();
            prop_assert_eq!(tasks.len(), moves.len(), "no task moves twice");
        }
    }
}
