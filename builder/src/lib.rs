//! Dockerfile → plan → layers.
//!
//! Input is a build context as a tar stream and options; output is an image in the store. Nothing is run: the
//! instructions that need a container are refused by name. One way through the house:
//!
//! ```text
//! context tar → unpacked aside ─┐
//! Dockerfile → [`dockerfile`] instructions → [`plan`] stages → [`solve`] steps → layers + configuration → image
//! ```
//! Each step has a key made of its parent's key, its text and the digest of what it copies; a step whose key is
//! known gives the layer and the time that it gave before, so that building again unchanged gives the same image.

mod copy;
mod dockerfile;
mod error;
pub mod ignore;
mod owner;
mod plan;
mod resolve;
mod solve;
mod stage;

use std::collections::BTreeMap;
use std::io::Read;

use storage::{ImageId, Reference, Storage};

pub use self::error::{BuildError, StepError};

/// What is to be built: the parameters of Docker's classic `POST /build`.
pub struct BuildRequest<'a> {
    /// The context as a tar, plain, gzip or zstd.
    pub context: &'a mut dyn Read,
    /// Path of the Dockerfile inside the context; `Dockerfile` when empty.
    pub dockerfile: String,
    pub tags: Vec<Reference>,
    /// `None` as a value means "from the environment", which a daemon has none of: the argument stays unset.
    pub build_args: BTreeMap<String, Option<String>>,
    pub labels: BTreeMap<String, String>,
    /// Stage to stop at.
    pub target: Option<String>,
    pub no_cache: bool,
}

impl std::fmt::Debug for BuildRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BuildRequest")
            .field("dockerfile", &self.dockerfile)
            .field("tags", &self.tags)
            .finish_non_exhaustive()
    }
}

/// What the caller is told while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent {
    /// A piece of the classic builder's output, with its line ends: the `stream` of a progress message.
    Stream(String),
    /// The finished image: the `aux` of a progress message.
    Image(ImageId),
}

/// Builds an image and tags it. On an error no image and no tag is left.
pub fn build(
    storage: &Storage,
    request: BuildRequest<'_>,
    progress: &mut dyn FnMut(BuildEvent),
) -> Result<ImageId, BuildError> {
    solve::build(storage, request, progress)
}
