//! The shim with real containers. Needs root.

mod exec;
mod harness;
mod lease;
mod life;
mod output;
mod terminal;
