//! Nodes join a manager over real TLS on a loopback port.

use std::os::unix::fs::PermissionsExt;

use proto::Cluster;
use proto::object::NodeState;
use proto::spec::ClusterSpec;
use proto::wire::managers_server::{Managers, ManagersServer};
use proto::wire::node_ca_client::NodeCaClient;
use proto::wire::node_ca_server::{NodeCa, NodeCaServer};
use proto::wire::{
    AssignmentsRequest, ConsensusMessage, GetLeaderRequest, GetLeaderResponse, GetRootCertificateRequest,
    GetRootCertificateResponse, HeartbeatRequest, IssueNodeCertificateRequest, IssueNodeCertificateResponse,
    JoinManagersRequest, JoinManagersResponse, LeaveManagersRequest, LeaveManagersResponse, ManagerAddress,
    RenewNodeCertificateRequest, RenewNodeCertificateResponse, RootMessage, SessionRequest, SnapshotPart,
    WatchRootRequest,
};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::record::Credentials;
use super::*;
use crate::ca::{Identity, JoinToken, RootCa};
use crate::control::Rotate;
use crate::manager::{InitRequest, Manager, ManagerConfig};
use crate::state::Reader;
use crate::tls::{certified, server};

/// A manager on a loopback port, and a place for a node.
struct Site {
    manager: Arc<Manager>,
    address: String,
    home: TempDir,
}

impl Site {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let config = ManagerConfig {
            state_dir: home.path().join("manager"),
            description: description("boss"),
        };
        let request = InitRequest {
            listen_addr: "127.0.0.1:0".into(),
            ..InitRequest::default()
        };
        let manager = Manager::init(config, request).await.unwrap();
        let address = manager.listen_addr().to_string();
        Self {
            manager,
            address,
            home,
        }
    }

    fn token(&self) -> String {
        self.manager
            .control()
            .cluster()
            .unwrap()
            .join_tokens
            .worker
            .into_inner()
    }

    fn node_dir(&self) -> PathBuf {
        self.home.path().join("node")
    }

    async fn join(&self, token: &str) -> Result<Joined, RemoteError> {
        let remotes = [self.address.clone()];
        join(
            &self.node_dir(),
            &remotes,
            token,
            &description("worker"),
            Availability::Active,
        )
        .await
    }

    fn nodes(&self) -> usize {
        self.manager.control().nodes().len()
    }

    /// The status of a heartbeat without a session: what refuses before the dispatcher has its own code.
    async fn knock(&self) -> Status {
        let (mut client, _remotes) = dispatcher(&self.node_dir()).unwrap();
        client.heartbeat(HeartbeatRequest::default()).await.unwrap_err()
    }

    fn root(&self) -> (ClusterId, RootCa) {
        let cluster = self.manager.store().view(|tx| tx.all::<Cluster>().remove(0));
        (
            cluster.id.clone(),
            RootCa::from_object(cluster.root_ca.as_ref().unwrap()),
        )
    }

    /// Puts another certificate in the node's place.
    fn disguise(
        &self,
        root: &RootCa,
        cluster: &ClusterId,
        node: &NodeId,
        role: NodeRole,
        life: time::Duration,
    ) {
        let signed = root.issue(cluster, node, role, life).unwrap();
        let credentials = Credentials {
            root: self.root().1.cert().to_owned(),
            cert: signed.cert,
            key: signed.key,
        };
        record::save_credentials(&self.node_dir(), &credentials).unwrap();
    }
}

fn description(name: &str) -> NodeDescription {
    NodeDescription {
        hostname: name.into(),
        ..NodeDescription::default()
    }
}

fn session(node: &str) -> SessionRequest {
    SessionRequest {
        description: serde_json::to_vec(&description("worker")).unwrap(),
        session_id: String::new(),
        node_id: node.into(),
        address: String::new(),
    }
}

const DAY: time::Duration = time::Duration::DAY;

#[tokio::test]
async fn a_node_joins_works_leaves_and_is_removed() {
    let site = Site::new().await;
    let joined = site.join(&site.token()).await.unwrap();
    assert_eq!(read(&site.node_dir()).unwrap().as_ref(), Some(&joined));
    assert_eq!(joined.role, NodeRole::Worker);
    assert_eq!(joined.managers[0].node, *site.manager.node_id());
    let node = site.manager.control().node("worker").unwrap();
    assert_eq!((&node.id, node.status.state), (&joined.node, NodeState::Unknown));
    let key = site.node_dir().join("certificates/swarm-node.pem");
    assert_eq!(
        std::fs::metadata(key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(matches!(site.join(&site.token()).await, Err(RemoteError::Exists)));

    let (mut client, remotes) = dispatcher(&site.node_dir()).unwrap();
    // The message lies about the node; the certificate says who it is.
    let mut stream = client
        .session(session(site.manager.node_id().as_str()))
        .await
        .unwrap()
        .into_inner();
    let session_id = stream.message().await.unwrap().unwrap().session_id;
    let node = site.manager.control().node("worker").unwrap();
    assert_eq!(
        (node.status.state, node.status.addr.as_str()),
        (NodeState::Ready, "127.0.0.1")
    );
    assert_eq!(remotes.managers(), joined.managers);
    let request = AssignmentsRequest {
        session_id: session_id.clone(),
        ..AssignmentsRequest::default()
    };
    let mut assignments = client.assignments(request).await.unwrap().into_inner();
    assignments.message().await.unwrap().unwrap();
    let control = site.manager.control();
    assert!(control.remove_node("worker", false).await.is_err(), "it is ready");

    leave(&site.node_dir()).await.unwrap();
    let node = control.node("worker").unwrap();
    assert_eq!(node.status.state, NodeState::Down);
    assert!(
        matches!(assignments.message().await, Ok(None)),
        "the session has ended"
    );
    control.remove_node("worker", false).await.unwrap();
    let refused = client
        .heartbeat(HeartbeatRequest {
            session_id,
            ..HeartbeatRequest::default()
        })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    forget(&site.node_dir()).unwrap();
    assert_eq!(read(&site.node_dir()).unwrap(), None);
    assert!(matches!(dispatcher(&site.node_dir()), Err(RemoteError::Missing)));
    let joined = site.join(&site.token()).await.unwrap();
    assert_eq!(joined.role, NodeRole::Worker);
}

#[tokio::test]
async fn a_removed_node_is_refused_at_once() {
    let site = Site::new().await;
    site.join(&site.token()).await.unwrap();
    let (mut client, _remotes) = dispatcher(&site.node_dir()).unwrap();
    let mut stream = client.session(session("")).await.unwrap().into_inner();
    let session_id = stream.message().await.unwrap().unwrap().session_id;
    let request = AssignmentsRequest {
        session_id: session_id.clone(),
        ..AssignmentsRequest::default()
    };
    let mut assignments = client.assignments(request).await.unwrap().into_inner();
    assignments.message().await.unwrap().unwrap();
    site.manager.control().remove_node("worker", true).await.unwrap();
    assert_eq!(stream.message().await.unwrap_err().code(), Code::NotFound);
    assert!(
        matches!(assignments.message().await, Ok(None)),
        "nothing more is told"
    );
    let again = client.session(session("")).await.unwrap_err();
    assert_eq!(again.code(), Code::PermissionDenied);
    assert!(again.message().contains("is not part of the cluster"), "{again}");
    let link = Link::open(&site.node_dir()).unwrap();
    let renewal = renewal::once(&link).await.unwrap_err();
    assert!(
        renewal.to_string().contains("is not part of the cluster"),
        "{renewal}"
    );
}

#[tokio::test]
async fn wrong_and_rotated_tokens_are_refused() {
    let site = Site::new().await;
    let token = site.token();
    let forged: JoinToken = token.parse().unwrap();
    let forged = forged.with_fresh_secret().to_string();
    let control = site.manager.control();
    let cluster = control.cluster().unwrap();
    let rotate = Rotate {
        worker_token: true,
        ..Rotate::default()
    };
    control
        .update_cluster(
            cluster.meta.version.index,
            ClusterSpec::clone(&cluster.spec),
            rotate,
        )
        .await
        .unwrap();
    for bad in [&forged, &token] {
        let refused = site.join(bad).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "A valid join token is necessary to join this cluster"
        );
    }
    assert!(matches!(site.join("SWMTKN-1").await, Err(RemoteError::Token(_))));
    assert_eq!((site.nodes(), site.node_dir().exists()), (1, false));
    site.join(&site.token()).await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_another_cluster_or_time_or_nobody_is_refused() {
    let site = Site::new().await;
    let joined = site.join(&site.token()).await.unwrap();
    assert_eq!(
        site.knock().await.code(),
        Code::NotFound,
        "only the session is missing"
    );
    let (cluster, root) = site.root();
    let (worker, node) = (NodeRole::Worker, &joined.node);

    site.disguise(&RootCa::generate().unwrap(), &cluster, node, worker, DAY);
    let foreign = site.knock().await;
    assert!(
        explain(&foreign).ends_with("received fatal alert: DecryptError"),
        "{foreign:?}"
    );
    site.disguise(&root, &"other".into(), node, worker, DAY);
    assert_eq!(site.knock().await.code(), Code::PermissionDenied);
    site.disguise(&root, &cluster, node, worker, -time::Duration::MINUTE);
    let expired = site.knock().await;
    assert!(
        explain(&expired).ends_with("received fatal alert: CertificateExpired"),
        "{expired:?}"
    );
    site.disguise(&root, &cluster, &"nobody".into(), worker, DAY);
    assert_eq!(site.knock().await.code(), Code::PermissionDenied);
    site.disguise(&root, &cluster, node, worker, DAY);
    assert_eq!(site.knock().await.code(), Code::NotFound);
}

#[tokio::test]
async fn another_nodes_session_is_none() {
    let site = Site::new().await;
    site.join(&site.token()).await.unwrap();
    let (mut client, _remotes) = dispatcher(&site.node_dir()).unwrap();
    let mut stream = client.session(session("")).await.unwrap().into_inner();
    let session_id = stream.message().await.unwrap().unwrap().session_id;
    let other = site.home.path().join("other");
    let remotes = ["127.0.0.1:1".to_owned(), site.address.clone()];
    join(
        &other,
        &remotes,
        &site.token(),
        &description("other"),
        Availability::Drain,
    )
    .await
    .unwrap();
    let node = site.manager.control().node("other").unwrap();
    assert_eq!(node.spec.availability, Availability::Drain);
    let (mut thief, _remotes) = dispatcher(&other).unwrap();
    let stolen = thief
        .heartbeat(HeartbeatRequest {
            session_id,
            ..HeartbeatRequest::default()
        })
        .await
        .unwrap_err();
    assert_eq!(stolen.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_renewed_certificate_is_used_at_once() {
    let site = Site::new().await;
    site.join(&site.token()).await.unwrap();
    let link = Link::open(&site.node_dir()).unwrap();
    let mut client = DispatcherClient::new(link.channel());
    let mut stream = client.session(session("")).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let before = record::credentials(&site.node_dir()).unwrap();
    renewal::once(&link).await.unwrap();
    let after = record::credentials(&site.node_dir()).unwrap();
    assert!(before.cert != after.cert && before.key != after.key && before.root == after.root);
    // The old connection has ended.
    while let Ok(Some(_)) = stream.message().await {}
    client.session(session("")).await.unwrap();
}

#[tokio::test]
async fn a_manager_comes_back_on_its_port_and_a_taken_port_leaves_nothing() {
    let site = Site::new().await;
    site.join(&site.token()).await.unwrap();
    let (mut client, _remotes) = dispatcher(&site.node_dir()).unwrap();
    let mut stream = client.session(session("")).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();

    let second = ManagerConfig {
        state_dir: site.home.path().join("second"),
        description: description("second"),
    };
    let request = InitRequest {
        listen_addr: site.address.clone(),
        ..InitRequest::default()
    };
    let taken = Manager::init(second, request).await.unwrap_err();
    assert_eq!(
        taken.to_string(),
        format!("listen on {} for other nodes", site.address)
    );
    assert!(!site.home.path().join("second").exists());

    let config = ManagerConfig {
        state_dir: site.home.path().join("manager"),
        description: description("boss"),
    };
    site.manager.shutdown().await;
    assert!(!matches!(stream.message().await, Ok(Some(_))));
    assert_eq!(
        client.session(session("")).await.unwrap_err().code(),
        Code::Unavailable
    );
    let _manager = Manager::open(config).await.unwrap();
    client.session(session("")).await.unwrap();
}

/// A manager that shows a root which is not its own, and counts what it is asked.
#[derive(Clone)]
struct Impostor {
    root: String,
    asked: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl NodeCa for Impostor {
    type WatchRootStream = tokio_stream::Empty<Result<RootMessage, Status>>;

    async fn watch_root(
        &self,
        _: Request<WatchRootRequest>,
    ) -> Result<Response<Self::WatchRootStream>, Status> {
        Err(Status::unimplemented("an impostor"))
    }

    async fn get_root_certificate(
        &self,
        _: Request<GetRootCertificateRequest>,
    ) -> Result<Response<GetRootCertificateResponse>, Status> {
        let certificate = self.root.clone();
        Ok(Response::new(GetRootCertificateResponse { certificate }))
    }

    async fn issue_node_certificate(
        &self,
        _: Request<IssueNodeCertificateRequest>,
    ) -> Result<Response<IssueNodeCertificateResponse>, Status> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Err(Status::internal("heard the secret"))
    }

    async fn renew_node_certificate(
        &self,
        _: Request<RenewNodeCertificateRequest>,
    ) -> Result<Response<RenewNodeCertificateResponse>, Status> {
        Err(Status::unavailable("this manager does not lead"))
    }
}

/// Says where the leader is.
#[derive(Clone)]
struct Leader(Arc<Mutex<ManagerAddress>>);

#[tonic::async_trait]
impl Managers for Leader {
    async fn get_leader(&self, _: Request<GetLeaderRequest>) -> Result<Response<GetLeaderResponse>, Status> {
        Ok(Response::new(GetLeaderResponse {
            leader: Some(self.0.lock().unwrap().clone()),
            managers: Vec::new(),
        }))
    }

    async fn deliver(&self, _: Request<ConsensusMessage>) -> Result<Response<ConsensusMessage>, Status> {
        Err(Status::internal("not asked"))
    }

    async fn install_snapshot(
        &self,
        _: Request<tonic::Streaming<SnapshotPart>>,
    ) -> Result<Response<ConsensusMessage>, Status> {
        Err(Status::internal("not asked"))
    }

    async fn join(&self, _: Request<JoinManagersRequest>) -> Result<Response<JoinManagersResponse>, Status> {
        Err(Status::internal("not asked"))
    }

    async fn leave(
        &self,
        _: Request<LeaveManagersRequest>,
    ) -> Result<Response<LeaveManagersResponse>, Status> {
        Err(Status::internal("not asked"))
    }
}

/// Serves an impostor that says `root` and shows a certificate of `own`, of the role.
async fn impostor(root: &RootCa, own: &RootCa, role: NodeRole) -> (String, Arc<AtomicUsize>) {
    let (address, asked, _) = impostor_of("c".into(), root, own, role).await;
    (address, asked)
}

/// The same in this cluster, and what it says of the leader: that it is the impostor.
async fn impostor_of(
    cluster: ClusterId,
    root: &RootCa,
    own: &RootCa,
    role: NodeRole,
) -> (String, Arc<AtomicUsize>, Leader) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let identity = Identity {
        cluster,
        node: "n".into(),
        role,
    };
    let dir = tempfile::tempdir().unwrap();
    let vault = crate::vault::Vault::create(dir.path(), false).unwrap();
    let signed = identity.ensure(dir.path(), own, DAY, &vault).unwrap();
    let shown = server::Shown::new(certified(&signed.cert, &signed.key).unwrap());
    let config = server::config(own.cert(), shown).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let service = NodeCaServer::new(Impostor {
        root: root.cert().to_owned(),
        asked: asked.clone(),
    });
    let (taken, connections) = mpsc::channel(1);
    let (end, ended) = tokio::sync::watch::channel(());
    let (reign, reigning) = tokio::sync::watch::channel(true);
    tokio::spawn(server::accept(listener, config, ended, reigning, taken));
    let leader = Leader(Arc::new(Mutex::new(ManagerAddress {
        node_id: "n".into(),
        address: address.clone(),
    })));
    let says = leader.clone();
    tokio::spawn(async move {
        let _ends = (end, reign);
        let incoming = ReceiverStream::new(connections);
        let _ = tonic::transport::Server::builder()
            .add_service(service)
            .add_service(ManagersServer::new(says))
            .serve_with_incoming(incoming)
            .await;
    });
    (address, asked, leader)
}

#[tokio::test]
async fn the_secret_is_said_to_a_manager_under_the_tokens_root_alone() {
    let (right, wrong) = (RootCa::generate().unwrap(), RootCa::generate().unwrap());
    let token = JoinToken::generate(right.cert().as_bytes()).to_string();
    let dir = tempfile::tempdir().unwrap();
    let node = description("worker");
    for (shows, own, role, said) in [
        (
            &wrong,
            &wrong,
            NodeRole::Manager,
            "shows another root certificate",
        ),
        (&right, &wrong, NodeRole::Manager, "no manager could be reached"),
        (&right, &right, NodeRole::Worker, "no manager could be reached"),
    ] {
        let (address, asked) = impostor(shows, own, role).await;
        let refused = join(dir.path(), &[address], &token, &node, Availability::Active)
            .await
            .unwrap_err();
        assert!(refused.to_string().contains(said), "{refused}");
        assert_eq!(asked.load(Ordering::SeqCst), 0, "the secret was said");
    }
    // The impostor does hear what is said to it.
    let (address, asked) = impostor(&right, &right, NodeRole::Manager).await;
    let refused = join(dir.path(), &[address], &token, &node, Availability::Active)
        .await
        .unwrap_err();
    assert_eq!(
        (refused.to_string().as_str(), asked.load(Ordering::SeqCst)),
        ("heard the secret", 1)
    );
}

#[tokio::test]
async fn who_was_wrongly_taken_for_the_leader_is_asked_once() {
    let site = Site::new().await;
    let joined = site.join(&site.token()).await.unwrap();
    let (cluster, root) = site.root();
    let (address, _, says) = impostor_of(cluster, &root, &root, NodeRole::Manager).await;
    let managers = vec![RemoteManager {
        node: "n".into(),
        address: address.parse().unwrap(),
    }];
    record::save(&site.node_dir(), &Joined { managers, ..joined }).unwrap();
    let mut client = NodeCaClient::new(Link::open(&site.node_dir()).unwrap().channel());
    let mut renew = async || {
        client
            .renew_node_certificate(RenewNodeCertificateRequest::default())
            .await
    };
    assert_eq!(renew().await.unwrap_err().code(), Code::Unavailable);
    *says.0.lock().unwrap() = ManagerAddress {
        node_id: "the one that leads".into(),
        address: site.address.clone(),
    };
    assert_eq!(renew().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn what_is_no_address_is_refused() {
    let site = Site::new().await;
    let dir = site.node_dir();
    let node = description("worker");
    let try_join = async |remotes: &[&str]| {
        let remotes: Vec<_> = remotes.iter().map(|&remote| remote.to_owned()).collect();
        join(&dir, &remotes, &site.token(), &node, Availability::Active)
            .await
            .unwrap_err()
    };
    assert!(matches!(try_join(&[]).await, RemoteError::NoAddress));
    assert!(matches!(try_join(&["boss:2377"]).await, RemoteError::Address(_)));
    let silent = try_join(&["127.0.0.1:1"]).await;
    assert!(silent.to_string().contains("127.0.0.1:1: connect: "), "{silent}");
}
