//! What comes out of streams: multiplexed output, and progress in JSON lines.

use std::io::Write;

use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

/// Takes frames `[stream, 0, 0, 0, length as u32 in big endian]` apart (Docker API, section Attach).
#[derive(Debug, Default)]
pub(crate) struct Demultiplexer {
    buffer: BytesMut,
}

impl Demultiplexer {
    /// Adds bytes; calls `each` with the stream's number and the content of every whole frame.
    pub(crate) fn push(&mut self, bytes: &[u8], mut each: impl FnMut(u8, &[u8])) {
        const HEAD: usize = 8;
        self.buffer.extend_from_slice(bytes);
        while let Some(head) = self.buffer.first_chunk::<HEAD>() {
            let stream = head[0];
            let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
            if self.buffer.len() < HEAD + length {
                return;
            }
            self.buffer.advance(HEAD);
            each(stream, &self.buffer.split_to(length));
        }
    }
}

/// Writes to standard output or, for stream 2, to standard error. A reader that has gone is no error of ours.
pub(crate) fn write(stream: u8, bytes: &[u8]) {
    let written = if stream == 2 {
        std::io::stderr().write_all(bytes)
    } else {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush())
    };
    if written.is_err() {
        std::process::exit(141);
    }
}

/// Prints a body as it comes, frames taken apart unless it is a terminal's.
pub(crate) async fn print_stream(mut body: Incoming, terminal: bool) -> Result<()> {
    let mut frames = Demultiplexer::default();
    while let Some(bytes) = data(&mut body).await? {
        if terminal {
            write(1, &bytes);
        } else {
            frames.push(&bytes, write);
        }
    }
    Ok(())
}

/// Calls `each` with every JSON line of a body.
pub(crate) async fn json_lines(mut body: Incoming, mut each: impl FnMut(Value) -> Result<()>) -> Result<()> {
    let mut text = Vec::new();
    while let Some(bytes) = data(&mut body).await? {
        text.extend_from_slice(&bytes);
        while let Some(end) = text.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            if !line.trim_ascii().is_empty() {
                each(serde_json::from_slice(&line).context("a line of progress is not JSON")?)?;
            }
        }
    }
    if !text.trim_ascii().is_empty() {
        each(serde_json::from_slice(&text).context("the last line of progress is not JSON")?)?;
    }
    Ok(())
}

/// Prints progress of a build, a load or an import; an error in it is this call's.
pub(crate) async fn print_progress(body: Incoming, quiet: bool) -> Result<()> {
    json_lines(body, |line| {
        if let Some(error) = line["error"].as_str() {
            bail!("{error}");
        }
        if quiet {
            return Ok(());
        }
        if let Some(text) = line["stream"].as_str() {
            write(1, text.as_bytes());
        } else if let Some(status) = line["status"].as_str() {
            let id = line["id"]
                .as_str()
                .map(|id| format!("{id}: "))
                .unwrap_or_default();
            let progress = line["progress"]
                .as_str()
                .map(|text| format!(" {text}"))
                .unwrap_or_default();
            println!("{id}{status}{progress}");
        }
        Ok(())
    })
    .await
}

/// The next bytes of a body.
pub(crate) async fn data(body: &mut Incoming) -> Result<Option<Bytes>> {
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame.context("the agent ended the stream")?.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_apart_wherever_they_are_cut() {
        let bytes = [
            &[1, 0, 0, 0, 0, 0, 0, 2][..],
            b"ab",
            &[2, 0, 0, 0, 0, 0, 0, 1],
            b"c",
        ]
        .concat();
        for cut in 0..bytes.len() {
            let mut seen = Vec::new();
            let mut frames = Demultiplexer::default();
            for part in [&bytes[..cut], &bytes[cut..]] {
                frames.push(part, |stream, content| seen.push((stream, content.to_vec())));
            }
            assert_eq!(seen, [(1, b"ab".to_vec()), (2, b"c".to_vec())], "cut at {cut}");
        }
    }
}
