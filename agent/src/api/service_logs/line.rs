//! One line of a task's log: as clients read it, and as it travels between nodes.

use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use tokio_util::codec::Decoder;

use crate::api::stream::stdcopy_frame;
use crate::engine::{LogEntry, StdStream, TaskRef};

/// Bytes of a frame's head.
const HEAD: usize = 8;
/// A node that sends longer frames than this sends no log (the shim cuts lines at 16 KiB).
const LONGEST: usize = 4 << 20;
/// What a label of the details is called.
const LABEL: &str = "com.docker.swarm.";

/// One line and whose it is.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) task: Arc<TaskRef>,
    pub(super) entry: LogEntry,
}

/// How a line is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub(super) tty: bool,
    pub(super) timestamps: bool,
    pub(super) details: bool,
}

impl Style {
    /// How lines travel between nodes: with all that is needed to write them in any other way.
    pub(super) const COMPLETE: Self = Self {
        tty: false,
        timestamps: true,
        details: true,
    };
}

impl Line {
    pub(super) fn write(&self, style: Style) -> Bytes {
        let mut text = Vec::with_capacity(self.entry.line.len() + 160);
        if style.timestamps {
            text.extend_from_slice(timestamp(self.entry.time).as_bytes());
            text.push(b' ');
        }
        if style.details {
            text.extend_from_slice(details(&self.task).as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(&self.entry.line);
        if style.tty {
            text.into()
        } else {
            stdcopy_frame(self.entry.stream, &text)
        }
    }

    /// Reads what was written in [`Style::COMPLETE`].
    fn read(stream: StdStream, mut frame: Bytes) -> Option<Self> {
        let mut word = || {
            let end = frame.iter().position(|byte| *byte == b' ')?;
            let word = frame.split_to(end);
            frame.advance(1);
            Some(word)
        };
        let time = word()?;
        let task = word()?;
        let time = OffsetDateTime::parse(std::str::from_utf8(&time).ok()?, &Rfc3339).ok()?;
        Some(Self {
            task: Arc::new(task_of(std::str::from_utf8(&task).ok()?)?),
            entry: LogEntry {
                stream,
                time,
                line: frame,
            },
        })
    }
}

/// Takes the frames of another node's log apart.
#[derive(Debug, Default)]
pub(super) struct Lines;

impl Decoder for Lines {
    type Item = Line;
    type Error = io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Line>> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the node sent what is no log");
        let Some(&[stream, _, _, _, a, b, c, d]) = buffer.first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > LONGEST {
            return Err(damaged());
        }
        if buffer.len() < HEAD + length {
            buffer.reserve(HEAD + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(HEAD);
        let stream = match stream {
            2 => StdStream::Stderr,
            _ => StdStream::Stdout,
        };
        let line = Line::read(stream, buffer.split_to(length).freeze());
        line.map(Some).ok_or_else(damaged)
    }
}

/// What the stock CLI needs to name the task: it cuts this off the line again.
fn details(task: &TaskRef) -> String {
    format!(
        "{LABEL}node.id={},{LABEL}service.id={},{LABEL}task.id={}",
        task.node_id, task.service_id, task.task_id
    )
}

fn task_of(details: &str) -> Option<TaskRef> {
    let mut task = TaskRef::default();
    for pair in details.split(',') {
        let (key, value) = pair.strip_prefix(LABEL)?.split_once('=')?;
        match key {
            "node.id" => value.clone_into(&mut task.node_id),
            "service.id" => value.clone_into(&mut task.service_id),
            "task.id" => value.clone_into(&mut task.task_id),
            _ => {}
        }
    }
    Some(task)
}

/// Nanoseconds always with nine digits, so that timestamps line up.
pub(in crate::api) fn timestamp(moment: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z");
    moment
        .to_offset(time::UtcOffset::UTC)
        .format(&format)
        .unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn line(task: &str, nanos: i128, text: &'static str) -> Line {
        Line {
            task: Arc::new(TaskRef {
                task_id: task.into(),
                service_id: "s".into(),
                node_id: "n".into(),
                lease: None,
            }),
            entry: LogEntry {
                stream: StdStream::Stdout,
                time: OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap(),
                line: Bytes::from_static(text.as_bytes()),
            },
        }
    }

    #[test]
    fn prefixes_as_docker_writes_them() {
        let line = line("t", 5, "hello\n");
        let all = Style {
            tty: true,
            ..Style::COMPLETE
        };
        assert_eq!(
            line.write(all),
            "1970-01-01T00:00:00.000000005Z com.docker.swarm.node.id=n,com.docker.swarm.service.id=s,\
             com.docker.swarm.task.id=t hello\n"
        );
        let bare = Style {
            tty: false,
            timestamps: false,
            details: false,
        };
        assert_eq!(&line.write(bare)[..8], b"\x01\0\0\0\0\0\0\x06");
    }

    #[test]
    fn lines_survive_the_way_between_nodes() {
        let mut sent = BytesMut::new();
        let mut lines = vec![
            line("t", 5, " two words \n"),
            line("u", 6, ""),
            line("v", 7, "\n"),
        ];
        lines[1].entry.stream = StdStream::Stderr;
        for line in &lines {
            sent.extend_from_slice(&line.write(Style::COMPLETE));
        }
        let (mut decoder, mut heard, mut read) = (Lines, BytesMut::new(), Vec::new());
        for byte in sent {
            heard.extend_from_slice(&[byte]);
            read.extend(decoder.decode(&mut heard).unwrap());
        }
        let same = |one: &Line, two: &Line| {
            (&one.task, one.entry.time, &one.entry.line) == (&two.task, two.entry.time, &two.entry.line)
                && one.entry.stream == two.entry.stream
        };
        assert!(read.len() == 3 && read.iter().zip(&lines).all(|(one, two)| same(one, two)));
    }

    #[test]
    fn what_is_no_log_is_refused() {
        for bad in [
            &b"\x01\0\0\0\xff\xff\xff\xff"[..],
            b"\x01\0\0\0\0\0\0\x03a b",
            b"\x01\0\0\0\0\0\0\x08x y text",
        ] {
            assert!(Lines.decode(&mut BytesMut::from(bad)).is_err(), "{bad:?}");
        }
        let mut part = BytesMut::from(&b"\x01\0\0\0\0\0"[..]);
        assert!(matches!(Lines.decode(&mut part), Ok(None)));
    }
}
