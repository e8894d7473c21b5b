//! As much of an HTTP client as the tests need, over the agent's unix socket. It shows exactly what the server sends.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// An answer whose body has been read to its end.
#[derive(Debug)]
pub struct Answer {
    /// Such as 200.
    pub status: u16,
    /// Header lines as they came.
    pub headers: Vec<String>,
    /// The body, its chunks put together.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// This answer if it is a success, else an error with what the server says.
    pub fn success(self) -> Result<Self> {
        if !(200..300).contains(&self.status) {
            bail!("status {}: {}", self.status, self.text());
        }
        Ok(self)
    }
}

/// An answer whose head has been read and whose body still comes.
#[derive(Debug)]
pub struct Stream {
    /// Such as 101.
    pub status: u16,
    /// Header lines as they came.
    pub headers: Vec<String>,
    reader: BufReader<UnixStream>,
}

impl Stream {
    /// The next line of the body, without regard to chunks (for streams after an upgrade, and JSON lines).
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        Ok(line)
    }

    /// The connection, for what follows an upgrade.
    pub fn connection(&mut self) -> &mut UnixStream {
        self.reader.get_mut()
    }

    /// Everything up to the end.
    pub fn rest(mut self) -> Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest)?;
        Ok(rest)
    }

    /// The whole body as the headers describe it.
    pub fn finish(mut self) -> Result<Answer> {
        let body = match body_length(&self.headers) {
            Length::Chunked => read_chunks(&mut self.reader)?,
            Length::Known(length) => {
                let mut body = vec![0; length];
                self.reader.read_exact(&mut body)?;
                body
            }
            Length::None if self.status == 204 || self.status == 304 => Vec::new(),
            Length::None => {
                let mut body = Vec::new();
                self.reader.read_to_end(&mut body)?;
                body
            }
        };
        Ok(Answer {
            status: self.status,
            headers: self.headers,
            body,
        })
    }
}

/// Sends one request; returns when the head of the answer is there.
pub fn open(
    socket: &Path,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Stream> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nHost: shoal\r\nContent-Length: {}\r\n",
        body.len()
    );
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("connection"))
    {
        head.push_str("Connection: close\r\n");
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut reader = BufReader::new(stream);
    let (status, headers) = read_head(&mut reader)?;
    Ok(Stream {
        status,
        headers,
        reader,
    })
}

/// Sends one request with a JSON body (or none) and reads the whole answer.
pub fn request(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
    let bytes = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    let headers: &[(&str, &str)] = if body.is_some() {
        &[("Content-Type", "application/json")]
    } else {
        &[]
    };
    open(socket, method, path, headers, &bytes)?.finish()
}

fn read_head(reader: &mut BufReader<UnixStream>) -> Result<(u16, Vec<String>)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            bail!("the connection ended in the head of the answer: {lines:?}");
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let first = lines.first().context("an empty head")?;
    let status = first
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok())
        .context("a head without status")?;
    Ok((status, lines.split_off(1)))
}

enum Length {
    Chunked,
    Known(usize),
    None,
}

fn body_length(headers: &[String]) -> Length {
    for header in headers {
        let Some((name, value)) = header.split_once(':') else {
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "transfer-encoding" if value.contains("chunked") => return Length::Chunked,
            "content-length" => return value.trim().parse().map_or(Length::None, Length::Known),
            _ => {}
        }
    }
    Length::None
}

fn read_chunks(reader: &mut BufReader<UnixStream>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut size = String::new();
        reader.read_line(&mut size)?;
        let size = usize::from_str_radix(size.trim(), 16).with_context(|| format!("chunk size {size:?}"))?;
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk)?;
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(&chunk[..size]);
    }
}
