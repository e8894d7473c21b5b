//! Requests for certificates that go wrong, are lost, or lie.

use proto::Node;
use proto::wire::IssueNodeCertificateRequest;
use proto::wire::node_ca_client::NodeCaClient;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;
use tonic::Code;

use super::*;
use crate::ca::{Certificate, unseen};
use crate::manager::{InitRequest, Manager, ManagerConfig};
use crate::state::{Filter, Kind, Reader, Store};
use crate::tls::client::{connect, stranger};

async fn manager() -> (Arc<Manager>, TempDir) {
    let home = tempfile::tempdir().unwrap();
    let config = ManagerConfig {
        state_dir: home.path().join("manager"),
        description: NodeDescription::default(),
    };
    let request = InitRequest {
        listen_addr: "127.0.0.1:0".into(),
        ..InitRequest::default()
    };
    (Manager::init(config, request).await.unwrap(), home)
}

/// Asks the manager for a certificate, as nobody.
async fn ask(
    manager: &Manager,
    request: IssueNodeCertificateRequest,
) -> Result<proto::wire::IssueNodeCertificateResponse, Status> {
    let stream = connect(manager.listen_addr(), stranger().unwrap()).await.unwrap();
    let mut authority = NodeCaClient::new(channel::once(stream).await.unwrap());
    let answer = authority.issue_node_certificate(request).await;
    answer.map(tonic::Response::into_inner)
}

fn request(manager: &Manager, csr: String) -> IssueNodeCertificateRequest {
    IssueNodeCertificateRequest {
        csr,
        token: manager
            .control()
            .cluster()
            .unwrap()
            .join_tokens
            .worker
            .into_inner(),
        description: serde_json::to_vec(&NodeDescription::default()).unwrap(),
        availability: serde_json::to_vec(&Availability::Active).unwrap(),
    }
}

#[tokio::test]
async fn a_lost_answer_is_given_again_until_the_node_comes() {
    let (manager, home) = manager().await;
    let nodes = || manager.control().nodes().len();
    let key = KeyPair::generate().unwrap();
    let csr = join::request(&key).unwrap();
    let first = ask(&manager, request(&manager, csr.clone())).await.unwrap();
    let second = ask(&manager, request(&manager, csr.clone())).await.unwrap();
    assert_eq!((&first.node_id, nodes()), (&second.node_id, 2));
    let other = join::request(&KeyPair::generate().unwrap()).unwrap();
    let other = ask(&manager, request(&manager, other)).await.unwrap();
    assert_ne!(first.node_id, other.node_id);

    // Once the node has come, its key is no way to its identity any more.
    let credentials = record::Credentials {
        root: second.root,
        cert: second.certificate,
        key: key.serialize_pem(),
    };
    let dir = home.path().join("node");
    record::save_credentials(&dir, &credentials).unwrap();
    let joined = Joined {
        cluster: manager.control().cluster().unwrap().id,
        node: second.node_id.clone().into(),
        role: NodeRole::Worker,
        address: [127, 0, 0, 1].into(),
        managers: vec![RemoteManager {
            node: manager.node_id().clone(),
            address: manager.listen_addr(),
        }],
    };
    record::save(&dir, &joined).unwrap();
    let (mut client, _remotes) = dispatcher(&dir).unwrap();
    let session = proto::wire::SessionRequest {
        description: serde_json::to_vec(&NodeDescription::default()).unwrap(),
        ..proto::wire::SessionRequest::default()
    };
    client.session(session).await.unwrap();
    let third = ask(&manager, request(&manager, csr)).await.unwrap();
    assert_ne!(third.node_id, second.node_id);
}

#[tokio::test]
async fn a_request_that_asks_for_more_gets_what_the_token_gives() {
    let (manager, _home) = manager().await;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    for (kind, value) in [
        (DnType::OrganizationName, "another cluster"),
        (DnType::OrganizationalUnitName, "swarm-manager"),
        (DnType::CommonName, manager.node_id().as_str()),
    ] {
        params.distinguished_name.push(kind, value);
    }
    let name = "swarm-manager".try_into().unwrap();
    params.subject_alt_names.push(SanType::DnsName(name));
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let issued = ask(&manager, request(&manager, csr)).await.unwrap();
    let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
    let certificate = Certificate::read(&der).unwrap();
    assert_eq!(certificate.role, NodeRole::Worker);
    assert_eq!(certificate.node.as_str(), issued.node_id);
    assert_eq!(certificate.cluster, manager.control().cluster().unwrap().id);
    let (_, cert) = x509_parser::parse_x509_certificate(&der).unwrap();
    let names = &cert
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    assert!(!format!("{names:?}").contains("swarm-manager"), "{names:?}");
}

#[tokio::test]
async fn requests_that_are_too_large_or_no_requests_make_no_node() {
    let (manager, _home) = manager().await;
    let csr = join::request(&KeyPair::generate().unwrap()).unwrap();
    let large = IssueNodeCertificateRequest {
        description: vec![b' '; 300 << 10],
        ..request(&manager, csr.clone())
    };
    assert_eq!(ask(&manager, large).await.unwrap_err().code(), Code::OutOfRange);
    let mut tampered = csr.clone();
    let middle = csr.len() / 2;
    let other = if &csr[middle..=middle] == "A" { "B" } else { "A" };
    tampered.replace_range(middle..=middle, other);
    for bad in [tampered, "rubbish".into(), String::new()] {
        let refused = ask(&manager, request(&manager, bad)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    let vague = IssueNodeCertificateRequest {
        availability: b"\"sometimes\"".to_vec(),
        ..request(&manager, csr)
    };
    assert_eq!(
        ask(&manager, vague).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    assert_eq!(manager.control().nodes().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_never_comes_is_removed() {
    let store = Store::in_memory();
    let node = |id: &str, join_key: Option<&str>| Node {
        id: id.into(),
        join_key: join_key.map(str::to_owned),
        ..Node::default()
    };
    for node in [
        node("came", None),
        node("lost", Some("key")),
        node("late", Some("other")),
    ] {
        store.update(|tx| tx.create(node)).await.unwrap();
    }
    let mut events = store.watch(Filter::kinds(&[Kind::Node]));
    let collector = tokio::spawn(unseen::run(store.clone()));
    let came = |node: &mut Node| node.join_key = None;
    store.update(|tx| tx.modify("late", came)).await.unwrap();
    while store.view(|tx| tx.get::<Node>("lost")).is_some() {
        events.next().await.unwrap();
    }
    let left: Vec<_> = store.view(|tx| tx.all::<Node>());
    assert_eq!(left.len(), 2, "{left:?}");
    collector.abort();
}
