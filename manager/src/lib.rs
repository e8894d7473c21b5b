//! The cluster's mind: what is desired, and the loops that bring it about.
//!
//! - [`state`]: the replicated store that every loop watches
//! - [`control`]: what users and tools may do with the objects
//! - [`allocator`]: subnets, addresses and ports
//! - [`manager`]: a manager from its birth to its end
//! - [`dispatcher`]: the conversation with the nodes
//! - `contacts`: when each node was heard last
//! - `seat`: this manager's place among the managers
//! - `rpc`: the port for other nodes, and who may call what
//! - `tls`: mutual TLS under the cluster's root
//! - [`disk`]: work that waits for a disk, which a simulation replaces
//! - [`ca`]: root certificate, node certificates, join tokens
//! - [`listen`]: TCP ports that other nodes reach
//! - [`peer`]: connections between any two nodes
//! - [`remote`]: the nodes' side of joining a cluster and of speaking to its managers
//! - [`vault`]: keys at rest: sealed files, the unlock key
//! - [`Orchestration`]: the loops that turn services into tasks on nodes
//!   - `orchestrator`: from services to tasks: slots, restarts, updates
//!   - [`scheduler`]: from tasks to nodes
//!   - `reaper`: takes out tasks that have had their day

pub mod allocator;
pub mod ca;
mod contacts;
pub mod control;
pub mod disk;
pub mod dispatcher;
mod files;
mod hash;
mod history;
pub mod listen;
pub mod manager;
mod network_key;
mod orchestration;
mod orchestrator;
pub mod peer;
mod reaper;
pub mod remote;
mod rpc;
pub mod scheduler;
mod seat;
pub mod state;
mod tls;
pub mod vault;

pub use contacts::Contacts;
pub use control::{BoundVolume, Control, ControlError, HeldBy, VolumeMove};
pub use manager::{InitRequest, JoinManagers, Leader, Manager, ManagerConfig, ManagerError};
pub use orchestration::Orchestration;
pub use tls::TlsError;
