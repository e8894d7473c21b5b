//! Questions for the world outside: asked from the host's namespace, within bounds.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::{Transport, is_answer_to};

/// Questions under way for the whole node; what comes on top is told to come again.
const CONCURRENT: usize = 1024;
const PER_SERVER: Duration = Duration::from_secs(2);
/// Servers tried, and attempts at each.
const SERVERS: usize = 3;
/// How often the host's file is looked at, and only when somebody asks.
const FRESH: Duration = Duration::from_secs(1);

/// The DNS servers of the world outside.
#[derive(Debug)]
pub(crate) struct Upstreams {
    fixed: Option<Vec<SocketAddr>>,
    file: PathBuf,
    read: Mutex<Option<Reading>>,
    permits: Semaphore,
}

#[derive(Debug, Clone)]
struct Reading {
    looked: Instant,
    changed: Option<SystemTime>,
    servers: Vec<SocketAddr>,
    search: Vec<String>,
}

impl Upstreams {
    /// Fixed servers, or those of the host's `/etc/resolv.conf`.
    pub(crate) fn new(fixed: Option<Vec<SocketAddr>>) -> Self {
        Self {
            fixed,
            file: "/etc/resolv.conf".into(),
            read: Mutex::new(None),
            permits: Semaphore::new(CONCURRENT),
        }
    }

    /// Ask the servers one after the other; the first answer, with the client's id in it.
    pub(crate) async fn ask(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let _permit = self.permits.try_acquire().ok()?;
        for server in self.servers().into_iter().take(SERVERS) {
            let asked = async {
                match transport {
                    Transport::Udp => over_udp(server, question).await,
                    Transport::Tcp => over_tcp(server, question).await,
                }
            };
            if let Ok(Ok(mut answer)) = timeout(PER_SERVER, asked).await {
                answer[..2].copy_from_slice(&question[..2]);
                return Some(answer);
            }
        }
        None
    }

    /// The host's search domains; none where the servers are fixed.
    pub(crate) fn search(&self) -> Vec<String> {
        if self.fixed.is_some() {
            Vec::new()
        } else {
            self.host().search
        }
    }

    fn servers(&self) -> Vec<SocketAddr> {
        self.fixed.clone().unwrap_or_else(|| self.host().servers)
    }

    fn host(&self) -> Reading {
        let mut read = self
            .read
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(reading) = read.as_ref().filter(|r| r.looked.elapsed() < FRESH) {
            return reading.clone();
        }
        let changed = std::fs::metadata(&self.file).and_then(|m| m.modified()).ok();
        let mut reading = match read.take() {
            Some(reading) if reading.changed == changed => reading,
            _ => parse(&std::fs::read_to_string(&self.file).unwrap_or_default()),
        };
        (reading.looked, reading.changed) = (Instant::now(), changed);
        read.insert(reading).clone()
    }
}

/// The servers and search domains of a resolv.conf(5).
fn parse(text: &str) -> Reading {
    let (mut servers, mut search) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => servers.extend(words.next().and_then(|w| w.parse::<IpAddr>().ok())),
            // The last one wins; "." is no domain.
            Some("search" | "domain") => search = words.filter(|w| *w != ".").map(str::to_owned).collect(),
            _ => {}
        }
    }
    let servers = servers.into_iter().map(|ip| SocketAddr::new(ip, 53)).collect();
    Reading {
        looked: Instant::now(),
        changed: None,
        servers,
        search,
    }
}

/// A socket of its own for each question: the kernel picks the port, we pick the id.
async fn over_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let asked = with_new_id(question);
    socket.send(&asked).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let n = socket.recv(&mut buffer).await?;
        if buffer[..n].starts_with(&asked[..2]) && is_answer_to(&buffer[..n], &asked) {
            buffer.truncate(n);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let asked = with_new_id(question);
    let length = u16::try_from(asked.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream
        .write_all(&[&length.to_be_bytes()[..], &asked].concat())
        .await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    if buffer.starts_with(&asked[..2]) && is_answer_to(&buffer, &asked) {
        Ok(buffer)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

fn with_new_id(question: &[u8]) -> Vec<u8> {
    let mut asked = question.to_vec();
    asked[..2].copy_from_slice(&rand::random::<[u8; 2]>());
    asked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_and_read_again_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        let upstreams = Upstreams {
            file: file.clone(),
            ..Upstreams::new(None)
        };
        assert!(upstreams.servers().is_empty());
        std::fs::write(
            &file,
            "# x\nnameserver 10.0.0.1\nsearch y\nnameserver ::1 \nnameserver junk\n",
        )
        .unwrap();
        upstreams.read.lock().unwrap().as_mut().unwrap().looked -= FRESH;
        let servers: Vec<_> = upstreams.servers().iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[::1]:53"]);
        assert_eq!(upstreams.search(), ["y"]);
    }
}
