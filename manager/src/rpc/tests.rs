//! The table, entry by entry, over real TLS.

use std::collections::BTreeSet;

use proto::object::NodeDescription;
use proto::spec::NodeRole;
use proto::{Cluster, NodeId};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::access::{AccessLayer, Allowed, TABLE};
use crate::ca::{Certificate, RootCa};
use crate::manager::{InitRequest, Manager, ManagerConfig};
use crate::seat::Seat;
use crate::state::consensus::{Consensus, ConsensusConfig, Member};
use crate::state::{Reader, Replica};
use crate::tls::server::Peer;
use crate::tls::{certified, client};
use crate::vault::AtRest;

/// A channel with a certificate of this role, or with none.
async fn channel(manager: &Manager, own: Option<(NodeRole, &NodeId)>) -> Channel {
    let cluster = manager.store().view(|tx| tx.all::<Cluster>().remove(0));
    let root = RootCa::from_object(cluster.root_ca.as_ref().unwrap());
    let key = own.map(|(role, node)| {
        let signed = root.issue(&cluster.id, node, role, time::Duration::DAY).unwrap();
        certified(&signed.cert, &signed.key).unwrap()
    });
    let config = client::trusting(root.cert(), Some(cluster.id.clone()), key).unwrap();
    let stream = client::connect(manager.listen_addr(), config).await.unwrap();
    let mut stream = Some(hyper_util::rt::TokioIo::new(stream));
    let connector = service_fn(move |_| {
        let stream = stream.take().ok_or(std::io::ErrorKind::NotConnected);
        async move { stream.map_err(std::io::Error::from) }
    });
    let endpoint = Endpoint::from_static("http://manager.internal");
    endpoint.connect_with_connector(connector).await.unwrap()
}

/// Calls with an empty message; a handler that refuses that does so by other codes than the table.
async fn call(channel: &Channel, path: &str) -> Code {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = PathAndQuery::try_from(path.to_owned()).unwrap();
    let codec = ProstCodec::<proto::wire::LeaveRequest, proto::wire::LeaveResponse>::default();
    // A stream may last: whether it begins is all that is asked.
    let request = Request::new(proto::wire::LeaveRequest {});
    match grpc.server_streaming(request, path, codec).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

#[tokio::test]
async fn every_entry_lets_in_whom_it_says() {
    let home = tempfile::tempdir().unwrap();
    let config = ManagerConfig {
        state_dir: home.path().join("swarm"),
        description: NodeDescription::default(),
    };
    let request = InitRequest {
        listen_addr: "127.0.0.1:0".into(),
        ..InitRequest::default()
    };
    let manager = Manager::init(config, request).await.unwrap();
    let worker = NodeId::from("worker");
    let node = proto::Node {
        id: worker.clone(),
        ..proto::Node::default()
    };
    manager.store().update(|tx| tx.create(node)).await.unwrap();

    let nobody = channel(&manager, None).await;
    let as_worker = channel(&manager, Some((NodeRole::Worker, &worker))).await;
    let as_manager = channel(&manager, Some((NodeRole::Manager, manager.node_id()))).await;
    let removed = channel(&manager, Some((NodeRole::Worker, &"gone".into()))).await;
    for (path, allowed, _) in TABLE {
        let codes = [
            call(&nobody, path).await,
            call(&as_worker, path).await,
            call(&as_manager, path).await,
        ];
        // IssueNodeCertificate refuses a wrong token with the code of the table.
        let by_token = path.ends_with("IssueNodeCertificate");
        let lets_in = codes.map(|code| match code {
            Code::Unauthenticated => false,
            Code::PermissionDenied => by_token,
            _ => true,
        });
        let expected = match allowed {
            Allowed::Anyone => [true; 3],
            Allowed::Roles(roles) => [
                false,
                roles.contains(&NodeRole::Worker),
                roles.contains(&NodeRole::Manager),
            ],
            Allowed::Members => [false, false, true],
        };
        assert_eq!(lets_in, expected, "{path}: {codes:?}");
        if *allowed != Allowed::Anyone {
            assert_eq!(call(&removed, path).await, Code::PermissionDenied, "{path}");
        }
    }
    assert_eq!(
        call(&as_manager, "/shoal.v1.Dispatcher/Nosuch").await,
        Code::Unimplemented
    );
}

#[test]
fn the_table_has_every_call_of_the_schema() {
    let schemas = [
        include_str!("../../../proto/schema/ca.proto"),
        include_str!("../../../proto/schema/dispatcher.proto"),
        include_str!("../../../proto/schema/managers.proto"),
    ];
    let mut calls = BTreeSet::new();
    let mut service = "";
    for line in schemas.iter().flat_map(|schema| schema.lines()) {
        let mut words = line.split([' ', '(']).filter(|word| !word.is_empty());
        match (words.next(), words.next()) {
            (Some("service"), Some(name)) => service = name,
            (Some("rpc"), Some(name)) => drop(calls.insert(format!("/shoal.v1.{service}/{name}"))),
            _ => {}
        }
    }
    let table: BTreeSet<_> = TABLE.iter().map(|(path, ..)| (*path).to_owned()).collect();
    assert_eq!(table, calls);
}

#[tokio::test]
async fn a_certificate_that_expires_while_its_connection_lasts_is_refused() {
    let store = crate::state::Store::in_memory();
    let node = proto::Node {
        id: "n".into(),
        ..proto::Node::default()
    };
    store.update(|tx| tx.create(node)).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = ConsensusConfig::alone(dir.path().join("raft"), AtRest::ephemeral());
    let consensus = Consensus::create(&config, Replica::default()).await.unwrap();
    let seat = Seat::new(Member::default(), consensus.into());
    let rules = AccessLayer {
        store,
        cluster: "c".into(),
        seat: seat.clone(),
    };
    let check = |life: time::Duration| {
        let now = time::OffsetDateTime::now_utc();
        let certificate = Certificate {
            cluster: "c".into(),
            role: NodeRole::Worker,
            node: "n".into(),
            not_before: now - time::Duration::DAY,
            not_after: now + life,
            issuer: Vec::new(),
        };
        let peer = Peer {
            address: ([127, 0, 0, 1], 1).into(),
            certificate: Some(std::sync::Arc::new(certificate)),
        };
        rules.check("/shoal.v1.Dispatcher/Heartbeat", &peer)
    };
    assert_eq!(
        check(time::Duration::MINUTE).unwrap_err().code(),
        Code::Unavailable,
        "it does not lead"
    );
    seat.set_reign(true);
    assert!(check(time::Duration::MINUTE).unwrap().is_some());
    assert_eq!(
        check(-time::Duration::SECOND).unwrap_err().code(),
        Code::Unauthenticated
    );
}
