//! The container's log: every byte of stdout and stderr goes through here before anything else.
//!
//! In: what was read from a stream. Out: Docker's json-file format, one object a line,
//! `{"log":"text\n","stream":"stdout","attrs":{…},"time":"…"}`, with rotation; or nothing for the driver `none`.
//! A line that cannot be written (disk full) is dropped as a whole, so that the file stays readable, and the container
//! goes on; the first such error is kept for the exit record.

mod json_file;
mod lines;

use std::io;

use super::clock::Stamp;
use super::config::{LogConfig, LogDriver};
use super::protocol::Stream;
use json_file::JsonFile;
use lines::Lines;

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    #[error("log driver json-file needs a path")]
    NoPath,
    #[error("log option max-file must be at least 1")]
    NoFiles,
    #[error("log option max-size must be at least 1")]
    NoSize,
    #[error("open log {}", .0.display())]
    Open(std::path::PathBuf, #[source] io::Error),
}

/// The log of one container.
#[derive(Debug)]
pub(super) struct Log {
    file: Option<JsonFile>,
    stdout: Lines,
    stderr: Lines,
}

impl Log {
    /// Opens the log for appending.
    pub(super) fn open(config: &LogConfig) -> Result<Self, LogError> {
        let file = match config.driver {
            LogDriver::None => None,
            LogDriver::JsonFile => Some(JsonFile::open(config)?),
        };
        Ok(Self {
            file,
            stdout: Lines::default(),
            stderr: Lines::default(),
        })
    }

    /// Logs what was just read from `stream`.
    pub(super) fn append(&mut self, stream: Stream, bytes: &[u8]) {
        self.write(stream, |lines, now, emit| lines.feed(bytes, now, emit));
    }

    /// Logs what is left of a stream that has ended.
    pub(super) fn end(&mut self, stream: Stream) {
        self.write(stream, Lines::end);
    }

    /// The first error that cost a line, if any.
    pub(super) fn failure(&self) -> Option<String> {
        let error = self.file.as_ref()?.failure.as_ref()?;
        Some(format!("log lines were lost: {error}"))
    }

    fn write(
        &mut self,
        stream: Stream,
        cut: impl FnOnce(&mut Lines, Stamp, &mut dyn FnMut(lines::Message<'_>)),
    ) {
        let Some(file) = &mut self.file else { return };
        let lines = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        cut(lines, Stamp::now(), &mut |message| file.append(stream, message));
        file.flush();
    }
}
