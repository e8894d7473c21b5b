//! Conversations over TCP (RFC 7766): questions one after the other, answers as they come; and the bounds that keep one
//! client from using up what is there for all.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::Transport;
use super::directory::Scope;
use super::server::{Next, Service};

/// A longer question is no question.
const LONGEST_QUESTION: usize = 4096;
/// Connections to one socket, and from one address of a network to its gateway. What comes on top is closed at once.
const CONNECTIONS: usize = 256;
const OF_ONE_CLIENT: usize = 64;
/// Questions of one connection that are under way; the next is read when one is answered.
const PIPELINED: usize = 16;
/// In this time a question must have come whole, and an answer must have been taken.
const PATIENCE: Duration = Duration::from_secs(5);
/// After an error that is nobody's fault: out of descriptors.
const PAUSE: Duration = Duration::from_millis(20);

/// The connections that are open, by client.
#[derive(Debug, Default)]
struct Guests(Mutex<HashMap<IpAddr, usize>>);

/// One of them.
#[derive(Debug)]
struct Guest {
    guests: Arc<Guests>,
    client: IpAddr,
}

/// The way back to a client; the connection counts until the last answer is given.
struct Pipe {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    _guest: Guest,
}

impl Guests {
    fn admit(self: &Arc<Self>, client: IpAddr, most: usize) -> Option<Guest> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = counts.values().sum();
        let own = counts.get(&client).copied().unwrap_or_default();
        if all >= CONNECTIONS || own >= most {
            return None;
        }
        counts.insert(client, own + 1);
        Some(Guest {
            guests: self.clone(),
            client,
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut counts = self.guests.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

impl Pipe {
    async fn write(&self, reply: &[u8]) -> io::Result<()> {
        let length = u16::try_from(reply.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        let framed = [&length.to_be_bytes()[..], reply].concat();
        let mut writer = self.writer.lock().await;
        timeout(PATIENCE, writer.write_all(&framed)).await?
    }
}

/// Accept until aborted.
pub(super) async fn serve(listener: TcpListener, service: Arc<Service>) {
    let guests = Arc::new(Guests::default());
    let most = match service.scope {
        Scope::Network(_) => OF_ONE_CLIENT,
        Scope::Sandbox(_) => CONNECTIONS, // there is but one client
    };
    loop {
        let Ok((stream, client)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if let Some(guest) = guests.admit(client.ip(), most) {
            let service = service.clone();
            tokio::spawn(async move {
                let _ = converse(stream, client, guest, &service).await;
            });
        }
    }
}

async fn converse(
    stream: TcpStream,
    client: SocketAddr,
    guest: Guest,
    service: &Arc<Service>,
) -> io::Result<()> {
    let (mut reader, writer) = stream.into_split();
    let pipe = Arc::new(Pipe {
        writer: tokio::sync::Mutex::new(writer),
        _guest: guest,
    });
    let pipelined = Arc::new(Semaphore::new(PIPELINED));
    loop {
        let packet = timeout(PATIENCE, read_question(&mut reader)).await??;
        match service.decide(&packet, client, Transport::Tcp) {
            Next::Ignore => return Ok(()),
            Next::Reply(reply) => pipe.write(&reply).await?,
            Next::Forward(forward) => {
                let permit = pipelined.clone().acquire_owned().await;
                let (pipe, service) = (pipe.clone(), service.clone());
                tokio::spawn(async move {
                    let reply = service.forward(forward).await;
                    let _ = pipe.write(&reply).await;
                    drop(permit);
                });
            }
        }
    }
}

async fn read_question(reader: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let length = usize::from(reader.read_u16().await?);
    if length > LONGEST_QUESTION {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut packet = vec![0; length];
    reader.read_exact(&mut packet).await?;
    Ok(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_cannot_use_up_what_is_there_for_all() {
        let guests = Arc::new(Guests::default());
        let greedy: IpAddr = [10, 0, 0, 1].into();
        let held: Vec<_> = (0..100)
            .filter_map(|_| guests.admit(greedy, OF_ONE_CLIENT))
            .collect();
        assert_eq!(held.len(), OF_ONE_CLIENT);
        assert!(guests.admit([10, 0, 0, 2].into(), OF_ONE_CLIENT).is_some());
        drop(held);
        assert!(guests.0.lock().unwrap().is_empty());
        let all = (0..=255)
            .filter_map(|n| guests.admit([10, 0, 1, n].into(), OF_ONE_CLIENT))
            .collect::<Vec<_>>();
        assert_eq!(all.len(), CONNECTIONS);
        assert!(guests.admit(greedy, OF_ONE_CLIENT).is_none());
    }
}
