//! The worker: takes assignments from a manager's dispatcher and makes containers of them.
//!
//! - [`session`]: the conversation with the dispatcher, [`assignments`] what comes, [`reporter`] what goes
//! - [`step`]: the pure decision of a task's life
//! - [`template`]: placeholders in specs

pub mod assignments;
pub mod reporter;
pub mod session;
pub mod step;
pub mod template;
