//! A node's place in the ranking for the tasks of one service; smaller is better.

use std::cmp::Reverse;

use proto::spec::Strategy;

use super::node::NodeInfo;

/// A node's place in the ranking for one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    /// Recent failures of the service on the node; zero while they are too few to matter.
    pub(crate) failures: u32,
    /// Whether the task before was on another node, if that matters.
    pub(crate) away: bool,
    pub(crate) order: Order,
}

/// What comes first, as the service wants it. The ranks of one service are of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    /// The emptiest first: by tasks of the service, then all tasks, then what is reserved, then actual load.
    Spread {
        service_tasks: u32,
        tasks: u32,
        reserved: Share,
        load: u8,
    },
    /// The fullest first: by what is reserved, then by tasks.
    Binpack {
        reserved: Reverse<Share>,
        tasks: Reverse<u32>,
        load: u8,
    },
}

/// The mean of the reserved fractions of processor time and memory, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Share(pub(crate) u32);

impl Order {
    /// The node's place for the tasks of a service that has `service_tasks` there. `load` is a coarse step.
    pub(crate) fn of(strategy: Strategy, node: &NodeInfo, service_tasks: u32, load: u8) -> Self {
        let (tasks, reserved) = (node.tasks(), node.reserved());
        match strategy {
            Strategy::Spread => Self::Spread {
                service_tasks,
                tasks,
                reserved,
                load,
            },
            Strategy::Binpack => Self::Binpack {
                reserved: Reverse(reserved),
                tasks: Reverse(tasks),
                load,
            },
        }
    }
}

impl Rank {
    /// The node's place once it has one more task of the service, and so much is reserved.
    pub(crate) fn with_another_task(self, now_reserved: Share) -> Self {
        let order = match self.order {
            Order::Spread {
                service_tasks,
                tasks,
                load,
                ..
            } => Order::Spread {
                service_tasks: service_tasks + 1,
                tasks: tasks + 1,
                reserved: now_reserved,
                load,
            },
            Order::Binpack { tasks, load, .. } => Order::Binpack {
                reserved: Reverse(now_reserved),
                tasks: Reverse(tasks.0 + 1),
                load,
            },
        };
        Self { order, ..self }
    }
}
