//! The node agent: Docker Engine API, container engine, worker, and (as a client of that API) the command line.
//!
//! Everything the daemon does is reached through [`api`]; [`daemon`] only wires the rooms together. The binary in
//! `main.rs` is a thin shell over this library, so that tests can drive the router without a socket.

pub mod api;
pub mod cgroup;
pub mod cli;
pub mod cluster;
mod compose;
pub mod daemon;
pub mod engine;
pub mod host;
pub mod load;
pub mod local_network;
pub mod open_files;
pub mod peer;
pub mod transfer;
pub mod worker;
