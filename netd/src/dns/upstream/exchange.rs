//! Questions and answers over the wire, from the host's namespace.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::question::Key;
use super::reply::Reply;
use crate::dns::wire;

/// After so long without an answer the next server is asked as well; the first may still answer.
const STEP: Duration = Duration::from_secs(1);
/// In all: before clients, which commonly wait for 5 seconds, ask again.
const WHOLE: Duration = Duration::from_millis(4500);
/// Servers that are asked, as resolv.conf(5) has it, and questions sent.
const SERVERS: usize = 3;
const ATTEMPTS: usize = 4;

const FORMAT_ERROR: u8 = 1;
const NOT_IMPLEMENTED: u8 = 4;
const TRUNCATED: u8 = 0x02;

/// The first answer of any server, in their order; what a server that knows no answer said if none does.
pub(super) async fn ask(servers: &[SocketAddr], key: &Key) -> Option<Reply> {
    let mut unsure = None;
    let asking = ask_all(servers, key, &mut unsure);
    timeout(WHOLE, asking).await.ok().flatten().or(unsure)
}

async fn ask_all(servers: &[SocketAddr], key: &Key, unsure: &mut Option<Reply>) -> Option<Reply> {
    let mut turn: VecDeque<_> = servers.iter().take(SERVERS).copied().collect();
    let mut attempts = ATTEMPTS.min(2 * turn.len());
    let mut under_way = JoinSet::new();
    loop {
        if attempts > 0
            && let Some(server) = turn.pop_front()
        {
            attempts -= 1;
            turn.push_back(server);
            let key = key.clone();
            under_way.spawn(async move { (server, ask_one(server, &key).await) });
        }
        let more = attempts > 0 && !turn.is_empty();
        tokio::select! {
            answered = under_way.join_next() => {
                let (server, answer) = answered?.ok()?;
                match answer {
                    Ok(reply) if reply.is_final() => return Some(reply),
                    Ok(reply) => *unsure = Some(reply),
                    Err(_) => {}
                }
                turn.retain(|other| *other != server); // it has said that it does not know: it is not asked again
            }
            () = sleep(STEP), if more => {}
        }
    }
}

async fn ask_one(server: SocketAddr, key: &Key) -> io::Result<Reply> {
    let (mut packet, mut edns) = (over_udp(server, key, true).await?, true);
    // Servers from before EDNS do not know what to do with it.
    if matches!(packet[3] & 0x0f, FORMAT_ERROR | NOT_IMPLEMENTED) {
        (packet, edns) = (over_udp(server, key, false).await?, false);
    }
    if packet[2] & TRUNCATED != 0 {
        packet = over_tcp(server, key, edns).await?;
    }
    Reply::new(packet, key.fleeting).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A socket of its own for each question: the kernel picks the port at random and admits only the server's packets, and we
/// pick the id.
async fn over_udp(server: SocketAddr, key: &Key, edns: bool) -> io::Result<Vec<u8>> {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let id = rand::random();
    socket.send(&key.packet(id, edns)).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let n = socket.recv(&mut buffer).await?;
        if key.is_answered_by(id, &buffer[..n]) {
            buffer.truncate(n);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(server: SocketAddr, key: &Key, edns: bool) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let id = rand::random();
    let packet = key.packet(id, edns);
    let length = u16::try_from(packet.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let framed = [&length.to_be_bytes()[..], &packet].concat();
    stream.write_all(&framed).await?;
    let length = usize::from(stream.read_u16().await?);
    let mut buffer = vec![0; length];
    stream.read_exact(&mut buffer).await?;
    if length >= wire::HEADER && key.is_answered_by(id, &buffer) {
        Ok(buffer)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}
