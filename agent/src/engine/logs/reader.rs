//! Reading log files: forward line by line, backward for a tail, across rotated files.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use tokio::sync::mpsc::Sender;

use super::super::request::LogEntry;
use super::{Filter, parse};

const BLOCK: usize = 64 << 10;

/// Complete lines of one growing file.
#[derive(Debug)]
pub(super) struct LineReader {
    file: File,
    pub(super) inode: u64,
    /// Read, but not yet given out.
    buffer: Vec<u8>,
    given: usize,
}

impl LineReader {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self {
            file,
            inode,
            buffer: Vec::new(),
            given: 0,
        })
    }

    /// Skips to `offset`, the start of a line.
    fn seek(&mut self, offset: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(offset)).map(drop)
    }

    /// The next complete line, without its newline; `None` at the end of what is written so far.
    pub(super) fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(length) = self.buffer[self.given..].iter().position(|b| *b == b'\n') {
                let line = self.buffer[self.given..self.given + length].to_vec();
                self.given += length + 1;
                return Ok(Some(line));
            }
            self.buffer.drain(..self.given);
            self.given = 0;
            let kept = self.buffer.len();
            self.buffer.resize(kept + BLOCK, 0);
            let count = self.file.read(&mut self.buffer[kept..]);
            self.buffer.truncate(kept + *count.as_ref().unwrap_or(&0));
            if count? == 0 {
                return Ok(None);
            }
        }
    }
}

/// Where a follower goes on.
#[derive(Debug)]
pub(super) struct Position {
    pub(super) path: PathBuf,
    /// `None`: the log does not exist yet.
    pub(super) reader: Option<LineReader>,
    pub(super) filter: Filter,
    pub(super) sender: Sender<LogEntry>,
}

/// What is written so far.
#[derive(Debug)]
pub(super) struct History {
    pub(super) path: PathBuf,
    pub(super) filter: Filter,
    pub(super) sender: Sender<LogEntry>,
}

impl History {
    /// Sends it, oldest line first. `None`: the client has left, or the time limit is reached.
    pub(super) fn read(self) -> Option<Position> {
        let mut files = open_all(&self.path);
        if let Some(count) = self.filter.0.tail {
            seek_to_tail(&mut files, count, &self.filter);
        }
        let mut newest = None;
        for mut reader in files {
            self.send_lines(&mut reader)?;
            newest = Some(reader);
        }
        Some(Position {
            path: self.path,
            reader: newest,
            filter: self.filter,
            sender: self.sender,
        })
    }

    fn send_lines(&self, reader: &mut LineReader) -> Option<()> {
        // An unreadable rest ends the history of this file, not the request.
        while let Ok(Some(line)) = reader.next_line() {
            let Some(entry) = parse(&line) else { continue };
            if self.filter.is_past(&entry) {
                return None;
            }
            if self.filter.accepts(&entry) {
                self.sender.blocking_send(entry).ok()?;
            }
        }
        Some(())
    }
}

/// All files of a log, oldest first. A rotation in between shows as the same file twice, and is seen by its inode.
fn open_all(path: &Path) -> Vec<LineReader> {
    let mut files: Vec<LineReader> = Vec::new();
    for index in 0.. {
        let Ok(reader) = LineReader::open(&rotated(path, index)) else {
            // path.1 may be missing for an instant while path.2 is there: look one further.
            if index > 1 {
                break;
            } else {
                continue;
            };
        };
        if !files.iter().any(|known| known.inode == reader.inode) {
            files.push(reader);
        }
    }
    files.reverse();
    files
}

/// `path` for 0, `path.1`, `path.2` …
pub(super) fn rotated(path: &Path, index: u32) -> PathBuf {
    match index {
        0 => path.to_owned(),
        index => PathBuf::from(format!("{}.{index}", path.display())),
    }
}

/// Drops whole files and seeks the first that is kept, so that `count` accepted lines follow.
fn seek_to_tail(files: &mut Vec<LineReader>, count: usize, filter: &Filter) {
    let mut wanted = count;
    for index in (0..files.len()).rev() {
        let (offset, found) = tail_offset(&files[index].file, wanted, filter).unwrap_or((0, 0));
        wanted -= found;
        if wanted == 0 {
            // Unable to seek: show more rather than less.
            let _ = files[index].seek(offset);
            files.drain(..index);
            return;
        }
    }
}

/// Offset of the line with which the last `count` accepted lines of a file begin, and how many there are.
fn tail_offset(file: &File, count: usize, filter: &Filter) -> io::Result<(u64, usize)> {
    let length = file.metadata()?.len();
    if count == 0 {
        return Ok((end_of_last_line(file, length)?, 0));
    }
    let mut found = 0;
    // Everything from `start` on is in `tail`; the first of its lines may be incomplete.
    let (mut start, mut tail) = (length, Vec::new());
    let mut line_end = None;
    while start > 0 {
        let step = BLOCK.min(usize::try_from(start).unwrap_or(BLOCK));
        start -= step as u64;
        let mut block = vec![0; step];
        file.read_exact_at(&mut block, start)?;
        block.append(&mut tail);
        tail = block;
        line_end = line_end.map(|end: usize| end + step);
        while let Some(newline) = tail[..line_end.unwrap_or(tail.len())]
            .iter()
            .rposition(|b| *b == b'\n')
        {
            if let Some(end) = line_end {
                found +=
                    usize::from(parse(&tail[newline + 1..end]).is_some_and(|entry| filter.accepts(&entry)));
                if found == count {
                    return Ok((start + newline as u64 + 1, found));
                }
            }
            line_end = Some(newline);
        }
        // What is after the last newline that was looked at is done with.
        if let Some(end) = line_end {
            tail.truncate(end);
        }
    }
    if let Some(end) = line_end {
        found += usize::from(parse(&tail[..end]).is_some_and(|entry| filter.accepts(&entry)));
    }
    Ok((0, found))
}

/// A line that is being written is no line yet, so that a follower gets it whole.
fn end_of_last_line(file: &File, length: u64) -> io::Result<u64> {
    let mut start = length;
    while start > 0 {
        let step = (BLOCK as u64).min(start);
        start -= step;
        let mut block = vec![0; usize::try_from(step).unwrap_or(BLOCK)];
        file.read_exact_at(&mut block, start)?;
        if let Some(newline) = block.iter().rposition(|b| *b == b'\n') {
            return Ok(start + newline as u64 + 1);
        }
    }
    Ok(0)
}
