//! The root is exchanged under traffic, with nodes that are away, and by one that somebody brings.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use proto::object::JoinTokens;
use proto::spec::CaConfig;
use proto::wire::node_ca_client::NodeCaClient;
use proto::wire::{GetRootCertificateRequest, HeartbeatRequest, SessionRequest};
use proto::{Cluster, Node};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use tempfile::TempDir;
use tonic::Code;

use super::*;
use crate::ca::RootCa;
use crate::control::Rotate;
use crate::manager::{InitRequest, Manager, ManagerConfig};
use crate::state::{Event, Filter, Kind, Reader};

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
    let credentials = record::Credentials {
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
