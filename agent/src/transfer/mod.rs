//! What travels between nodes: images, and volumes with their tasks.
//!
//! - [`images`]: what a node answers of its images, and [`Fetcher`], which brings one here
//! - [`resolve`]: which image a name means in the cluster
//! - [`volume_move`]: `volume mv`, as the leader does it; [`volumes`]: what the nodes do for it
//! - `flights`: what is fetched twice at once is fetched once
//! - `wire`: bodies of answers, for code that blocks; [`slow`]: answers that take long

mod fetch;
mod flights;
pub mod images;
pub mod resolve;
pub mod slow;
pub mod volume_move;
pub mod volumes;
mod wire;

pub use fetch::{FetchError, Fetcher};
