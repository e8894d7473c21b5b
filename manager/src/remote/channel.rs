//! Channels to the managers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::wire::managers_client::ManagersClient;
use proto::wire::{GetLeaderRequest, ManagerAddress};
use proto::{ClusterId, NodeId};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::record::{self, Credentials};
use super::{Joined, NodeChannel, RemoteError, RemoteManager, explain};
use crate::ca::Certificate;
use crate::files::chain;
use crate::peer::{self, Speaker};
use crate::tls::client::{connect, manager, trusting};
use crate::tls::{Cut, TlsError, certified};

/// A manager that has been asked who leads has this long to answer.
const ASK: Duration = Duration::from_secs(3);
/// The port of the managers.
const PORT: u16 = 2377;
/// A way over the other IP version shows within this time, or is none.
const OTHER_VERSION: Duration = Duration::from_secs(1);
/// A silent connection is asked this often whether it still is one …
const KEEPALIVE: Duration = Duration::from_secs(1);
/// … and has this long to answer: by then the manager has given the node up. A call on a connection whose way was broken waits
/// for TCP, which sends again after 3 s, after 6 s, after 12 s; a new connection finds a way that is back within a second.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(3);

/// How long a connection lasts that was made with an earlier certificate. Calls end sooner, streams do not.
const GRACE: Duration = Duration::from_secs(5);

/// Where the managers are, and as whom to speak to them.
#[derive(Debug)]
pub(super) struct Link {
    state_dir: PathBuf,
    cluster: ClusterId,
    /// The first is the next to be tried.
    managers: Mutex<Vec<RemoteManager>>,
    /// Connections are made with the last one, and end some time after there is another.
    current: watch::Sender<(Arc<ClientConfig>, Certificate)>,
    /// The same for connections with other nodes.
    peer: watch::Sender<Arc<Speaker>>,
    /// How often there was another, or another leader had to be looked for.
    renewals: watch::Sender<u64>,
    /// One renewal at a time.
    pub(super) renewing: tokio::sync::Mutex<()>,
    /// What is shown is what is on the disk.
    keeping: Mutex<()>,
}

impl Link {
    /// The link of the node whose membership is in the directory.
    pub(super) fn open(state_dir: &Path) -> Result<Arc<Self>, RemoteError> {
        let joined = record::load(state_dir)?.ok_or(RemoteError::Missing)?;
        let credentials = record::credentials(state_dir)?;
        let shown = Showing::new(&credentials, &joined.cluster)?;
        Ok(Arc::new(Self {
            state_dir: state_dir.to_owned(),
            cluster: joined.cluster,
            managers: Mutex::new(joined.managers),
            current: watch::Sender::new(shown.managers),
            peer: watch::Sender::new(shown.peers),
            renewals: watch::Sender::new(0),
            renewing: tokio::sync::Mutex::default(),
            keeping: Mutex::default(),
        }))
    }

    /// The managers that are known, the one that is spoken to first.
    pub(super) fn managers(&self) -> Vec<RemoteManager> {
        self.lock().clone()
    }

    /// This node's certificate.
    pub(super) fn certificate(&self) -> Certificate {
        self.current.borrow().1.clone()
    }

    /// The root, the certificate and the key as they are kept.
    pub(super) fn credentials(&self) -> Result<Credentials, RemoteError> {
        record::credentials(&self.state_dir)
    }

    /// Keeps new credentials; connections are made anew with them.
    pub(super) fn replace(&self, credentials: &Credentials) -> Result<(), RemoteError> {
        let _turn = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = Showing::new(credentials, &self.cluster)?;
        record::save_credentials(&self.state_dir, credentials)?;
        self.show(shown);
        Ok(())
    }

    fn show(&self, shown: Showing) {
        // Other nodes first: the old root is given up after the managers have seen the new certificate.
        self.peer.send_replace(shown.peers);
        self.current.send_replace(shown.managers);
        self.renewals.send_modify(|count| *count += 1);
    }

    /// As whom this node speaks to others, also after a renewal.
    pub(super) fn peer(self: &Arc<Self>) -> peer::Credentials {
        let link = self.clone();
        let look_again = move |shown: &Speaker| {
            link.is_overtaken(shown.certificate());
        };
        peer::Credentials::follow(&self.peer).or_found_by(Arc::new(look_again))
    }

    /// Changes when connections are to be made anew.
    pub(super) fn renewals(&self) -> watch::Receiver<u64> {
        self.renewals.subscribe()
    }

    /// Connections are made anew, unless they already have been since the count was `made`.
    pub(super) fn look_again(&self, made: u64) {
        self.renewals.send_if_modified(|count| {
            let stale = *count == made;
            *count += u64::from(stale);
            stale
        });
    }

    /// A channel that connects when it is used, again when its connection has ended, and anew after a renewal.
    pub(super) fn channel(self: &Arc<Self>) -> NodeChannel {
        NodeChannel::new(self.clone())
    }

    /// A channel of one connection at a time, whatever the node shows later.
    pub(super) fn connection(self: &Arc<Self>) -> Channel {
        let link = self.clone();
        let connector = service_fn(move |_: Uri| {
            let link = link.clone();
            async move { link.connect().await }
        });
        endpoint().connect_with_connector_lazy(connector)
    }

    /// Asks the managers in turn who leads, and connects to that one.
    async fn connect(&self) -> io::Result<TokioIo<Cut<TlsStream<TcpStream>>>> {
        let mut current = self.current.subscribe();
        let stream = loop {
            let shown = current.borrow_and_update().clone();
            match self.leader(&shown.0).await {
                Ok(stream) => break stream,
                // Nothing was asked yet: the managers do not know of the attempt.
                Err(_) if current.has_changed().unwrap_or(false) || self.is_overtaken(&shown.1) => {}
                Err(failures) => return Err(io::Error::other(failures)),
            }
        };
        let renewed = async move {
            // Without a sender there is nobody who uses the connection.
            let _ = current.changed().await;
            // What is under way may end; what lasts begins again over a new connection.
            tokio::time::sleep(GRACE).await;
        };
        Ok(TokioIo::new(Cut::new(stream, renewed)))
    }

    /// Whether somebody else on this node has kept a newer certificate than the one that was shown; it is shown from now on.
    /// Managers give up an old root after every node has shown a new certificate, and a certificate is kept before it is
    /// shown: who is refused for the old one finds the new one.
    fn is_overtaken(&self, shown: &Certificate) -> bool {
        self.find_newer(shown).unwrap_or_else(|error| {
            tracing::debug!(error = chain(&error), "the node's certificate was not read again");
            false
        })
    }

    fn find_newer(&self, shown: &Certificate) -> Result<bool, RemoteError> {
        let _turn = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let credentials = record::credentials(&self.state_dir)?;
        if certificate(&credentials)? == *shown {
            return Ok(false);
        }
        self.show(Showing::new(&credentials, &self.cluster)?);
        Ok(true)
    }

    async fn leader(&self, config: &Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, String> {
        let mut failures = Vec::new();
        for manager in self.managers() {
            let asked = tokio::time::timeout(ASK, leader_at(manager.address, config.clone())).await;
            match asked.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
                Ok((leader, managers)) => {
                    self.learn(managers);
                    match connect(leader, config.clone()).await {
                        Ok(stream) => {
                            self.prefer(leader);
                            return Ok(stream);
                        }
                        Err(error) => failures.push(format!("{leader}: {}", chain(&error))),
                    }
                }
                Err(error) => failures.push(format!("{}: {error}", manager.address)),
            }
            self.lock().rotate_left(1);
        }
        Err(failures.join("; "))
    }

    /// The managers are others than they were.
    fn learn(&self, managers: Vec<RemoteManager>) {
        let mut known = self.lock();
        let same = known.len() == managers.len() && managers.iter().all(|manager| known.contains(manager));
        if managers.is_empty() || same {
            return;
        }
        known.clone_from(&managers);
        drop(known);
        let kept = record::load(&self.state_dir).and_then(|joined| match joined {
            Some(joined) => record::save(&self.state_dir, &Joined { managers, ..joined }),
            None => Ok(()),
        });
        // They are learned anew with the next connection.
        if let Err(error) = kept {
            tracing::warn!(error = chain(&error), "the managers' addresses were not kept");
        }
    }

    /// This address is asked first from now on.
    fn prefer(&self, address: SocketAddr) {
        let mut known = self.lock();
        if let Some(place) = known.iter().position(|manager| manager.address == address) {
            known.rotate_left(place);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<RemoteManager>> {
        self.managers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks one manager where the leader is, and who else there is.
pub(super) async fn leader_at(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> Result<(SocketAddr, Vec<RemoteManager>), String> {
    let stream = connect(address, config.clone())
        .await
        .map_err(|error| chain(&error))?;
    let asked = manager(&stream).map(|certificate| certificate.node);
    let mut client = ManagersClient::new(once(stream).await?);
    let answer = client.get_leader(GetLeaderRequest {}).await;
    let answer = answer.map_err(|status| explain(&status))?.into_inner();
    let leader = answer.leader.ok_or("the cluster has no leader")?;
    let mut managers: Vec<_> = answer.managers.into_iter().filter_map(known).collect();
    // The address that has led to a manager is known to be good; what it advertises may be for others.
    for manager in managers
        .iter_mut()
        .filter(|manager| Some(&manager.node) == asked.as_ref())
    {
        manager.address = address;
    }
    let leader = match Some(leader.node_id.as_str()) == asked.as_ref().map(NodeId::as_str) {
        true => of_its_version(address, &leader.address, config).await,
        false => leader
            .address
            .parse()
            .map_err(|_| format!("the leader is at {:?}", leader.address))?,
    };
    Ok((leader, managers))
}

/// The address that the leader advertises, if it is of another IP version than that which has led there, and leads there too:
/// nodes are known to each other by addresses of one version, or no network can span them.
async fn of_its_version(address: SocketAddr, advertised: &str, config: Arc<ClientConfig>) -> SocketAddr {
    match advertised.parse::<SocketAddr>() {
        Ok(other) if other.is_ipv4() != address.is_ipv4() => {
            match tokio::time::timeout(OTHER_VERSION, connect(other, config)).await {
                Ok(Ok(_)) => other,
                _ => address,
            }
        }
        _ => address,
    }
}

fn known(manager: ManagerAddress) -> Option<RemoteManager> {
    let address = manager.address.parse().ok()?;
    let node = manager.node_id.into();
    Some(RemoteManager { node, address })
}

/// The addresses of managers as a user writes them.
pub(super) fn addresses(texts: &[String]) -> Result<Vec<SocketAddr>, RemoteError> {
    if texts.is_empty() {
        return Err(RemoteError::NoAddress);
    }
    let parse = |text: &String| {
        let parsed = text
            .parse::<SocketAddr>()
            .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::from((ip, PORT))));
        parsed.map_err(|_| RemoteError::Address(text.clone()))
    };
    texts.iter().map(parse).collect()
}

/// A channel over one connection, for a few calls.
pub(super) async fn once(stream: TlsStream<TcpStream>) -> Result<Channel, String> {
    let mut stream = Some(stream);
    let connector = service_fn(move |_: Uri| {
        let stream = stream.take().map(TokioIo::new);
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted)) }
    });
    let channel = endpoint().connect_with_connector(connector).await;
    channel.map_err(|error| chain(&error))
}

/// Reads the node's certificate, which must be the key's.
pub(super) fn certificate(credentials: &Credentials) -> Result<Certificate, RemoteError> {
    let key = certified(&credentials.cert, &credentials.key)?;
    Ok(Certificate::read(key.end_entity_cert().map_err(TlsError::from)?)?)
}

/// What credentials are to others.
struct Showing {
    managers: (Arc<ClientConfig>, Certificate),
    peers: Arc<Speaker>,
}

impl Showing {
    fn new(credentials: &Credentials, cluster: &ClusterId) -> Result<Self, RemoteError> {
        let key = certified(&credentials.cert, &credentials.key)?;
        let certificate = Certificate::read(key.end_entity_cert().map_err(TlsError::from)?)?;
        let config = trusting(&credentials.root, Some(cluster.clone()), Some(key.clone()))?;
        Ok(Self {
            peers: Speaker::new(&credentials.root, key, certificate.clone())?,
            managers: (config, certificate),
        })
    }
}

fn endpoint() -> Endpoint {
    // The name is never resolved; the connector knows where the managers are.
    Endpoint::from_static("http://manager.internal")
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_ANSWER)
        .keep_alive_while_idle(true)
}
