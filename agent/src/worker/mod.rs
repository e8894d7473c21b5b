//! The worker: takes assignments from a manager's dispatcher and makes containers of them.
//!
//! - [`step`]: the pure decision of a task's life
//! - [`template`]: placeholders in specs

pub mod template;
