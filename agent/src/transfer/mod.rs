//! What travels between nodes: images, and volumes with their tasks.
//!
//! - [`images`]: what a node answers of its images, and [`Fetcher`], which brings one here
//! - [`resolve`]: which image a name means in the cluster
//! - `flights`: what is fetched twice at once is fetched once
//! - `wire`: bodies of answers, for code that blocks

mod fetch;
mod flights;
pub mod images;
pub mod resolve;
mod wire;

pub use fetch::{FetchError, Fetcher};
