//! From services to tasks: makes, replaces, updates and removes the tasks of each service so that they become what its
//! spec asks for.
//!
//! Input: services, tasks, nodes and the cluster in the store. Output: new tasks, their desired state, and the update
//! status of services. [`run`](service_loop::run) watches the store; [`plan`](plan::plan) is pure.
//!
//! ```text
//!                       ┌ promote   (delay)       READY → RUNNING when delay and predecessor are over
//! watch → dirty service ┤ restart   (restart)     ended, or node lost or drained → SHUTDOWN + replacement
//!         + tasks       ├ slots     (replicated, global, job)   how many, where
//!                       └ update    (update)      dirty slots → new tasks, a few at a time
//!                       → steps → one batch to the store
//! ```

mod backoff;
mod delay;
mod draft;
mod global;
mod job;
mod plan;
mod replicated;
mod restart;
mod service_loop;
mod slot;
mod task;
mod update;
mod write;

#[cfg(test)]
mod tests;

pub(crate) use service_loop::run;
pub(crate) use slot::SlotKey;
pub(crate) use task::is_dirty;
