//! The words of the house: what is desired, what is observed, and how nodes tell each other.
//!
//! The object model is written as Rust structs whose JSON is exactly the Docker Engine API's (API 1.44, section Swarm),
//! so that one type is what the API speaks, what the store keeps and what the worker receives. Between nodes the
//! objects travel inside the gRPC envelope of [`wire`], as that same JSON.
//!
//! - [`Hidden`]: text that `Debug` does not show
//! - [`id`]: identifiers as newtypes
//! - [`meta`]: versions and times
//! - [`state`]: the task states, a clock that only grows
//! - [`spec`]: what a user writes
//! - [`object`]: what the manager keeps: a spec and what was observed of it
//! - [`upkeep`]: settings of services that live in labels
//! - [`world`]: the wall clock and chance, which a simulation replaces
//! - [`wire`]: the gRPC services between managers and nodes

mod hidden;
pub mod id;
mod json;
pub mod meta;
pub mod object;
pub mod spec;
pub mod state;
pub mod text;
pub mod upkeep;
pub mod world;

pub use hidden::Hidden;
pub use id::{ClusterId, ConfigId, NetworkId, NodeId, SecretId, ServiceId, TaskId};
pub use meta::{Meta, Timestamp, Version};
pub use object::{Cluster, Config, Network, Node, Secret, Service, ServiceEndpoint, Task};
pub use spec::{ConfigSpec, NetworkSpec, NodeSpec, SecretSpec, ServiceSpec, TaskSpec};
pub use state::TaskState;

/// The gRPC envelope between managers and nodes, made from the files in `schema`.
pub mod wire {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    tonic::include_proto!("shoal.v1");
}
