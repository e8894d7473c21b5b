//! From services to tasks: makes, replaces, updates and removes the tasks of each service so that they become what its
//! spec asks for.
//!
//! Input: services, tasks, nodes and the cluster in the store. Output: new tasks, their desired state, and the update
//! status of services. [`run`](service_loop::run) watches the store; [`plan`](plan::plan) is pure, and spared where a service
//! is at rest ([`rest`]).
//!
//! ```text
//!                       ┌ promote   (delay)       READY → RUNNING when delay and predecessor are over
//! watch → dirty service ┤ restart   (restart)     ended, or node lost or drained → SHUTDOWN + replacement
//!         + tasks       ├ handover  (handover)    a new task runs → the old one it takes over from ends
//!                       ├ slots     (replicated, global, job)   how many, where
//!                       └ update    (update)      dirty slots → new tasks, a few at a time
//!                       → steps → one batch to the store
//! ```

mod backoff;
mod delay;
mod draft;
mod fence;
mod global;
mod handover;
mod job;
mod orphans;
mod plan;
mod rebalance;
mod replicated;
mod rest;
mod restart;
mod service_loop;
mod slot;
mod task;
mod update;
mod write;

#[cfg(test)]
mod tests;

pub(crate) use orphans::run as orphans;
pub use rebalance::{PlannedMove, RebalancePlan, Unmoved};
pub(crate) use rebalance::{preview as preview_rebalance, run as rebalance};
pub(crate) use service_loop::run;
pub(crate) use slot::{SlotKey, is_per_node};
pub(crate) use task::is_dirty;
