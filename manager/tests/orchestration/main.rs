//! The loops of [`manager::Orchestration`] over a store in memory, with an agent that only pretends, on tokio's paused
//! clock: minutes pass in milliseconds, and always alike.

mod depends;
mod harness;
mod jobs;
mod nodes;
mod rebalance;
mod restarts;
mod scaling;
mod updates;
