//! Builds against a real store, as root.

mod builds;
mod common;
mod copies;
