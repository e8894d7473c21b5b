//! The cluster's mind: what is desired, and the loops that bring it about.
//!
//! - [`state`]: the replicated store that every loop watches
pub mod state;
