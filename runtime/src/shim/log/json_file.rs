//! Docker's json-file: rendering, writing and rotation.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::super::config::LogConfig;
use super::super::protocol::Stream;
use super::LogError;
use super::lines::Message;

/// Rendered messages are written when they reach this size.
const BATCH: usize = 32 * 1024;

/// A log file and its older siblings `path.1`, `path.2` …
#[derive(Debug)]
pub(super) struct JsonFile {
    path: PathBuf,
    file: File,
    /// Bytes in `file`; all of them whole lines.
    size: u64,
    max_size: Option<u64>,
    max_file: u32,
    /// `"attrs":{…},` or nothing.
    attrs: String,
    /// Rendered but not yet written.
    batch: Vec<u8>,
    /// The first error that lost a message.
    pub(super) failure: Option<io::Error>,
}

impl JsonFile {
    pub(super) fn open(config: &LogConfig) -> Result<Self, LogError> {
        let path = config.path.clone().ok_or(LogError::NoPath)?;
        if config.max_file == Some(0) {
            return Err(LogError::NoFiles);
        }
        if config.max_size == Some(0) {
            return Err(LogError::NoSize);
        }
        let open = || {
            let file = append_to(&path)?;
            let size = file.metadata()?.len();
            Ok((file, size))
        };
        let (file, size) = open().map_err(|error| LogError::Open(path.clone(), error))?;
        Ok(Self {
            path,
            file,
            size,
            max_size: config.max_size,
            max_file: config.max_file.unwrap_or(1),
            attrs: render_attrs(config.tag.as_deref(), &config.attrs),
            batch: Vec::new(),
            failure: None,
        })
    }

    /// Adds a message; it may stay in memory until [`Self::flush`].
    pub(super) fn append(&mut self, stream: Stream, message: Message<'_>) {
        if self.is_full() {
            self.flush();
            if let Err(error) = self.rotate() {
                self.failure.get_or_insert(error);
            }
        }
        render(&mut self.batch, stream, &self.attrs, message);
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    /// Writes what is in memory.
    pub(super) fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        match self.file.write_all(&self.batch) {
            Ok(()) => self.size += self.batch.len() as u64,
            Err(error) => {
                // Half a line would spoil the next one.
                let _ = self.file.set_len(self.size);
                self.failure.get_or_insert(error);
            }
        }
        self.batch.clear();
        self.batch.shrink_to(BATCH);
    }

    /// As in Docker, a file is replaced once it has reached the limit; so it may exceed it by one message.
    fn is_full(&self) -> bool {
        self.max_size
            .is_some_and(|max| self.size + self.batch.len() as u64 >= max)
    }

    /// Moves every file one number up, dropping the last, and starts a new one.
    fn rotate(&mut self) -> io::Result<()> {
        if self.max_file <= 1 {
            self.file.set_len(0)?;
            self.size = 0;
            return Ok(());
        }
        for number in (1..self.max_file - 1).rev() {
            rename_if_there(&numbered(&self.path, number), &numbered(&self.path, number + 1))?;
        }
        rename_if_there(&self.path, &numbered(&self.path, 1))?;
        self.file = append_to(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// `tag` is an attribute like the others; Docker keeps them sorted.
fn render_attrs(tag: Option<&str>, attrs: &BTreeMap<String, String>) -> String {
    let mut all: BTreeMap<&str, &str> = attrs.iter().map(|(key, value)| (&**key, &**value)).collect();
    all.extend(tag.map(|tag| ("tag", tag)));
    if all.is_empty() {
        return String::new();
    }
    format!("\"attrs\":{},", serde_json::json!(all))
}

fn render(out: &mut Vec<u8>, stream: Stream, attrs: &str, message: Message<'_>) {
    out.extend_from_slice(b"{\"log\":\"");
    escape(out, message.text);
    out.extend_from_slice(if message.newline {
        b"\\n\",\"stream\":\""
    } else {
        b"\",\"stream\":\""
    });
    out.extend_from_slice(stream.name().as_bytes());
    out.extend_from_slice(b"\",");
    out.extend_from_slice(attrs.as_bytes());
    out.extend_from_slice(b"\"time\":\"");
    out.extend_from_slice(message.time.as_str().as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// Appends `text` as the inside of a JSON string; what is not UTF-8 becomes U+FFFD.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        escape_str(out, chunk.valid());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn escape_str(out: &mut Vec<u8>, text: &str) {
    let mut bytes = text.as_bytes();
    while let Some(at) = bytes
        .iter()
        .position(|byte| matches!(byte, 0..0x20 | b'"' | b'\\'))
    {
        out.extend_from_slice(&bytes[..at]);
        match bytes[at] {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            // Writing to a vector cannot fail.
            control => drop(write!(out, "\\u{control:04x}")),
        }
        bytes = &bytes[at + 1..];
    }
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::super::Log;
    use super::*;
    use serde_json::{Value, json};

    fn config(path: &Path, max_size: Option<u64>, max_file: Option<u32>) -> LogConfig {
        serde_json::from_value(
            json!({"driver": "json-file", "path": path, "maxSize": max_size, "maxFile": max_file}),
        )
        .unwrap()
    }

    fn messages(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn texts(path: &Path) -> String {
        messages(path)
            .iter()
            .map(|message| message["log"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn lines_are_json_whatever_they_contain() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(&config(&path, None, None)).unwrap();
        log.append(
            Stream::Stdout,
            b"a \"quote\" \\ tab\t cr\r esc\x1b nul\0 <&> \xff\xfe \xe2\x82\n",
        );
        log.append(Stream::Stderr, "grüße 🐟\n".as_bytes());
        log.append(Stream::Stdout, b"no newline");
        log.end(Stream::Stdout);
        log.end(Stream::Stderr);
        let messages = messages(&path);
        let expected = "a \"quote\" \\ tab\t cr\r esc\u{1b} nul\0 <&> \u{fffd}\u{fffd} \u{fffd}\n";
        assert_eq!(messages[0]["log"], expected);
        assert_eq!(messages[0]["stream"], "stdout");
        assert_eq!(messages[1]["log"], "grüße 🐟\n");
        assert_eq!(messages[1]["stream"], "stderr");
        assert_eq!(messages[2]["log"], "no newline");
        assert_eq!(messages.len(), 3);
        assert!(log.failure().is_none());
    }

    #[test]
    fn attributes_and_tag_are_in_every_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let config = serde_json::from_value(
            json!({"driver": "json-file", "path": path, "tag": "t\"1", "attrs": {"env": "x"}}),
        );
        Log::open(&config.unwrap())
            .unwrap()
            .append(Stream::Stdout, b"1\n2\n");
        for message in messages(&path) {
            assert_eq!(message["attrs"], json!({"env": "x", "tag": "t\"1"}));
        }
    }

    #[test]
    fn rotation_keeps_the_newest_files_and_every_line_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(&config(&path, Some(1000), Some(3))).unwrap();
        let all: Vec<String> = (0..100).map(|n| format!("line {n:03}\n")).collect();
        for line in &all {
            log.append(Stream::Stdout, line.as_bytes());
        }
        let kept = [numbered(&path, 2), numbered(&path, 1), path.clone()]
            .map(|path| texts(&path))
            .concat();
        assert!(all.concat().ends_with(&kept) && kept.len() >= 20 * 9, "{kept}");
        assert!(!numbered(&path, 3).exists());
        for file in [&path, &numbered(&path, 1), &numbered(&path, 2)] {
            assert!(file.metadata().unwrap().len() < 1100);
        }
    }

    #[test]
    fn one_large_read_is_rotated_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(&config(&path, Some(5000), Some(2))).unwrap();
        log.append(Stream::Stdout, "0123456789\n".repeat(1000).as_bytes());
        assert!(path.metadata().unwrap().len() < 5100);
        assert!(numbered(&path, 1).metadata().unwrap().len() < 5100);
    }

    #[test]
    fn a_single_file_starts_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(&config(&path, Some(300), None)).unwrap();
        for n in 0..50 {
            log.append(Stream::Stdout, format!("{n}\n").as_bytes());
        }
        assert!(texts(&path).ends_with("49\n"));
        assert!(path.metadata().unwrap().len() < 400);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_existing_log_is_continued_and_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for text in ["first\n", "second\n"] {
            Log::open(&config(&path, None, None))
                .unwrap()
                .append(Stream::Stdout, text.as_bytes());
        }
        assert_eq!(texts(&path), "first\nsecond\n");
        let mut log = Log::open(&config(&path, Some(10), Some(2))).unwrap();
        log.append(Stream::Stdout, b"third\n");
        assert_eq!(texts(&path), "third\n");
    }

    #[test]
    fn a_line_that_does_not_fit_on_the_disk_is_dropped_whole() {
        // /dev/full answers every write with ENOSPC.
        let mut log = Log::open(&config(Path::new("/dev/full"), None, None)).unwrap();
        log.append(Stream::Stdout, b"lost\n");
        log.append(Stream::Stdout, b"lost too\n");
        assert!(log.failure().unwrap().contains("space"));
    }

    #[test]
    fn useless_options_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert!(matches!(
            Log::open(&config(&path, None, Some(0))),
            Err(LogError::NoFiles)
        ));
        assert!(matches!(
            Log::open(&config(&path, Some(0), None)),
            Err(LogError::NoSize)
        ));
        let nowhere = dir.path().join("missing/log");
        assert!(matches!(
            Log::open(&config(&nowhere, None, None)),
            Err(LogError::Open(..))
        ));
    }
}
