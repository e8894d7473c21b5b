//! Several managers over real TLS on loopback ports.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use proto::object::{NodeDescription, NodeState, Reachability};
use proto::spec::{Availability, ContainerSpec, NodeRole, ServiceMode};
use proto::wire::{HeartbeatRequest, SessionRequest};
use proto::{Node, NodeId, Service, ServiceSpec};
use tempfile::TempDir;

use super::*;
use crate::control::{ControlError, Rotate};
use crate::remote;
use crate::state::Reader;

struct Site {
    home: TempDir,
    managers: Vec<Arc<Manager>>,
}

fn description(name: &str) -> NodeDescription {
    NodeDescription {
        hostname: name.into(),
        ..NodeDescription::default()
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("it takes too long")
}

impl Site {
    /// So many managers; the first leads.
    async fn of(count: usize) -> Self {
        let home = tempfile::tempdir().unwrap();
        let request = InitRequest {
            listen_addr: "127.0.0.1:0".into(),
            ..InitRequest::default()
        };
        let mut site = Self {
            home,
            managers: Vec::new(),
        };
        let first = Manager::init(site.config("m0"), request).await.unwrap();
        site.managers.push(first);
        for n in 1..count {
            let manager = site.join(&format!("m{n}")).await;
            site.managers.push(manager);
        }
        site
    }

    fn config(&self, name: &str) -> ManagerConfig {
        ManagerConfig {
            state_dir: self.home.path().join(name),
            description: description(name),
        }
    }

    fn tokens(&self) -> proto::object::JoinTokens {
        self.managers[0].control().cluster().unwrap().join_tokens
    }

    async fn enroll(&self, name: &str, token: &str) -> remote::Joined {
        let config = self.config(name);
        let remotes = [self.managers.last().unwrap().listen_addr().to_string()];
        remote::join(
            &config.state_dir,
            &remotes,
            token,
            &config.description,
            Availability::Active,
        )
        .await
        .unwrap()
    }

    async fn join(&self, name: &str) -> Arc<Manager> {
        self.enroll(name, &self.tokens().manager.into_inner()).await;
        Manager::join(self.config(name), managers_request())
            .await
            .unwrap()
    }

    /// Whoever leads among them.
    async fn leader(&self) -> Arc<Manager> {
        let waits = self.managers.iter().map(|manager| {
            Box::pin(async {
                let (mut reign, manager) = (manager.seat.reign(), manager.clone());
                // A manager that has stopped will never lead.
                if reign.wait_for(|reigns| *reigns).await.is_err() {
                    std::future::pending::<()>().await;
                }
                manager
            })
        });
        within(futures::future::select_all(waits)).await.0
    }

    async fn stop(&mut self, node: &NodeId) -> Arc<Manager> {
        let place = self
            .managers
            .iter()
            .position(|manager| manager.node_id() == node)
            .unwrap();
        let manager = self.managers.remove(place);
        manager.shutdown().await;
        manager
    }
}

fn managers_request() -> JoinManagers {
    JoinManagers {
        listen_addr: "127.0.0.1:0".into(),
        ..JoinManagers::default()
    }
}

fn service(name: &str) -> ServiceSpec {
    let mut spec = ServiceSpec {
        name: name.into(),
        mode: ServiceMode::replicated(0),
        ..ServiceSpec::default()
    };
    spec.task_template.container_spec = Some(ContainerSpec {
        image: "bb".into(),
        ..ContainerSpec::default()
    });
    spec
}

/// Waits until the store looks as wanted.
async fn until(manager: &Manager, look: impl Fn(&Store) -> bool) {
    let mut events = manager.store().watch(Filter::all().with_commits());
    while !look(manager.store()) {
        within(events.next()).await.unwrap();
    }
}

fn node(store: &Store, id: &NodeId) -> Option<Arc<Node>> {
    store.view(|tx| tx.get::<Node>(id))
}

fn has_service(name: &str) -> impl Fn(&Store) -> bool {
    move |store| {
        store.view(|tx| {
            tx.all::<Service>()
                .iter()
                .any(|service| service.spec.name == name)
        })
    }
}

#[tokio::test]
async fn managers_join_and_are_shown_on_their_nodes() {
    let site = Site::of(3).await;
    let first = &site.managers[0];
    assert_eq!(first.leader(), Leader::This);
    for other in &site.managers[1..] {
        assert_eq!(
            within(other.await_leader()).await,
            Leader::Other(first.node_id().clone())
        );
        assert!(other.confirm().await.is_err());
    }
    first.confirm().await.unwrap();
    first.control().create_service(service("web")).await.unwrap();
    for manager in &site.managers {
        until(manager, has_service("web")).await;
        for shown in &site.managers {
            until(manager, |store| {
                let node = node(store, shown.node_id()).unwrap();
                let status = node.manager_status.clone().unwrap_or_default();
                status.leader == (shown.node_id() == first.node_id())
                    && status.reachability == Reachability::Reachable
                    && status.addr == shown.advertise_addr()
            })
            .await;
        }
    }
}

#[tokio::test]
async fn the_leader_goes_and_the_cluster_stays() {
    let mut site = Site::of(3).await;
    let gone = site.managers[0].node_id().clone();
    site.managers[0]
        .control()
        .create_service(service("before"))
        .await
        .unwrap();
    let old = site.stop(&gone).await;
    let new = site.leader().await;
    assert!(has_service("before")(new.store()));
    new.control().create_service(service("after")).await.unwrap();
    until(&new, |store| {
        let status = node(store, &gone).unwrap().manager_status.clone().unwrap();
        !status.leader && status.reachability == Reachability::Unreachable
    })
    .await;

    let config = ManagerConfig::clone(&old.config);
    drop(old);
    let back = Manager::open(config).await.unwrap();
    until(&back, has_service("after")).await;
    assert_eq!(
        within(back.await_leader()).await,
        Leader::Other(new.node_id().clone())
    );
    until(&new, |store| {
        let status = node(store, &gone).unwrap().manager_status.clone().unwrap();
        status.reachability == Reachability::Reachable
    })
    .await;
}

#[tokio::test]
async fn a_worker_finds_the_leader_through_any_manager_and_follows_it() {
    let mut site = Site::of(3).await;
    let joined = site.enroll("worker", &site.tokens().worker.into_inner()).await;
    let dir = site.home.path().join("worker");
    let (client, remotes) = remote::dispatcher(&dir).unwrap();
    let request = || SessionRequest {
        description: serde_json::to_vec(&description("worker")).unwrap(),
        session_id: String::new(),
        node_id: String::new(),
        address: String::new(),
    };
    let first = site.managers[0].clone();
    let mut session = client.clone().session(request()).await.unwrap().into_inner();
    session.message().await.unwrap().unwrap();
    until(&first, |store| {
        node(store, &joined.node).unwrap().status.state == NodeState::Ready
    })
    .await;
    assert_eq!(remotes.managers().len(), 3, "it has learned of all managers");

    site.stop(&first.node_id().clone()).await;
    // The session ends with its leader.
    while let Ok(Some(_)) = within(session.message()).await {}
    let new = site.leader().await;
    let mut again = within(async {
        loop {
            match client.clone().session(request()).await {
                Ok(session) => return session.into_inner(),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    })
    .await;
    let session_id = again.message().await.unwrap().unwrap().session_id;
    let beat = HeartbeatRequest {
        session_id,
        ..HeartbeatRequest::default()
    };
    client.clone().heartbeat(beat).await.unwrap();
    until(&new, |store| {
        node(store, &joined.node).unwrap().status.state == NodeState::Ready
    })
    .await;
}

async fn set_role(manager: &Manager, node_id: &NodeId, role: NodeRole) -> Result<(), ControlError> {
    loop {
        let node = node(manager.store(), node_id).unwrap();
        let mut spec = node.spec.clone();
        spec.role = role;
        match manager
            .control()
            .update_node(node_id.as_str(), node.meta.version.index, spec)
            .await
        {
            Err(ControlError::OutOfSequence) => {}
            result => return result,
        }
    }
}

#[tokio::test]
async fn a_worker_is_promoted_and_demoted() {
    let site = Site::of(1).await;
    let first = &site.managers[0];
    let joined = site.enroll("worker", &site.tokens().worker.into_inner()).await;
    assert!(matches!(
        Manager::join(site.config("worker"), managers_request()).await,
        Err(ManagerError::NotTaken(_))
    ));
    set_role(first, &joined.node, NodeRole::Manager).await.unwrap();
    let second = Manager::join(site.config("worker"), managers_request())
        .await
        .unwrap();
    assert!(Manager::exists(&site.home.path().join("worker")));
    until(first, |store| {
        node(store, &joined.node).unwrap().manager_status.is_some()
    })
    .await;

    set_role(first, &joined.node, NodeRole::Worker).await.unwrap();
    within(second.is_dismissed()).await;
    within(second.become_worker()).await.unwrap();
    let dir = site.home.path().join("worker");
    assert!(!Manager::exists(&dir));
    let kept = remote::read(&dir).unwrap().unwrap();
    assert_eq!(
        (kept.node.clone(), kept.role),
        (joined.node.clone(), NodeRole::Worker)
    );
    until(first, |store| {
        node(store, &joined.node).unwrap().manager_status.is_none()
    })
    .await;
    let (mut client, _remotes) = remote::dispatcher(&dir).unwrap();
    let knock = client.heartbeat(HeartbeatRequest::default()).await.unwrap_err();
    assert_eq!(knock.code(), tonic::Code::NotFound, "{knock}");
}

#[tokio::test]
async fn the_leader_of_two_is_demoted() {
    let site = Site::of(2).await;
    let [first, second] = &site.managers[..] else {
        panic!("two")
    };
    until(first, |store| {
        node(store, second.node_id()).unwrap().manager_status.is_some()
    })
    .await;
    set_role(first, first.node_id(), NodeRole::Worker).await.unwrap();
    within(first.is_dismissed()).await;
    within(first.become_worker()).await.unwrap();
    within(second.seat.reign().wait_for(|reigns| *reigns))
        .await
        .unwrap();
    second.control().create_service(service("alone")).await.unwrap();
    let last = set_role(second, second.node_id(), NodeRole::Worker).await;
    assert!(
        matches!(last, Err(ControlError::FailedPrecondition(_))),
        "{last:?}"
    );
}

#[tokio::test]
async fn a_demotion_that_loses_the_majority_is_refused() {
    let mut site = Site::of(3).await;
    let third = site.managers[2].node_id().clone();
    site.stop(&third).await;
    let (first, second) = (&site.managers[0], &site.managers[1]);
    until(first, |store| {
        let status = node(store, &third).unwrap().manager_status.clone();
        status.is_some_and(|status| status.reachability == Reachability::Unreachable)
    })
    .await;
    let refused = set_role(first, second.node_id(), NodeRole::Worker)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("loss of quorum"), "{refused}");
    // The one that is away may go.
    set_role(first, &third, NodeRole::Worker).await.unwrap();
    until(first, |store| {
        node(store, &third).unwrap().manager_status.is_none()
    })
    .await;
    set_role(first, second.node_id(), NodeRole::Worker).await.unwrap();
    until(first, |store| {
        node(store, second.node_id()).unwrap().manager_status.is_none()
    })
    .await;
}

#[tokio::test]
async fn managers_leave_and_the_rest_goes_on() {
    let mut site = Site::of(3).await;
    let leaving = site.managers.remove(0);
    let gone = leaving.node_id().clone();
    let refused = leaving.leave(false).await.unwrap_err().to_string();
    assert!(refused.contains("--force"), "{refused}");
    leaving.leave(true).await.unwrap();
    let new = site.leader().await;
    until(&new, |store| {
        let node = node(store, &gone).unwrap();
        node.manager_status.is_none() && node.status.state == NodeState::Down
    })
    .await;
    assert_eq!(new.seat.consensus().members().len(), 2);
    new.control().create_service(service("web")).await.unwrap();
}

#[tokio::test]
async fn one_of_three_goes_on_alone() {
    let mut site = Site::of(3).await;
    site.managers[0]
        .control()
        .create_service(service("kept"))
        .await
        .unwrap();
    until(&site.managers[2], has_service("kept")).await;
    let ids: Vec<_> = site
        .managers
        .iter()
        .map(|manager| manager.node_id().clone())
        .collect();
    for id in &ids {
        site.stop(id).await;
    }
    let alone = Manager::rescue(site.config("m2"), &InitRequest::default())
        .await
        .unwrap();
    assert_eq!(alone.leader(), Leader::This);
    assert!(has_service("kept")(alone.store()));
    assert!(node(alone.store(), &ids[0]).unwrap().manager_status.is_none());
    alone.control().create_service(service("more")).await.unwrap();
    site.managers.push(alone);
    let fourth = site.join("m3").await;
    until(&fourth, has_service("more")).await;
}

/// Changes the cluster's settings at the leader.
async fn change(site: &Site, change: impl FnOnce(&mut ClusterSpec)) {
    let control = site.leader().await.control();
    let cluster = control.cluster().unwrap();
    let mut spec = cluster.spec.clone();
    change(&mut spec);
    let version = cluster.meta.version.index;
    control
        .update_cluster(version, spec, Rotate::default())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_is_exchanged_twice_under_three_managers() {
    let mut site = Site::of(3).await;
    for _ in 0..2 {
        let before = site.managers[0].control().cluster().unwrap().tls_info.trust_root;
        change(&site, |spec| {
            spec.ca_config.get_or_insert_default().force_rotate += 1
        })
        .await;
        for manager in &site.managers {
            until(manager, |store| {
                let cluster = store.view(|tx| tx.all::<proto::Cluster>().remove(0));
                let wanted = &cluster.tls_info;
                let nodes = store.view(|tx| tx.all::<Node>());
                let trusted = nodes.iter().all(|node| node.description.tls_info == *wanted);
                wanted.trust_root != before && !cluster.root_rotation_in_progress && trusted
            })
            .await;
        }
    }
    // Whoever comes now is believed by all, and so is who starts again.
    let fourth = site.join("m3").await;
    site.managers.push(fourth);
    let away = site.managers[1].node_id().clone();
    site.stop(&away).await;
    let back = Manager::open(site.config("m1")).await.unwrap();
    site.managers.push(back);
    let control = site.leader().await.control();
    control.create_service(service("after")).await.unwrap();
    for manager in &site.managers {
        until(manager, has_service("after")).await;
    }
}

#[tokio::test]
async fn the_unlock_key_reaches_every_manager() {
    let site = Site::of(3).await;
    change(&site, |spec| {
        spec.encryption_config.get_or_insert_default().auto_lock_managers = true
    })
    .await;
    let key = site.leader().await.control().unlock_key().unwrap().unwrap();
    for (manager, name) in site.managers.iter().zip(["m0", "m1", "m2"]) {
        until(manager, |store| {
            let cluster = store.view(|tx| tx.all::<proto::Cluster>().remove(0));
            cluster.unlock_key.as_ref() == Some(&key)
        })
        .await;
        let state_dir = site.config(name).state_dir;
        // The file has no event of its own.
        let locked = async {
            while !Manager::is_locked(&state_dir).unwrap() {
                tokio::task::yield_now().await;
            }
        };
        within(locked).await;
        assert!(matches!(
            Vault::open(&raft_dir(&state_dir), None),
            Err(VaultError::Locked)
        ));
        assert!(Vault::open(&raft_dir(&state_dir), Some(&key.parse().unwrap())).is_ok());
    }
}
