//! Thin safe wrappers over system calls that no crate offers safely; the only crate where `unsafe` is allowed.
//!
//! Nothing in here knows about containers: a function is named as the kernel operation it performs, takes file
//! descriptors rather than paths where the kernel allows it, and answers with `std::io::Result`.

pub mod bpf;
pub mod mount;
pub mod namespace;
pub mod netns;
pub mod overlay;
pub mod packet;
pub mod process;
pub mod seccomp;
pub mod signal;
pub mod socket;
