//! A whole manager: init, work, restart, leave.

use proto::object::NodeDescription;
use proto::spec::{ContainerSpec, ServiceMode};
use proto::wire::SessionRequest;
use proto::{Network, Service, ServiceSpec, Task, TaskState};

use super::*;
use crate::state::{Event, Filter, Kind};

fn config(dir: &Path) -> ManagerConfig {
    ManagerConfig {
        state_dir: dir.join("swarm"),
        description: description(),
    }
}

fn description() -> NodeDescription {
    NodeDescription {
        hostname: "host".into(),
        subnets: vec!["10.0.0.0/23".into()],
        ..NodeDescription::default()
    }
}

fn request() -> InitRequest {
    InitRequest {
        advertise_addr: "192.0.2.1:2377".into(),
        listen_addr: "127.0.0.1:0".into(),
        ..InitRequest::default()
    }
}

fn service(name: &str, replicas: u64) -> ServiceSpec {
    let mut spec = ServiceSpec {
        name: name.into(),
        mode: ServiceMode::replicated(replicas),
        ..ServiceSpec::default()
    };
    spec.task_template.container_spec = Some(ContainerSpec {
        image: "bb".into(),
        ..ContainerSpec::default()
    });
    spec
}

/// Registers the manager's own node, as its worker does.
async fn register(manager: &Manager) -> tonic::Streaming<proto::wire::SessionMessage> {
    let request = SessionRequest {
        description: serde_json::to_vec(&description()).unwrap(),
        session_id: String::new(),
        node_id: manager.node_id().to_string(),
        address: String::new(),
    };
    manager.dispatcher().session(request).await.unwrap().into_inner()
}

/// Waits until so many tasks have come so far.
async fn tasks(manager: &Manager, count: usize, state: TaskState) -> Vec<Arc<Task>> {
    let (mut tasks, mut events) = manager
        .store()
        .view_and_watch(Filter::kinds(&[Kind::Task]).with_commits(), |tx| tx.all::<Task>());
    while tasks.iter().filter(|task| task.status.state == state).count() < count {
        while !matches!(events.next().await.unwrap(), Event::Commit(_)) {}
        tasks = manager.store().view(|tx| tx.all::<Task>());
    }
    tasks
}

#[tokio::test]
async fn a_service_becomes_tasks_on_the_node_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Manager::init(config(dir.path()), request()).await.unwrap();
    let _session = register(&manager).await;
    let node = manager.control().node("host").unwrap();
    let status = node.manager_status.as_ref().unwrap();
    assert_eq!((status.leader, status.addr.as_str()), (true, "192.0.2.1:2377"));

    manager.control().create_service(service("web", 3)).await.unwrap();
    let before = tasks(&manager, 3, TaskState::Assigned).await;
    assert!(before.iter().all(|task| task.node_id == *manager.node_id()));
    let cluster = manager.control().cluster().unwrap();
    manager.shutdown().await;
    drop(manager);

    let manager = Manager::open(config(dir.path())).await.unwrap();
    let again = tasks(&manager, 3, TaskState::Assigned).await;
    let ids = |tasks: &[Arc<Task>]| tasks.iter().map(|task| task.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&again), ids(&before));
    assert_eq!(manager.control().cluster().unwrap(), cluster);
    assert!(matches!(
        Manager::init(config(dir.path()), request()).await,
        Err(ManagerError::Exists)
    ));
    manager.control().remove_service("web").await.unwrap();
    assert!(manager.store().view(|tx| tx.all::<Service>()).is_empty());
}

#[tokio::test]
async fn a_new_cluster_has_what_docker_shows() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Manager::init(config(dir.path()), request()).await.unwrap();
    let cluster = manager.control().cluster().unwrap();
    assert!(cluster.root_ca.is_none(), "the key has left the manager");
    let token: crate::ca::JoinToken = cluster.join_tokens.worker.parse().unwrap();
    assert!(token.matches_root(cluster.tls_info.trust_root.as_bytes()));
    assert_ne!(cluster.join_tokens.worker, cluster.join_tokens.manager);
    assert_eq!(cluster.default_addr_pool, ["10.0.0.0/8"]);
    let mut events = manager.store().watch(Filter::kinds(&[Kind::Network]));
    while manager
        .control()
        .network("ingress")
        .unwrap()
        .ipam
        .configs
        .is_empty()
    {
        events.next().await.unwrap();
    }
    let ingress: Arc<Network> = manager.control().network("ingress").unwrap();
    assert_eq!(ingress.ipam.configs[0].subnet, "10.0.2.0/24");
    assert!(ingress.ipam.configs[1].subnet.starts_with("fd"), "IPv6, too");
}

#[tokio::test]
async fn leaving_needs_force_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Manager::init(config(dir.path()), request()).await.unwrap();
    let first = manager.control().cluster().unwrap();
    assert!(matches!(
        manager.leave(false).await,
        Err(ManagerError::Leaving(_))
    ));
    manager.control().create_service(service("web", 1)).await.unwrap();
    manager.leave(true).await.unwrap();
    assert!(!Manager::exists(&config(dir.path()).state_dir));
    assert!(
        std::fs::read_dir(config(dir.path()).state_dir)
            .unwrap()
            .next()
            .is_none()
    );
    assert!(matches!(
        Manager::open(config(dir.path())).await,
        Err(ManagerError::Missing)
    ));
    // Who still holds the old one is told.
    let late = manager
        .control()
        .create_service(service("late", 1))
        .await
        .unwrap_err();
    assert!(matches!(late, ControlError::Unavailable(_)), "{late:?}");

    let manager = Manager::init(config(dir.path()), request()).await.unwrap();
    assert_ne!(manager.control().cluster().unwrap().id, first.id);
}

#[tokio::test]
async fn what_a_crash_left_of_an_init_is_no_manager() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Manager::init(config(dir.path()), request()).await.unwrap();
    manager.shutdown().await;
    std::fs::remove_file(Record::path(&config(dir.path()).state_dir)).unwrap();
    assert!(matches!(
        Manager::open(config(dir.path())).await,
        Err(ManagerError::Missing)
    ));
    Manager::init(config(dir.path()), request()).await.unwrap();
    std::fs::write(Record::path(&config(dir.path()).state_dir), "{").unwrap();
    assert!(matches!(
        Manager::open(config(dir.path())).await,
        Err(ManagerError::Damaged(_))
    ));
}

#[tokio::test]
async fn a_locked_manager_opens_with_its_key_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut locking = request();
    locking
        .spec
        .encryption_config
        .get_or_insert_default()
        .auto_lock_managers = true;
    let manager = Manager::init(config(dir.path()), locking).await.unwrap();
    let state_dir = config(dir.path()).state_dir;
    let key = || -> UnlockKey { manager.control().unlock_key().unwrap().unwrap().parse().unwrap() };
    let first = key();
    assert!(
        manager.control().cluster().unwrap().unlock_key.is_none(),
        "it has left the manager"
    );
    let node_key = std::fs::read(state_dir.join("certificates/swarm-node.key")).unwrap();
    assert!(!node_key.starts_with(b"-----BEGIN"), "the node's key is readable");

    // A manager that was away when the key was exchanged still opens with the one that it knew.
    let rotate = crate::control::Rotate {
        unlock_key: true,
        ..Default::default()
    };
    let cluster = manager.control().cluster().unwrap();
    let spec = cluster.spec.clone();
    let keys = std::fs::read(state_dir.join("raft/keys.json")).unwrap();
    manager
        .control()
        .update_cluster(cluster.meta.version.index, spec, rotate)
        .await
        .unwrap();
    let second = key();
    assert_ne!(first, second);
    manager.shutdown().await;
    drop(manager);
    std::fs::write(state_dir.join("raft/keys.json"), keys).unwrap();

    assert!(Manager::is_locked(&state_dir).unwrap());
    let locked = Manager::open(config(dir.path())).await;
    assert!(
        matches!(locked, Err(ManagerError::Vault(VaultError::Locked))),
        "{locked:?}"
    );
    let wrong = Manager::unlock(config(dir.path()), &second).await;
    assert!(
        matches!(wrong, Err(ManagerError::Vault(VaultError::WrongKey))),
        "{wrong:?}"
    );
    let manager = Manager::unlock(config(dir.path()), &first).await.unwrap();
    manager.shutdown().await;
    drop(manager);
    let wrong = Manager::unlock(config(dir.path()), &first).await;
    assert!(
        matches!(wrong, Err(ManagerError::Vault(VaultError::WrongKey))),
        "{wrong:?}"
    );

    let manager = Manager::unlock(config(dir.path()), &second).await.unwrap();
    let cluster = manager.control().cluster().unwrap();
    let version = cluster.meta.version.index;
    let open = ClusterSpec {
        encryption_config: None,
        ..cluster.spec
    };
    manager
        .control()
        .update_cluster(version, open, Default::default())
        .await
        .unwrap();
    assert!(manager.control().unlock_key().unwrap().is_none());
    manager.shutdown().await;
    drop(manager);
    // Whether or not it came to see it before it ended.
    let manager = Manager::unlock(config(dir.path()), &second).await.unwrap();
    manager.shutdown().await;
    drop(manager);
    Manager::open(config(dir.path())).await.unwrap();
    let node_key = std::fs::read(state_dir.join("certificates/swarm-node.key")).unwrap();
    assert!(node_key.starts_with(b"-----BEGIN"));
}
