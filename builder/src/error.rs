//! What can go wrong in a build, and whose fault it is.

use std::error::Error as _;

use storage::{Kind, RootError};

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("unpack the build context")]
    Context { source: storage::Error },
    #[error("Cannot locate specified Dockerfile: {0}")]
    NoDockerfile(String),
    #[error("read {file} of the build context")]
    Unreadable { file: String, source: RootError },
    #[error("the Dockerfile ({0}) cannot be empty")]
    Empty(String),
    #[error("{file} is not text in UTF-8")]
    NotText { file: String },
    #[error("{file} line {line}: {reason}")]
    Dockerfile {
        file: String,
        line: usize,
        reason: String,
    },
    #[error(
        "RUN is not built yet: {file} line {line}: {text}; build this image elsewhere and load it, or COPY what the command would make"
    )]
    Run { file: String, line: usize, text: String },
    #[error("failed to reach build target {target} in {file}")]
    Target { file: String, target: String },
    #[error("No image was generated. Is {0} empty?")]
    Nothing(String),
    #[error(".dockerignore of the build context")]
    Ignore { source: crate::ignore::IgnoreError },
    #[error("{file} line {line}: {text}")]
    Step {
        file: String,
        line: usize,
        text: String,
        source: Box<StepError>,
    },
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

/// Why one instruction failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("{0}")]
    Invalid(String),
    #[error("file not found in build context or excluded by .dockerignore: stat {0}: file does not exist")]
    NotInContext(String),
    #[error("image {image} is not on this machine, and pulling is not built yet: build it or load it first")]
    NoBase {
        image: String,
        source: Box<storage::Error>,
    },
    #[error(transparent)]
    Storage(#[from] storage::Error),
    #[error(transparent)]
    Root(#[from] RootError),
    #[error("read {path} to compare it")]
    Hash { path: String, source: std::io::Error },
}

impl BuildError {
    /// Whether the Dockerfile or the request is at fault (400) rather than the machine (500).
    pub fn is_user_error(&self) -> bool {
        match self {
            Self::Storage(error) | Self::Context { source: error } => is_request(error.kind()),
            Self::Step { source, .. } => match &**source {
                StepError::Storage(error) => is_request(error.kind()),
                StepError::Hash { .. } => false,
                StepError::Root(error) => !matches!(error, RootError::Io { .. }),
                _ => true,
            },
            Self::Unreadable { source, .. } => !matches!(source, RootError::Io { .. }),
            _ => true,
        }
    }

    /// The text with all causes: `what: why: why`.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

fn is_request(kind: Kind) -> bool {
    matches!(kind, Kind::Invalid | Kind::NotFound | Kind::Conflict)
}
