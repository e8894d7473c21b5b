//! Following a log that grows and rotates, until its container has ended.

use std::future::pending;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;

use super::reader::{LineReader, Position, rotated};
use super::{is_over, parse};
use crate::engine::state::ContainerState;

/// Sends what is written from `position` on. `written` ticks whenever something in the log's directory changes.
pub(super) async fn follow(
    mut position: Position,
    mut state: watch::Receiver<ContainerState>,
    mut written: watch::Receiver<u64>,
) {
    let deadline = until(position.filter.0.until);
    tokio::pin!(deadline);
    loop {
        // Seen before reading: what was written before the end is then read.
        let over = is_over(state.borrow_and_update().status);
        written.borrow_and_update();
        if !position.drain().await || over {
            return;
        }
        tokio::select! {
            changed = written.changed() => if changed.is_err() { return },
            changed = state.changed() => if changed.is_err() { return },
            () = position.sender.closed() => return,
            () = &mut deadline => return,
        }
    }
}

async fn until(limit: Option<OffsetDateTime>) {
    let Some(until) = limit else {
        return pending().await;
    };
    let rest = Duration::try_from(until - OffsetDateTime::now_utc()).unwrap_or_default();
    tokio::time::sleep(rest).await;
}

impl Position {
    /// Sends every complete line, over as many files as have come since. False: nobody listens, or the limit is reached.
    async fn drain(&mut self) -> bool {
        loop {
            if !self.drain_file().await {
                return false;
            }
            let Some(next) = self.newer() else { return true };
            // The writer may have added to the old file between our last read and the rotation.
            if self.reader.is_some() && !self.drain_file().await {
                return false;
            }
            self.reader = Some(next);
        }
    }

    async fn drain_file(&mut self) -> bool {
        let Some(reader) = &mut self.reader else {
            return true;
        };
        while let Ok(Some(line)) = reader.next_line() {
            let Some(entry) = parse(&line) else { continue };
            if self.filter.is_past(&entry) {
                return false;
            }
            if self.filter.accepts(&entry) && self.sender.send(entry).await.is_err() {
                return false;
            }
        }
        true
    }

    /// The file that follows the one being read, if it was rotated away.
    fn newer(&self) -> Option<LineReader> {
        let Some(current) = self.reader.as_ref().map(|reader| reader.inode) else {
            return LineReader::open(&self.path).ok();
        };
        let inode = |index| std::fs::metadata(rotated(&self.path, index)).map(|meta| meta.ino());
        if inode(0).ok()? == current {
            return None;
        }
        // Find ourselves among the rotated files; the one before is next. Dropped already: go on with the newest.
        let ours = (1..)
            .map_while(|index| inode(index).ok().map(|inode| (index, inode)))
            .find(|(_, inode)| *inode == current);
        LineReader::open(&rotated(&self.path, ours.map_or(0, |(index, _)| index - 1))).ok()
    }
}
