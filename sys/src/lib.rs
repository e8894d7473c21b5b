//! Thin safe wrappers over system calls that no crate offers safely; the only crate where `unsafe` is allowed.

pub mod netns;
