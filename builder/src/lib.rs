//! Dockerfile → plan → layers.
//!
//! Input is a build context as a tar stream and options; output is an image in the store. Nothing is run: the
//! instructions that need a container are refused by name.

use std::collections::BTreeMap;
use std::io::Read;

use storage::{ImageId, Reference, Storage};

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
            .finish()
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

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("{0} is not built yet")]
    NotBuilt(&'static str),
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

impl BuildError {
    /// Whether the Dockerfile or the request is at fault (400) rather than the machine (500).
    pub fn is_user_error(&self) -> bool {
        match self {
            Self::NotBuilt(_) => true,
            Self::Storage(error) => error.kind() == storage::Kind::Invalid,
        }
    }

    /// The text with all causes.
    pub fn chain(&self) -> String {
        match self {
            Self::Storage(error) => error.chain(),
            other => other.to_string(),
        }
    }
}

/// Builds an image and tags it. On an error no image and no tag is left.
pub fn build(
    storage: &Storage,
    request: BuildRequest<'_>,
    progress: &mut dyn FnMut(BuildEvent),
) -> Result<ImageId, BuildError> {
    let _ = (storage, request, progress);
    Err(BuildError::NotBuilt("image build"))
}
