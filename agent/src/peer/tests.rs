//! The port between nodes over real TLS, with the certificates of a real cluster.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::any;
use manager::ca::Certificate;
use manager::control::Rotate;
use manager::remote::{self, Remotes};
use manager::state::{Filter, Kind};
use manager::{InitRequest, Manager, ManagerConfig};
use proto::NodeId;
use proto::object::{NodeDescription, Peer};
use proto::spec::{Availability, NodeRole};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::access::{TABLE, recognise};
use super::routes::guarded;
use super::{Bound, CallError, Client, Members, Membership, Peers, proxy};
use crate::api::error::ApiError;
use crate::api::hijack::Hijack;

/// Nothing that is waited for takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster of a manager and a worker, and the manager's port between nodes.
struct Cluster {
    manager: Arc<Manager>,
    worker: Remotes,
    worker_id: NodeId,
    members: Members,
    address: SocketAddr,
    peers: Arc<Peers>,
    _port: Membership,
    _homes: [TempDir; 2],
}

impl Cluster {
    async fn new(router: Router) -> Self {
        let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [home, other] = [homes[0].path().join("swarm"), homes[1].path().join("swarm")];
        let config = ManagerConfig {
            state_dir: home,
            description: NodeDescription::default(),
        };
        let request = InitRequest {
            listen_addr: "127.0.0.1:0".into(),
            ..InitRequest::default()
        };
        let manager = Manager::init(config, request).await.unwrap();
        let token = manager.control().cluster().unwrap().join_tokens.worker.clone();
        let remotes = [manager.listen_addr().to_string()];
        let (description, active) = (NodeDescription::default(), Availability::Active);
        let joined = remote::join(&other, &remotes, &token, &description, active).await;
        let worker_id = joined.unwrap().node;
        let (_, worker) = remote::dispatcher(&other).unwrap();

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let peers = Peers::new(address.port());
        peers.serve(Some(router));
        let members = peers.members().clone();
        members.put(member(manager.node_id(), NodeRole::Manager, address));
        members.put(member(&worker_id, NodeRole::Worker, address));
        let port = peers.begin(Bound(listener), manager.credentials());
        Self {
            manager,
            worker,
            worker_id,
            members,
            address,
            peers,
            _port: port,
            _homes: homes,
        }
    }

    /// The worker, as it speaks to others.
    fn worker(&self) -> Client {
        Client::new(self.worker.credentials(), self.members.clone())
    }

    /// The manager, as it speaks to others.
    fn manager(&self) -> Client {
        self.peers.client().unwrap()
    }

    /// What the manager's port answers.
    async fn call(&self, client: &Client, method: &str, path: &str) -> StatusCode {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::empty()).unwrap();
        let answer = client.send(self.manager.node_id(), request).await;
        answer.unwrap().status()
    }
}

fn member(id: &NodeId, role: NodeRole, address: SocketAddr) -> Peer {
    Peer {
        node_id: id.clone(),
        hostname: id.to_string(),
        addr: address.ip().to_string(),
        port: address.port(),
        role,
        ..Peer::default()
    }
}

/// A route for each entry of the table, and one that has none.
fn every_entry() -> Router {
    let mut router = Router::new().route("/v1/forgotten", any(async || "reached"));
    let mut paths: Vec<_> = TABLE.iter().map(|entry| entry.path).collect();
    paths.sort_unstable();
    paths.dedup();
    for path in paths {
        router = router.route(path, any(async || "reached"));
    }
    guarded(router)
}

#[tokio::test]
async fn every_entry_lets_in_whom_it_says() {
    let cluster = Cluster::new(every_entry()).await;
    for entry in TABLE {
        let path = entry.path.replace(['{', '}', '*'], "");
        let method = entry.method.replace('*', "DELETE");
        for (role, client) in [
            (NodeRole::Worker, cluster.worker()),
            (NodeRole::Manager, cluster.manager()),
        ] {
            let expected = match entry.roles.contains(&role) {
                true => StatusCode::OK,
                false => StatusCode::FORBIDDEN,
            };
            let status = cluster.call(&client, &method, &path).await;
            assert_eq!(status, expected, "{method} {path} as {role}");
        }
    }
    for (method, path) in [
        ("GET", "/v1/forgotten"),
        ("PATCH", "/v1/ping"),
        ("GET", "/v2/ping"),
    ] {
        let status = cluster.call(&cluster.manager(), method, path).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{method} {path}");
    }
}

#[tokio::test]
async fn a_removed_node_is_refused_and_its_connections_end() {
    let endless = || async { Body::from_stream(futures::stream::pending::<std::io::Result<bytes::Bytes>>()) };
    let cluster = Cluster::new(guarded(Router::new().route("/v1/ping", any(endless)))).await;
    let request = || Request::get("/v1/ping").body(Body::empty()).unwrap();
    let client = cluster.worker();
    let target = cluster.manager.node_id();
    let answer = client.ask(target, request()).await.unwrap();
    // The client has a view of its own: it does not know yet.
    let before = Members::default();
    before.put(cluster.members.get(target).unwrap());
    cluster.members.remove(cluster.worker_id.as_str());
    let rest = http_body_util::BodyExt::collect(answer.into_body());
    let rest = timeout(PATIENCE, rest).await.unwrap();
    assert!(rest.is_err(), "the stream went on");
    let client = Client::new(cluster.worker.credentials(), before);
    let refused = client.ask(target, request()).await.unwrap_err();
    let CallError::Refused { status, message } = refused else {
        panic!("{refused}");
    };
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(message.contains("is not part of the cluster"), "{message}");
}

/// Requests of the worker and of the manager while the root is exchanged three times: each is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_is_exchanged_without_a_failed_request_between_nodes() {
    let cluster = Cluster::new(every_entry()).await;
    let control = cluster.manager.control();
    let ended = AtomicBool::new(false);
    let ask = async |client: Client| {
        let (mut asked, mut failed) = (0, Vec::new());
        while !ended.load(Ordering::SeqCst) {
            let request = Request::get("/v1/ping").body(Body::empty()).unwrap();
            asked += 1;
            if let Err(error) = client.ask(cluster.manager.node_id(), request).await {
                failed.push(crate::api::error::chain(&error));
            }
        }
        (asked, failed)
    };
    let exchange = async {
        for _ in 0..3 {
            let before = control.cluster().unwrap();
            let mut spec = before.spec.clone();
            spec.ca_config.get_or_insert_default().force_rotate += 1;
            let version = before.meta.version.index;
            control
                .update_cluster(version, spec, Rotate::default())
                .await
                .unwrap();
            let mut events = cluster.manager.store().watch(Filter::kinds(&[Kind::Cluster]));
            while control.cluster().unwrap().root_rotation_in_progress {
                timeout(PATIENCE, events.next()).await.unwrap();
            }
            assert_ne!(control.cluster().unwrap().tls_info, before.tls_info);
        }
        ended.store(true, Ordering::SeqCst);
    };
    let (worker, manager, ()) = tokio::join!(ask(cluster.worker()), ask(cluster.manager()), exchange);
    for (asked, failed) in [worker, manager] {
        assert!(
            asked > 0 && failed.is_empty(),
            "of {asked} requests failed {failed:?}"
        );
    }
}

#[tokio::test]
async fn who_sends_rubbish_or_nothing_keeps_nobody_out() {
    let cluster = Cluster::new(every_entry()).await;
    let mut silent = Vec::new();
    for number in 0..64 {
        let mut stream = TcpStream::connect(cluster.address).await.unwrap();
        if number % 2 == 0 {
            // Who has been sent away already does not hear it.
            let _ = stream.write_all(b"GET /v1/ping HTTP/1.1\r\n\r\n").await;
        }
        silent.push(stream);
    }
    let mut ended = 0;
    for mut stream in silent {
        let mut answer = Vec::new();
        // Reset or closed: nobody is answered in clear, and nobody is kept waiting for ever.
        let end = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(end.is_ok(), "a silent connection goes on");
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
        ended += 1;
    }
    assert_eq!(ended, 64);
    let status = cluster.call(&cluster.worker(), "GET", "/v1/ping").await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn nobody_is_spoken_to_in_anothers_place() {
    let cluster = Cluster::new(every_entry()).await;
    // The worker's address leads to the manager.
    let request = Request::get("/v1/ping").body(Body::empty()).unwrap();
    let error = cluster.manager().send(&cluster.worker_id, request).await;
    assert!(matches!(error, Err(CallError::Connect { .. })), "{error:?}");
    let request = Request::get("/v1/ping").body(Body::empty()).unwrap();
    let error = cluster.manager().send(&"nobody".into(), request).await;
    assert!(matches!(error, Err(CallError::Unknown(_))), "{error:?}");
}

#[test]
fn a_certificate_is_worth_what_the_managers_say() {
    let here = IpAddr::from(Ipv4Addr::LOCALHOST);
    let certificate = |role, life: time::Duration| {
        let now = time::OffsetDateTime::now_utc();
        Arc::new(Certificate {
            cluster: "c".into(),
            role,
            node: "n".into(),
            not_before: now - time::Duration::DAY,
            not_after: now + life,
            issuer: Vec::new(),
        })
    };
    let members = Members::default();
    let judge = |role, life| recognise(&certificate(role, life), &members, here);
    let status = |refused: Result<_, ApiError>| refused.map(|_: super::Caller| ()).unwrap_err().status;
    let minute = time::Duration::MINUTE;
    assert_eq!(
        status(judge(NodeRole::Worker, minute)),
        StatusCode::SERVICE_UNAVAILABLE
    );
    members.put(member(&"other".into(), NodeRole::Manager, (here, 1).into()));
    assert_eq!(status(judge(NodeRole::Worker, minute)), StatusCode::FORBIDDEN);
    members.put(member(&"n".into(), NodeRole::Worker, (here, 1).into()));
    assert_eq!(status(judge(NodeRole::Worker, -minute)), StatusCode::FORBIDDEN);
    for (shown, kept, expected) in [
        (NodeRole::Worker, NodeRole::Worker, NodeRole::Worker),
        (NodeRole::Worker, NodeRole::Manager, NodeRole::Worker),
        (NodeRole::Manager, NodeRole::Worker, NodeRole::Worker),
        (NodeRole::Manager, NodeRole::Manager, NodeRole::Manager),
    ] {
        members.put(member(&"n".into(), kept, (here, 1).into()));
        assert_eq!(judge(shown, minute).unwrap().role, expected, "{shown} and {kept}");
    }
}

/// Says what it was asked, or repeats what it hears after an upgrade.
async fn far_end(hijack: Hijack, request: Request) -> Response {
    if !hijack.requested() {
        let path = request.uri().to_string();
        let body = axum::body::to_bytes(request.into_body(), 1024).await.unwrap();
        let text = format!("{path} {}", String::from_utf8_lossy(&body));
        return Response::builder().status(418).body(Body::from(text)).unwrap();
    }
    hijack.respond("application/x", async |mut client| {
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        client.write_all(b"heard: ").await.unwrap();
        client.write_all(&heard).await.unwrap();
        client.shutdown().await.unwrap();
    })
}

#[tokio::test]
async fn requests_and_upgrades_pass_through_another_manager() {
    let cluster = Cluster::new(guarded(Router::new().route("/api/{*path}", any(far_end)))).await;
    let (client, target) = (cluster.manager(), cluster.manager.node_id().clone());
    let near = any(move |request: Request| async move { proxy::proxy(&client, &target, request).await });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        axum::serve(listener, Router::new().fallback(near)).await.unwrap();
    });
    let exchange = async |head: &str, body: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let length = body.len();
        let text = format!("{head}Host: x\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    };
    let mut stream = exchange(
        "POST /services/create?a=b HTTP/1.1\r\nConnection: close\r\n",
        "spec",
    )
    .await;
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    timeout(PATIENCE, read).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 418"), "{answer}");
    assert!(answer.ends_with("/api/services/create?a=b spec"), "{answer}");

    let upgrade = "POST /tasks/x/exec HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n";
    let mut stream = exchange(upgrade, "").await;
    stream.write_all(b"hello").await.unwrap();
    // Half of the connection ends, and its end passes through; the other half goes on.
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    timeout(PATIENCE, read).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(answer.ends_with("heard: hello"), "{answer}");
    server.abort();
}

#[tokio::test]
async fn a_request_waits_for_a_node_that_is_about_to_serve() {
    let cluster = Cluster::new(every_entry()).await;
    let (peers, members) = (cluster.peers.clone(), cluster.members.clone());
    let me = cluster.manager.node_id().clone();
    let known = members.get(&me).unwrap();
    // The client has a view of its own.
    let view = Members::default();
    view.put(known.clone());
    let client = Client::new(cluster.manager.credentials(), view);
    members.retain(|_| false);
    peers.serve(None);
    let asked = cluster.call(&client, "GET", "/v1/ping");
    let served = async {
        tokio::task::yield_now().await;
        members.put(known);
        peers.serve(Some(every_entry()));
    };
    let (status, ()) = tokio::join!(asked, served);
    assert_eq!(status, StatusCode::OK);
}
