//! The root is exchanged under traffic, with nodes that are away, and by one that somebody brings.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use proto::object::JoinTokens;
use proto::spec::CaConfig;
use proto::wire::node_ca_client::NodeCaClient;
use proto::wire::{GetRootCertificateRequest, HeartbeatRequest, SessionRequest};
use proto::{Cluster, Node};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;

use super::record::Credentials;
use super::*;
use crate::ca::RootCa;
use crate::control::Rotate;
use crate::manager::{InitRequest, Manager, ManagerConfig};
use crate::state::{Event, Filter, Kind, Reader};
use crate::tls::certified;
use crate::tls::client::trusting;

struct Site {
    manager: Arc<Manager>,
    home: TempDir,
}

impl Site {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let config = ManagerConfig {
            state_dir: home.path().join("manager"),
            description: NodeDescription::default(),
        };
        let request = InitRequest {
            listen_addr: "127.0.0.1:0".into(),
            ..InitRequest::default()
        };
        let manager = Manager::init(config, request).await.unwrap();
        Self { manager, home }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    async fn join(&self, name: &str, token: &str) -> Result<Joined, RemoteError> {
        let description = NodeDescription {
            hostname: name.into(),
            ..NodeDescription::default()
        };
        let remotes = [self.manager.listen_addr().to_string()];
        join(
            &self.dir(name),
            &remotes,
            token,
            &description,
            Availability::Active,
        )
        .await
    }

    fn cluster(&self) -> Cluster {
        let cluster = self.manager.store().view(|tx| tx.all::<Cluster>().remove(0));
        Cluster::clone(&cluster)
    }

    fn root(&self) -> String {
        self.cluster().root_ca.unwrap().cert
    }

    fn tokens(&self) -> JoinTokens {
        self.cluster().join_tokens
    }

    async fn rotate(&self, change: impl FnOnce(&mut CaConfig)) -> Result<(), crate::ControlError> {
        let cluster = self.manager.control().cluster()?;
        let mut spec = cluster.spec.clone();
        change(spec.ca_config.get_or_insert_default());
        let (control, version) = (self.manager.control(), cluster.meta.version.index);
        control
            .update_cluster(version, spec, Rotate::default())
            .await
            .map(drop)
    }

    /// Waits for something to be true of the store.
    async fn wait(&self, mut is_so: impl FnMut(&Cluster, &[Arc<Node>]) -> bool) {
        let filter = Filter::kinds(&[Kind::Cluster, Kind::Node]).with_commits();
        let mut events = self.manager.store().watch(filter);
        loop {
            let nodes = self.manager.store().view(|tx| tx.all::<Node>());
            if is_so(&self.cluster(), &nodes) {
                return;
            }
            while !matches!(events.next().await.unwrap(), Event::Commit(_)) {}
        }
    }
}

fn forced(config: &mut CaConfig) {
    config.force_rotate += 1;
}

/// Calls of a node and of strangers while the root is exchanged, and those of them that failed.
#[derive(Default)]
struct Traffic {
    stop: AtomicBool,
    calls: AtomicUsize,
    failures: std::sync::Mutex<Vec<String>>,
}

impl Traffic {
    fn count(&self, what: &str, outcome: Result<(), String>) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if let Err(error) = outcome {
            self.failures.lock().unwrap().push(format!("{what}: {error}"));
        }
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    /// Over the channel that lasts.
    async fn over(self: Arc<Self>, channel: NodeChannel) {
        while self.goes_on() {
            let mut authority = NodeCaClient::new(channel.clone());
            let answer = authority.get_root_certificate(GetRootCertificateRequest {}).await;
            self.count("call", answer.map(drop).map_err(|status| explain(&status)));
            let mut dispatcher = DispatcherClient::new(channel.clone());
            let beat = dispatcher.heartbeat(HeartbeatRequest::default()).await;
            // Without a session there is nothing else to say.
            self.count(
                "heartbeat",
                beat.map(drop).or_else(|status| match status.code() {
                    Code::NotFound => Ok(()),
                    _ => Err(explain(&status)),
                }),
            );
        }
    }

    /// Over a new connection each time, with what the node keeps on its disk.
    async fn anew(self: Arc<Self>, dir: PathBuf) {
        while self.goes_on() {
            let mut client = DispatcherClient::new(Link::open(&dir).unwrap().channel());
            let beat = client.heartbeat(HeartbeatRequest::default()).await;
            self.count(
                "connection",
                beat.map(drop).or_else(|status| match status.code() {
                    Code::NotFound => Ok(()),
                    _ => Err(explain(&status)),
                }),
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_is_exchanged_without_a_failed_call() {
    let site = Site::new().await;
    let old = site.root();
    let old_authority = RootCa::from_object(&site.cluster().root_ca.unwrap());
    let token = site.tokens().worker.into_inner();
    let joined = site.join("worker", &token).await.unwrap();
    let (mut client, remotes) = dispatcher(&site.dir("worker")).unwrap();
    let session = SessionRequest {
        description: serde_json::to_vec(&NodeDescription::default()).unwrap(),
        ..SessionRequest::default()
    };
    let mut stream = client.session(session).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();

    let traffic = Arc::new(Traffic::default());
    let lasting = tokio::spawn(traffic.clone().over(remotes.link.channel()));
    let fresh = tokio::spawn(traffic.clone().anew(site.dir("worker")));
    for round in 0..2 {
        let before = site.root();
        site.rotate(forced).await.unwrap();
        assert!(round > 0 || site.cluster().root_rotation_in_progress);
        site.wait(|cluster, nodes| {
            let root = &cluster.root_ca.as_ref().unwrap().cert;
            let trusted = nodes
                .iter()
                .all(|node| node.description.tls_info.trust_root == *root);
            *root != before && !cluster.root_rotation_in_progress && trusted
        })
        .await;
    }
    let calls = traffic.calls.load(Ordering::SeqCst);
    while traffic.calls.load(Ordering::SeqCst) < calls + 20 {
        tokio::task::yield_now().await;
    }
    traffic.stop.store(true, Ordering::SeqCst);
    lasting.await.unwrap();
    fresh.await.unwrap();
    let failures = traffic.failures.lock().unwrap().clone();
    assert!(
        failures.is_empty(),
        "of {calls} calls {} failed: {failures:?}",
        failures.len()
    );

    assert_eq!(
        record::credentials(&site.dir("worker")).unwrap().root,
        site.root()
    );
    assert_eq!(
        site.manager.control().cluster().unwrap().tls_info.trust_root,
        site.root()
    );
    let late = site.join("late", &token).await.unwrap_err();
    assert!(matches!(late, RemoteError::Fingerprint(_)), "{late}");
    site.join("late", &site.tokens().worker).await.unwrap();
    // The old root is worth nothing any more.
    let (cluster, day) = (site.cluster().id, time::Duration::DAY);
    let forged = old_authority
        .issue(&cluster, &joined.node, NodeRole::Worker, day)
        .unwrap();
    let credentials = Credentials {
        root: site.root(),
        cert: forged.cert,
        key: forged.key,
    };
    record::save_credentials(&site.dir("worker"), &credentials).unwrap();
    let mut forger = DispatcherClient::new(Link::open(&site.dir("worker")).unwrap().channel());
    let refused = forger.heartbeat(HeartbeatRequest::default()).await.unwrap_err();
    assert_ne!(refused.code(), Code::NotFound, "{refused:?}");
    assert_ne!(old, site.root());
}

/// A way to a manager on which one connection stops in the middle of its handshake: the node has shown its certificate, and
/// the manager has not seen it yet.
struct Held {
    address: std::net::SocketAddr,
    /// Says that the node's certificate has come.
    shown: tokio::sync::oneshot::Receiver<()>,
    /// Lets it go on.
    go_on: tokio::sync::oneshot::Sender<()>,
    _ways: AbortOnDrop,
}

impl Held {
    /// Holds the connection with this number, counted from 0.
    async fn new(manager: std::net::SocketAddr, number: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (has_shown, shown) = tokio::sync::oneshot::channel();
        let (go_on, gone_on) = tokio::sync::oneshot::channel();
        let mut hold = Some((has_shown, gone_on));
        let ways = tokio::spawn(async move {
            for count in 0.. {
                let (node, _) = listener.accept().await.unwrap();
                let manager = TcpStream::connect(manager).await.unwrap();
                let held = hold.take_if(|_| count == number);
                tokio::spawn(way(node, manager, held));
            }
        });
        Self {
            address,
            shown,
            go_on,
            _ways: AbortOnDrop(ways),
        }
    }
}

type Hold = (
    tokio::sync::oneshot::Sender<()>,
    tokio::sync::oneshot::Receiver<()>,
);

async fn way(mut node: TcpStream, mut manager: TcpStream, hold: Option<Hold>) {
    let (mut from_node, mut to_node) = node.split();
    let (mut from_manager, mut to_manager) = manager.split();
    let up = async {
        if let Some((shown, go_on)) = hold {
            // The first record is the greeting, all that follows is the node's end of the handshake and its calls.
            let mut greeting = vec![0; 5];
            from_node.read_exact(&mut greeting).await?;
            let length = u16::from_be_bytes([greeting[3], greeting[4]]);
            greeting.resize(5 + usize::from(length), 0);
            from_node.read_exact(&mut greeting[5..]).await?;
            to_manager.write_all(&greeting).await?;
            from_node.readable().await?;
            shown.send(()).unwrap();
            go_on.await.unwrap();
        }
        tokio::io::copy(&mut from_node, &mut to_manager).await?;
        to_manager.shutdown().await
    };
    let down = async {
        tokio::io::copy(&mut from_manager, &mut to_node).await?;
        to_node.shutdown().await
    };
    // Whoever goes away ends it.
    let _ = tokio::try_join!(up, down);
}

/// The root's exchange ends between a node's showing its certificate and the manager's looking at it: TLS 1.3 lets the node
/// believe that it is connected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_an_old_certificate_while_the_exchange_ends_shows_the_new_one() {
    // First the question who leads, then the connection for the calls.
    for number in [0, 1] {
        let site = Site::new().await;
        let token = site.tokens().worker.into_inner();
        let joined = site.join("worker", &token).await.unwrap();
        let away = site.join("away", &token).await.unwrap();
        let dir = site.dir("worker");
        let held = Held::new(site.manager.listen_addr(), number).await;
        let managers = joined.managers.iter().map(|manager| RemoteManager {
            address: held.address,
            ..manager.clone()
        });
        let through = Joined {
            managers: managers.collect(),
            ..joined.clone()
        };
        record::save(&dir, &through).unwrap();
        let link = Link::open(&dir).unwrap();
        record::save(&dir, &joined).unwrap();
        let kept = record::credentials(&dir).unwrap();
        let key = certified(&kept.cert, &kept.key).unwrap();
        let old = trusting(&kept.root, None, Some(key)).unwrap();

        // Somebody else on the node has renewed its certificate, and the exchange waits for one more node.
        let (_client, _remotes) = dispatcher(&dir).unwrap();
        site.rotate(forced).await.unwrap();
        let wanted = site.cluster().tls_info.cert_issuer_public_key;
        site.wait(|_, nodes| {
            let node = nodes.iter().find(|node| node.id == joined.node);
            node.is_some_and(|node| node.description.tls_info.cert_issuer_public_key == wanted)
        })
        .await;
        let mut client = DispatcherClient::new(link.channel());
        let call = tokio::spawn(async move { client.heartbeat(HeartbeatRequest::default()).await });
        held.shown.await.unwrap();
        let control = site.manager.control();
        control.remove_node(away.node.as_str(), true).await.unwrap();
        while channel::leader_at(site.manager.listen_addr(), old.clone())
            .await
            .is_ok()
        {}
        held.go_on.send(()).unwrap();
        let answer = call.await.unwrap().unwrap_err();
        // Heard and answered: there is no session.
        assert_eq!(
            answer.code(),
            Code::NotFound,
            "connection {number}: {}",
            explain(&answer)
        );
    }
}

#[tokio::test]
async fn a_node_that_is_away_is_waited_for_or_removed() {
    let site = Site::new().await;
    let token = site.tokens().worker.into_inner();
    let first = site.join("first", &token).await.unwrap();
    let second = site.join("second", &token).await.unwrap();
    let old = site.root();
    site.rotate(forced).await.unwrap();
    let wanted = site.cluster().tls_info.cert_issuer_public_key;
    let signed_anew = |nodes: &[Arc<Node>], id: &NodeId| {
        let node = nodes.iter().find(|node| node.id == *id);
        node.is_some_and(|node| node.description.tls_info.cert_issuer_public_key == wanted)
    };
    let own = site.manager.node_id().clone();
    site.wait(|_, nodes| signed_anew(nodes, &own)).await;
    assert_eq!(site.root(), old, "two nodes have not come yet");
    // Joining goes on: the old root is what tokens and nodes know.
    site.join("third", &token).await.unwrap();

    let (_client, _remotes) = dispatcher(&site.dir("first")).unwrap();
    site.wait(|_, nodes| signed_anew(nodes, &first.node)).await;
    assert_eq!(site.root(), old, "one node has not come yet");
    site.manager
        .control()
        .remove_node(second.node.as_str(), true)
        .await
        .unwrap();
    site.wait(|cluster, _| !cluster.root_rotation_in_progress).await;
    assert_ne!(site.root(), old);
    // It was made under the new root, and has never spoken: it believes its managers all the same, and hears of the end.
    let (_client, third) = dispatcher(&site.dir("third")).unwrap();
    let mut renewals = third.link.renewals();
    while record::credentials(&site.dir("third")).unwrap().root != site.root() {
        renewals.changed().await.unwrap();
    }
}

/// It goes away when it has shown its certificate, before it is told of the end; the next exchange has begun when it is back.
#[tokio::test]
async fn a_node_that_has_not_heard_of_the_last_root_follows_to_the_next() {
    let site = Site::new().await;
    site.join("worker", &site.tokens().worker).await.unwrap();
    let (dir, first) = (site.dir("worker"), site.root());
    for _ in 0..3 {
        let present = dispatcher(&dir).unwrap();
        site.rotate(forced).await.unwrap();
        let end = site.wait(|cluster, _| !cluster.root_rotation_in_progress);
        let end = tokio::time::timeout(Duration::from_secs(30), end).await;
        end.expect("the node believes its managers");
        drop(present);
        let credentials = Credentials {
            root: first.clone(),
            ..record::credentials(&dir).unwrap()
        };
        record::save_credentials(&dir, &credentials).unwrap();
    }
    let (_client, remotes) = dispatcher(&dir).unwrap();
    let mut renewals = remotes.link.renewals();
    while record::credentials(&dir).unwrap().root != site.root() {
        let heard = tokio::time::timeout(Duration::from_secs(30), renewals.changed()).await;
        heard.expect("the node believes its managers").unwrap();
    }
}

/// A root of somebody's own.
fn own_root(change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Fisch & Söhne");
    params.distinguished_name.push(DnType::CommonName, "root 7");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[tokio::test]
async fn a_root_that_somebody_brings_is_checked_and_used() {
    let site = Site::new().await;
    let old = site.root();
    let (cert, key) = own_root(|_| {});
    let (_, other_key) = own_root(|_| {});
    let expired = |params: &mut CertificateParams| params.not_after = time::OffsetDateTime::UNIX_EPOCH;
    let deep = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    for ((cert, key), why) in [
        ((cert.clone(), other_key), "the key is not the certificate's"),
        (
            (cert.clone(), String::new()),
            "both the certificate and the key are needed",
        ),
        (("rubbish".into(), key.clone()), "read the root certificate"),
        ((cert.clone(), "rubbish".into()), "the key cannot be read"),
        (own_root(expired), "not in its time"),
        (own_root(deep), "path length"),
        (
            own_root(|params| params.is_ca = IsCa::NoCa),
            "none of an authority",
        ),
    ] {
        let refused = site.rotate(|config| {
            (config.signing_ca_cert, config.signing_ca_key) = (cert, key.into());
            config.force_rotate += 1;
        });
        let refused = refused.await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused} instead of {why}");
    }
    assert_eq!(site.root(), old);
    site.rotate(|config| {
        (config.signing_ca_cert, config.signing_ca_key) = (cert.clone(), key.into());
        config.force_rotate += 1;
    })
    .await
    .unwrap();
    site.wait(|cluster, _| !cluster.root_rotation_in_progress).await;
    assert_eq!(site.root(), cert);
    let shown = site.manager.control().cluster().unwrap();
    let config = shown.spec.ca_config.unwrap();
    assert!(config.signing_ca_cert.is_empty() && config.signing_ca_key.is_empty());
    site.join("worker", &site.tokens().worker).await.unwrap();
    // And from it to the next one, with a node.
    let (_client, _remotes) = dispatcher(&site.dir("worker")).unwrap();
    site.rotate(forced).await.unwrap();
    site.wait(|cluster, _| !cluster.root_rotation_in_progress).await;
    assert_ne!(site.root(), cert);
}
