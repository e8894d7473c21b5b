//! What can be wrong with a compose file.

use std::path::PathBuf;
use std::sync::Arc;

use super::yaml::Place;

/// What is wrong, and where.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ComposeError {
    /// Nothing was named.
    #[error("no compose file was named: use -c FILE")]
    NoFile,
    /// A file could not be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not YAML.
    #[error("{place}: {problem}")]
    Syntax {
        /// Where the parser stopped.
        place: Place,
        /// What it says.
        problem: String,
    },
    /// A value is not what the Compose Specification asks for in its place.
    #[error("{place}: {path}: {problem}")]
    Value {
        /// Where it stands.
        place: Place,
        /// Path of keys to it, such as `services.web.ports[0]`.
        path: Arc<str>,
        /// What is wrong and what would be right.
        problem: String,
    },
}
