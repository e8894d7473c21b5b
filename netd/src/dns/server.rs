//! The sockets and their loops. Answers from the directory are given in the loop itself; only questions for upstream get a
//! task of their own.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::answer::{Outcome, Transport, answer};
use super::directory::{Directory, Scope};
use super::forward::Upstreams;

/// A longer question is no question.
const LONGEST_QUESTION: usize = 4096;
/// For one socket: questions under way upstream, and TCP connections. One bad client cannot use up the node's share.
const FORWARDS: usize = 256;
const CONNECTIONS: usize = 64;
/// Packets taken in one go.
const BURST: usize = 64;
/// A TCP client that says nothing is hung up on.
const IDLE: Duration = Duration::from_secs(5);

/// What every socket needs.
#[derive(Debug, Clone)]
pub(crate) struct DnsServer {
    directory: Arc<RwLock<Directory>>,
    upstreams: Arc<Upstreams>,
    runtime: Handle,
}

/// Bound, not yet served.
#[derive(Debug)]
pub(crate) struct DnsSockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

/// A pair of sockets being served; dropping it closes them.
#[derive(Debug)]
pub(crate) struct DnsTasks([AbortHandle; 2]);

/// One socket's share.
struct Service {
    server: DnsServer,
    scope: Scope,
    forwards: Arc<Semaphore>,
}

impl DnsSockets {
    /// Bind both in the calling thread's network namespace; port 0 stands for any.
    pub(crate) fn bind(address: impl Into<IpAddr>, port: u16) -> io::Result<Self> {
        let address = address.into();
        let udp = UdpSocket::bind((address, port))?;
        let tcp = TcpListener::bind((address, port))?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self { udp, tcp })
    }

    /// The ports that they are bound to, UDP's first.
    pub(crate) fn ports(&self) -> io::Result<(u16, u16)> {
        Ok((self.udp.local_addr()?.port(), self.tcp.local_addr()?.port()))
    }
}

impl Drop for DnsTasks {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl DnsServer {
    pub(crate) fn new(directory: Arc<RwLock<Directory>>, upstreams: Upstreams, runtime: Handle) -> Self {
        Self {
            directory,
            upstreams: Arc::new(upstreams),
            runtime,
        }
    }

    /// The host's search domains.
    pub(crate) fn search(&self) -> Vec<String> {
        self.upstreams.search()
    }

    /// Answer on these sockets until the result is dropped.
    pub(crate) fn serve(&self, sockets: DnsSockets, scope: Scope) -> io::Result<DnsTasks> {
        let _inside = self.runtime.enter();
        let udp = Arc::new(tokio::net::UdpSocket::from_std(sockets.udp)?);
        let tcp = tokio::net::TcpListener::from_std(sockets.tcp)?;
        let service = || {
            Arc::new(Service {
                server: self.clone(),
                scope: scope.clone(),
                forwards: Arc::new(Semaphore::new(FORWARDS)),
            })
        };
        let udp = self.runtime.spawn(serve_udp(udp, service())).abort_handle();
        let tcp = self.runtime.spawn(serve_tcp(tcp, service())).abort_handle();
        Ok(DnsTasks([udp, tcp]))
    }
}

impl Service {
    fn answer(&self, packet: &[u8], client: SocketAddr, transport: Transport) -> Outcome {
        let directory = self
            .server
            .directory
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        answer(packet, &directory.view(&self.scope, client.ip()), transport)
    }

    async fn forward(&self, packet: &[u8], transport: Transport, failure: Vec<u8>) -> Vec<u8> {
        let Ok(_permit) = self.forwards.try_acquire() else {
            return failure;
        };
        self.server
            .upstreams
            .ask(packet, transport)
            .await
            .unwrap_or(failure)
    }
}

async fn serve_udp(socket: Arc<tokio::net::UdpSocket>, service: Arc<Service>) {
    loop {
        if let Err(error) = socket.readable().await {
            tracing::warn!(%error, "DNS socket failed");
            return;
        }
        for _ in 0..BURST {
            let Some((packet, client)) = receive(&socket) else {
                break;
            };
            match service.answer(&packet, client, Transport::Udp) {
                Outcome::Ignore => {}
                // A full send buffer loses the reply, as a network may; the client asks again.
                Outcome::Reply(reply) => drop(socket.try_send_to(&reply, client)),
                Outcome::Forward { failure } => {
                    let (socket, service) = (socket.clone(), service.clone());
                    tokio::spawn(async move {
                        let reply = service.forward(&packet, Transport::Udp, failure).await;
                        let _ = socket.send_to(&reply, client).await;
                    });
                }
            }
        }
        tokio::task::yield_now().await; // a flood on one socket must not starve the others
    }
}

/// The next waiting packet. The buffer lives on the stack, not in the task: there are as many tasks as containers.
fn receive(socket: &tokio::net::UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; LONGEST_QUESTION];
    loop {
        match socket.try_recv_from(&mut buffer) {
            Ok((n, client)) => return Some((buffer[..n].to_vec(), client)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
            Err(_) => {} // an ICMP error about an earlier reply
        }
    }
}

async fn serve_tcp(listener: tokio::net::TcpListener, service: Arc<Service>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, client)) => {
                let service = service.clone();
                tokio::spawn(async move {
                    let _ = converse(stream, client, &service).await;
                    drop(permit);
                });
            }
            // Out of descriptors, or a client that left: neither may end or spin the loop.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn converse(
    mut stream: tokio::net::TcpStream,
    client: SocketAddr,
    service: &Service,
) -> io::Result<()> {
    loop {
        let packet = timeout(IDLE, read_question(&mut stream)).await??;
        let reply = match service.answer(&packet, client, Transport::Tcp) {
            Outcome::Ignore => return Ok(()),
            Outcome::Reply(reply) => reply,
            Outcome::Forward { failure } => service.forward(&packet, Transport::Tcp, failure).await,
        };
        let length = u16::try_from(reply.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        timeout(
            IDLE,
            stream.write_all(&[&length.to_be_bytes()[..], &reply].concat()),
        )
        .await??;
    }
}

async fn read_question(stream: &mut tokio::net::TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > LONGEST_QUESTION {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut packet = vec![0; length];
    stream.read_exact(&mut packet).await?;
    Ok(packet)
}
