//! The sockets, and the loop that answers over UDP. Answers from the directory and the cache are given in the loop itself;
//! only what must be asked upstream gets a task of its own.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::AbortHandle;

use super::answer::{Outcome, Transport, answer};
use super::directory::{Directory, Scope};
use super::tcp;
use super::upstream::{Question, Upstreams};

/// A longer question over UDP is no question.
const LONGEST_QUESTION: usize = 2048;
/// For one socket: questions under way upstream. One bad client cannot use up the node's share.
const FORWARDS: usize = 256;
/// Packets taken in one go.
const BURST: usize = 64;

/// What every socket needs.
#[derive(Debug, Clone)]
pub(crate) struct DnsServer {
    directory: Arc<RwLock<Directory>>,
    upstreams: Upstreams,
    runtime: Handle,
    /// Whether the directory is complete.
    complete: Arc<watch::Sender<bool>>,
}

/// Bound, not yet served.
#[derive(Debug)]
pub(crate) struct DnsSockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

/// A pair of sockets being served; dropping it closes them.
#[derive(Debug)]
pub(crate) struct DnsTasks {
    tasks: [AbortHandle; 2],
    udp: Arc<tokio::net::UdpSocket>,
}

/// One socket's share.
pub(super) struct Service {
    server: DnsServer,
    pub(super) scope: Scope,
    forwards: Arc<Semaphore>,
}

/// A question that may go upstream, and the reply if nothing comes of it.
pub(super) struct Forward {
    question: Box<Question>,
    failure: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

/// What to do about a packet, after the directory and the cache.
pub(super) enum Next {
    Ignore,
    Reply(Vec<u8>),
    Forward(Forward),
}

impl DnsSockets {
    /// Bind both in the calling thread's network namespace; port 0 stands for any.
    pub(crate) fn bind(address: impl Into<IpAddr>, port: u16) -> io::Result<Self> {
        let address = address.into();
        let udp = UdpSocket::bind((address, port))?;
        let tcp = TcpListener::bind((address, port))?;
        Self::new(udp, tcp)
    }

    /// The same with a UDP socket that somebody has kept and that may hold questions; a new one if it is not one of this
    /// address in this namespace.
    pub(crate) fn resume(address: impl Into<IpAddr>, kept: OwnedFd) -> io::Result<Self> {
        let address = address.into();
        let tcp = TcpListener::bind((address, 0))?;
        let kept = UdpSocket::from(kept);
        let bound = |socket: &UdpSocket| socket.local_addr().is_ok_and(|bound| bound.ip() == address);
        let here = sys::socket::netns_cookie(&kept).ok() == sys::socket::netns_cookie(&tcp).ok();
        let is_udp = sys::socket::is_datagram(&kept).unwrap_or(false);
        match here && is_udp && bound(&kept) {
            true => Self::new(kept, tcp),
            false => Self::new(UdpSocket::bind((address, 0))?, tcp),
        }
    }

    fn new(udp: UdpSocket, tcp: TcpListener) -> io::Result<Self> {
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self { udp, tcp })
    }

    /// The ports that they are bound to, UDP's first.
    pub(crate) fn ports(&self) -> io::Result<(u16, u16)> {
        Ok((self.udp.local_addr()?.port(), self.tcp.local_addr()?.port()))
    }
}

impl DnsTasks {
    /// Another descriptor of the UDP socket.
    pub(crate) fn udp(&self) -> io::Result<OwnedFd> {
        self.udp.as_fd().try_clone_to_owned()
    }
}

impl Drop for DnsTasks {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl DnsServer {
    pub(crate) fn new(directory: Arc<RwLock<Directory>>, upstreams: Upstreams, runtime: Handle) -> Self {
        Self {
            directory,
            upstreams,
            runtime,
            complete: Arc::new(watch::Sender::new(false)),
        }
    }

    /// The directory is complete. Until then questions wait in the sockets: after a restart nobody may hear that a name does
    /// not exist which has only not been read yet.
    pub(crate) fn begin(&self) {
        self.complete.send_replace(true);
    }

    /// The host's search domains.
    pub(crate) fn search(&self) -> Vec<String> {
        self.upstreams.search()
    }

    /// Answer on these sockets until the result is dropped.
    pub(crate) fn serve(&self, sockets: DnsSockets, scope: Scope) -> io::Result<DnsTasks> {
        let _inside = self.runtime.enter();
        let udp = Arc::new(tokio::net::UdpSocket::from_std(sockets.udp)?);
        let listener = tokio::net::TcpListener::from_std(sockets.tcp)?;
        let service = || {
            Arc::new(Service {
                server: self.clone(),
                scope: scope.clone(),
                forwards: Arc::new(Semaphore::new(FORWARDS)),
            })
        };
        let tasks = [
            self.after_begin(serve_udp(udp.clone(), service())),
            self.after_begin(tcp::serve(listener, service())),
        ];
        Ok(DnsTasks { tasks, udp })
    }

    fn after_begin(&self, serving: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let mut complete = self.complete.subscribe();
        let serve = async move {
            if complete.wait_for(|complete| *complete).await.is_ok() {
                serving.await;
            }
        };
        self.runtime.spawn(serve).abort_handle()
    }
}

impl Service {
    fn directory(&self) -> RwLockReadGuard<'_, Directory> {
        let directory = self.server.directory.read();
        directory.unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn decide(&self, packet: &[u8], client: SocketAddr, transport: Transport) -> Next {
        self.decide_by(&self.directory(), packet, client, transport)
    }

    fn decide_by(
        &self,
        directory: &Directory,
        packet: &[u8],
        client: SocketAddr,
        transport: Transport,
    ) -> Next {
        let Some(view) = directory.view(&self.scope, client.ip()) else {
            return Next::Ignore;
        };
        let (question, failure) = match answer(packet, &view, transport) {
            Outcome::Ignore => return Next::Ignore,
            Outcome::Reply(reply) => return Next::Reply(reply),
            Outcome::Forward { question, failure } => (question, failure),
        };
        if let Some(reply) = self.server.upstreams.known(&question) {
            return Next::Reply(reply);
        }
        match self.forwards.clone().try_acquire_owned() {
            Ok(permit) => Next::Forward(Forward {
                question,
                failure,
                _permit: permit,
            }),
            Err(_) => {
                tracing::debug!(%client, "{FORWARDS} DNS questions are under way from one network; one more was refused");
                Next::Reply(failure)
            }
        }
    }

    pub(super) async fn forward(&self, forward: Forward) -> Vec<u8> {
        let reply = self.server.upstreams.ask(&forward.question).await;
        reply.unwrap_or(forward.failure)
    }
}

async fn serve_udp(socket: Arc<tokio::net::UdpSocket>, service: Arc<Service>) {
    loop {
        if let Err(error) = socket.readable().await {
            tracing::warn!(%error, "DNS socket failed");
            return;
        }
        if !drain(&socket, &service) {
            tokio::task::yield_now().await; // a flood on one socket must not starve the others
        }
    }
}

/// Answer what waits; `false` if there may be more. The buffer lives on the stack, not in the task: there are as many tasks
/// as containers.
fn drain(socket: &Arc<tokio::net::UdpSocket>, service: &Arc<Service>) -> bool {
    let mut buffer = [0; LONGEST_QUESTION];
    let directory = service.directory();
    for _ in 0..BURST {
        let (packet, client) = match socket.try_recv_from(&mut buffer) {
            Ok((n, client)) => (&buffer[..n], client),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
            Err(_) => continue, // an ICMP error about an earlier reply
        };
        match service.decide_by(&directory, packet, client, Transport::Udp) {
            Next::Ignore => {}
            // A full send buffer loses the reply, as a network may; the client asks again.
            Next::Reply(reply) => drop(socket.try_send_to(&reply, client)),
            Next::Forward(forward) => {
                let (socket, service) = (socket.clone(), service.clone());
                tokio::spawn(async move {
                    let reply = service.forward(forward).await;
                    let _ = socket.send_to(&reply, client).await;
                });
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::{Name, RecordType};

    use super::*;
    use crate::dns::{Names, Source, Zone};

    #[test]
    fn a_socket_that_was_kept_is_used_if_it_is_the_right_one() {
        let resumed = |kept: OwnedFd| {
            DnsSockets::resume([127, 0, 0, 1], kept)
                .unwrap()
                .ports()
                .unwrap()
                .0
        };
        let udp = |address: &str| {
            let socket = UdpSocket::bind((address, 0)).unwrap();
            (socket.local_addr().unwrap().port(), OwnedFd::from(socket))
        };
        let (port, right) = udp("127.0.0.1");
        assert_eq!(resumed(right), port);
        let (port, elsewhere) = udp("127.0.0.2");
        assert_ne!(resumed(elsewhere), port);
        let (_namespace, (port, foreign)) = sys::netns::create(|| udp("0.0.0.0")).unwrap();
        assert_ne!(resumed(foreign), port);
        resumed(std::fs::File::open("/dev/null").unwrap().into());
        resumed(TcpListener::bind("127.0.0.1:0").unwrap().into());
    }

    /// After a restart the sockets are there before all the names are.
    #[tokio::test]
    async fn questions_wait_until_the_names_are_known() {
        let directory = Arc::new(RwLock::new(Directory::default()));
        let runtime = Handle::current();
        let server = DnsServer::new(directory.clone(), Upstreams::new(Some(vec![]), &runtime), runtime);
        let sockets = DnsSockets::bind([127, 0, 0, 1], 0).unwrap();
        let (port, _) = sockets.ports().unwrap();
        let _tasks = server.serve(sockets, Scope::Network("n".into())).unwrap();
        let zone = Zone::new("front", true, ["127.0.0.0/8".parse().unwrap()]);
        directory.write().unwrap().set_zone("n", zone);
        let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(("127.0.0.1", port)).await.unwrap();
        let mut question = Message::new(1, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(Name::from_ascii("web.").unwrap(), RecordType::A));
        client.send(&question.to_vec().unwrap()).await.unwrap();
        for _ in 0..200 {
            tokio::task::yield_now().await; // time enough to deny it
        }
        let mut names = Names::default();
        names.add("web", [IpAddr::from([127, 1, 1, 1])]);
        let web = Source::Service("web".into());
        directory.write().unwrap().set_names("n", &web, names);
        server.begin();
        let mut buffer = [0; 512];
        let n = client.recv(&mut buffer).await.unwrap();
        let answer = Message::from_vec(&buffer[..n]).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert_eq!(answer.answers.len(), 1);
    }
}
