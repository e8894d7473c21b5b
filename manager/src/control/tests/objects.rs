//! Networks, secrets, configs, nodes and the cluster itself.

use super::*;

#[tokio::test]
async fn networks_are_stored_by_identifier_and_held_by_their_services() {
    let control = control();
    let network = control.create_network(network("front", "")).await.unwrap();
    let mut web = spec("web");
    let on = |target: &str| NetworkAttachmentConfig {
        target: target.into(),
        ..NetworkAttachmentConfig::default()
    };
    web.task_template.networks = vec![on("nosuch")];
    assert_eq!(
        text(control.create_service(web.clone()).await),
        "network nosuch not found"
    );
    web.task_template.networks = vec![on("front"), on(network.id.as_str())];
    assert_eq!(
        text(control.create_service(web.clone()).await),
        "a network is listed twice"
    );
    web.task_template.networks = vec![on("front")];
    let service = control.create_service(web).await.unwrap();
    assert_eq!(service.spec.task_template.networks[0].target, network.id.as_str());

    let held = control.remove_network("front").await;
    assert_eq!(
        text(held),
        "network 'front' is in use by the following service: web"
    );
    control.remove_service("web").await.unwrap();
    control.remove_network("front").await.unwrap();
    assert_eq!(text(control.network("front")), "network front not found");
}

#[tokio::test]
async fn a_running_task_holds_its_network_and_a_stopping_one_does_not() {
    let control = control();
    let network = control.create_network(network("front", "")).await.unwrap();
    let attachment = proto::object::NetworkAttachment {
        network: Network::clone(&network),
        ..Default::default()
    };
    let task = Task {
        id: "t".into(),
        service_name: "web".into(),
        slot: 1,
        networks_attachments: vec![attachment],
        desired_state: TaskState::Running,
        ..Task::default()
    };
    control.store.update(|tx| tx.create(task)).await.unwrap();
    assert_eq!(
        text(control.remove_network("front").await),
        "network 'front' is in use by the following task: web.1.t"
    );
    let stop = |task: &mut Task| task.desired_state = TaskState::Remove;
    control.store.update(|tx| tx.modify("t", stop)).await.unwrap();
    control.remove_network("front").await.unwrap();
}

#[tokio::test]
async fn a_task_of_a_removed_service_does_not_hold_its_network() {
    let control = control();
    let network = control.create_network(network("front", "")).await.unwrap();
    let service = control.create_service(spec("web")).await.unwrap();
    let attachment = proto::object::NetworkAttachment {
        network: Network::clone(&network),
        ..Default::default()
    };
    let task = Task {
        id: "t".into(),
        service_id: service.id.clone(),
        service_name: "web".into(),
        slot: 1,
        networks_attachments: vec![attachment],
        desired_state: TaskState::Running,
        ..Task::default()
    };
    control.store.update(|tx| tx.create(task)).await.unwrap();
    assert!(control.remove_network("front").await.is_err());
    control.remove_service("web").await.unwrap();
    control.remove_network("front").await.unwrap();
}

#[tokio::test]
async fn subnets_of_networks_never_overlap() {
    let control = control();
    control.create_network(network("a", "10.5.0.0/16")).await.unwrap();
    assert_eq!(
        text(control.create_network(network("b", "10.5.7.0/24")).await),
        "subnet 10.5.7.0/24 overlaps with network a (10.5.0.0/16)"
    );
    let mut node = Node {
        id: "n".into(),
        ..Node::default()
    };
    node.description.hostname = "host".into();
    node.description.subnets = vec!["10.9.0.0/16".into()];
    control.store.update(|tx| tx.create(node)).await.unwrap();
    assert_eq!(
        text(control.create_network(network("b", "10.9.7.0/24")).await),
        "subnet 10.9.7.0/24 overlaps with 10.9.0.0/16, which node host reaches otherwise"
    );
    assert!(text(control.create_network(network("c", "fd00::/64")).await).contains("needs IPv6 enabled"));
    assert!(text(control.create_network(network("host", "")).await).contains("reserved"));
    let ingress = |name: &str| NetworkSpec {
        ingress: true,
        ipv6_enabled: true,
        ..network(name, "")
    };
    control.create_network(ingress("ingress")).await.unwrap();
    assert_eq!(
        text(control.create_network(ingress("two")).await),
        "ingress network (ingress) is already present"
    );
}

#[tokio::test]
async fn secrets_and_configs_in_use_stay_and_name_their_users() {
    let control = control();
    let data = SecretSpec {
        name: "key".into(),
        data: "Zm9v".into(),
        ..SecretSpec::default()
    };
    let secret = control.create_secret(data).await.unwrap();
    let data = ConfigSpec {
        name: "conf".into(),
        data: "Zm9v".into(),
        ..ConfigSpec::default()
    };
    let config = control.create_config(data).await.unwrap();
    let file = Some(FileTarget {
        name: "f".into(),
        ..FileTarget::default()
    });
    for name in ["web", "db"] {
        let mut user = spec(name);
        container(&mut user).secrets = vec![SecretReference {
            file: file.clone(),
            secret_id: secret.clone(),
            secret_name: "key".into(),
        }];
        container(&mut user).configs = vec![ConfigReference {
            file: Some(FileTarget {
                name: "c".into(),
                ..FileTarget::default()
            }),
            config_id: config.clone(),
            config_name: "conf".into(),
            runtime: None,
        }];
        control.create_service(user).await.unwrap();
    }
    let held = text(control.remove_secret("key", HeldBy::Specs).await);
    assert!(
        held.starts_with("secret 'key' is in use by the following services: "),
        "{held}"
    );
    assert!(held.contains("web") && held.contains("db"), "{held}");
    control.remove_service("db").await.unwrap();
    assert_eq!(
        text(control.remove_config("conf", HeldBy::Specs).await),
        "config 'conf' is in use by the following service: web"
    );
    control.remove_service("web").await.unwrap();
    control.remove_secret("key", HeldBy::Specs).await.unwrap();
    control.remove_config("conf", HeldBy::Specs).await.unwrap();

    let mut orphan = spec("orphan");
    container(&mut orphan).secrets = vec![SecretReference {
        file,
        secret_id: secret,
        secret_name: "key".into(),
    }];
    assert_eq!(text(control.create_service(orphan).await), "secret key not found");
}

#[tokio::test]
async fn a_secret_never_gives_its_content_away_and_only_its_labels_change() {
    let control = control();
    let data = SecretSpec {
        name: "key".into(),
        data: "Zm9v".into(),
        ..SecretSpec::default()
    };
    control.create_secret(data.clone()).await.unwrap();
    let secret = control.secret("key").unwrap();
    assert!(
        secret.spec.data.is_empty() && control.secrets().iter().all(|secret| secret.spec.data.is_empty())
    );
    let version = secret.meta.version.index;
    let other = SecretSpec {
        data: "YmFy".into(),
        ..data.clone()
    };
    assert_eq!(
        text(control.update_secret("key", version, other).await),
        "only updates to Labels are allowed"
    );
    let mut labelled = secret.spec.clone();
    labelled.labels.insert("a".into(), "b".into());
    assert_eq!(
        text(control.update_secret("key", version + 1, labelled.clone()).await),
        "update out of sequence"
    );
    control.update_secret("key", version, labelled).await.unwrap();
    let kept = control
        .store
        .view(|tx| tx.by_name::<proto::Secret>("key"))
        .unwrap();
    assert_eq!(
        (kept.spec.data.as_str(), kept.spec.labels["a"].as_str()),
        ("Zm9v", "b")
    );
}

#[tokio::test]
async fn the_last_manager_stays_and_a_present_node_is_not_removed() {
    let control = control();
    let mut manager = Node {
        id: "m".into(),
        ..Node::default()
    };
    manager.spec.role = NodeRole::Manager;
    manager.manager_status = Some(proto::object::ManagerStatus::default());
    let mut worker = Node {
        id: "w".into(),
        ..Node::default()
    };
    worker.status.state = NodeState::Ready;
    control.store.update(|tx| tx.create(manager)).await.unwrap();
    control.store.update(|tx| tx.create(worker)).await.unwrap();
    let version = control.node("m").unwrap().meta.version.index;
    let demoted = control.update_node("m", version, NodeSpec::default()).await;
    assert_eq!(
        text(demoted),
        "attempting to demote the last manager of the swarm"
    );
    assert!(text(control.remove_node("m", true).await).contains("must be demoted"));
    assert_eq!(
        text(control.remove_node("w", false).await),
        "node w is not down and can't be removed"
    );
    let task = Task {
        id: "t".into(),
        node_id: "w".into(),
        ..Task::default()
    };
    control.store.update(|tx| tx.create(task)).await.unwrap();
    control.remove_node("w", true).await.unwrap();
    assert_eq!(control.task("t").unwrap().status.state, TaskState::Orphaned);
    assert_eq!(text(control.node("w")), "node w not found");
}

#[tokio::test]
async fn rotating_a_token_keeps_the_other() {
    let control = control();
    let token = || crate::ca::JoinToken::generate(b"root").to_string();
    let mut cluster = Cluster {
        id: "c".into(),
        ..Cluster::default()
    };
    cluster.join_tokens = proto::object::JoinTokens {
        worker: token().into(),
        manager: token().into(),
    };
    control.store.update(|tx| tx.create(cluster)).await.unwrap();
    let before = control.cluster().unwrap();
    let rotate = Rotate {
        worker_token: true,
        ..Rotate::default()
    };
    let after = control
        .update_cluster(before.meta.version.index, before.spec.clone(), rotate)
        .await
        .unwrap();
    assert_ne!(after.join_tokens.worker, before.join_tokens.worker);
    assert_eq!(after.join_tokens.manager, before.join_tokens.manager);
    let stale = control
        .update_cluster(before.meta.version.index, ClusterSpec::default(), rotate)
        .await;
    assert_eq!(text(stale), "update out of sequence");
}
