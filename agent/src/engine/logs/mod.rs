//! Container logs: the json-file driver's files as a stream of lines, with tail, time limits and following.
//!
//! History is read on a blocking thread with back-pressure; following is woken by inotify and by the container's state,
//! and never polls.

mod follow;
mod reader;
mod watcher;

use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Engine;
use super::error::{EngineError, Result};
use super::request::{LogEntry, LogOptions, LogStream, StdStream};
use super::state::Status;
use reader::History;

pub(crate) use watcher::LogWatcher;

/// Lines read ahead of a slow client.
const READ_AHEAD: usize = 256;

impl Engine {
    /// Its log lines; following ends when the container does.
    ///
    /// # Errors
    /// No such container, neither stream asked for, or a log that cannot be read back.
    pub async fn logs(&self, name: &str, options: LogOptions) -> Result<LogStream> {
        let container = self.registry.find(name)?;
        if !options.stdout && !options.stderr {
            return Err(EngineError::Invalid(
                "Bad parameters: you must choose at least one stream".into(),
            ));
        }
        if container.record().host_config.log_config.driver == "none" {
            return Err(EngineError::Unsupported(
                "configured logging driver does not support reading".into(),
            ));
        }
        let follow = options.follow && container.state().status.is_active();
        // Before the history is read, so that what is written meanwhile wakes the follower.
        let written = if follow {
            Some(self.log_watcher.subscribe(&container.paths.dir)?)
        } else {
            None
        };
        let (sender, lines) = mpsc::channel(READ_AHEAD);
        let (state, path, filter) = (container.watch(), container.paths.log(), Filter(options));
        tokio::spawn(async move {
            let history = History { path, filter, sender };
            let Ok(Some(position)) = tokio::task::spawn_blocking(move || history.read()).await else {
                return;
            };
            if let Some(written) = written {
                follow::follow(position, state, written).await;
            }
        });
        Ok(ReceiverStream::new(lines).boxed())
    }
}

/// Which lines are wanted.
#[derive(Debug, Clone)]
struct Filter(LogOptions);

impl Filter {
    fn accepts(&self, entry: &LogEntry) -> bool {
        let stream = match entry.stream {
            StdStream::Stdout => self.0.stdout,
            StdStream::Stderr => self.0.stderr,
        };
        stream && self.0.since.is_none_or(|since| entry.time >= since) && !self.is_past(entry)
    }

    /// Later than `until`: so is everything after it.
    fn is_past(&self, entry: &LogEntry) -> bool {
        self.0.until.is_some_and(|until| entry.time > until)
    }
}

/// One line of a json-file log.
#[derive(Deserialize)]
struct JsonLine {
    log: String,
    stream: String,
    #[serde(with = "time::serde::rfc3339")]
    time: OffsetDateTime,
}

/// Reads a line; one that is torn or foreign is skipped.
fn parse(line: &[u8]) -> Option<LogEntry> {
    let JsonLine { log, stream, time } = serde_json::from_slice(line).ok()?;
    let stream = if stream == "stderr" {
        StdStream::Stderr
    } else {
        StdStream::Stdout
    };
    Some(LogEntry {
        stream,
        time,
        line: Bytes::from(log),
    })
}

/// True once no process of the container can write any more.
fn is_over(status: Status) -> bool {
    !status.is_active()
}

#[cfg(test)]
mod tests;
