//! What is refused, in which words; and that a refusal changes nothing.

use proto::object::{NodeState, UpdateState};
use proto::spec::placement_labels::{AFFINITY, STRATEGY};
use proto::spec::{
    ClusterSpec, ConfigReference, ContainerSpec, EndpointMode, EndpointSpec, FileTarget, IpamConfig,
    IpamOptions, NetworkAttachmentConfig, NodeRole, Placement, PortConfig, PublishMode, SecretReference,
    ServiceMode,
};
use proto::{Cluster, ConfigSpec, Network, NetworkSpec, Node, NodeSpec, SecretSpec, ServiceSpec, TaskState};

use super::*;
use crate::state::Kind;

fn control() -> Control {
    Control::new(Store::in_memory())
}

fn spec(name: &str) -> ServiceSpec {
    let mut spec = ServiceSpec {
        name: name.into(),
        ..ServiceSpec::default()
    };
    spec.task_template.container_spec = Some(ContainerSpec {
        image: "bb".into(),
        ..ContainerSpec::default()
    });
    spec
}

fn container(spec: &mut ServiceSpec) -> &mut ContainerSpec {
    spec.task_template.container_spec.as_mut().unwrap()
}

fn publishing(name: &str, port: u16, mode: PublishMode) -> ServiceSpec {
    let port = PortConfig {
        target_port: 80,
        published_port: port,
        publish_mode: mode,
        ..PortConfig::default()
    };
    let endpoint_spec = Some(EndpointSpec {
        ports: vec![port],
        ..EndpointSpec::default()
    });
    ServiceSpec {
        endpoint_spec,
        ..spec(name)
    }
}

fn network(name: &str, subnet: &str) -> NetworkSpec {
    let config = IpamConfig {
        subnet: subnet.into(),
        ..IpamConfig::default()
    };
    let ipam = (!subnet.is_empty()).then(|| IpamOptions {
        configs: vec![config],
        ..IpamOptions::default()
    });
    NetworkSpec {
        name: name.into(),
        ipam_options: ipam,
        ..NetworkSpec::default()
    }
}

/// Makes a good spec a bad one.
type Spoil = fn(&mut ServiceSpec);

fn text<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().to_string()
}

#[tokio::test]
async fn a_service_is_found_by_identifier_name_and_unique_beginning() {
    let control = control();
    let web = control.create_service(spec("web")).await.unwrap();
    control.create_service(spec("db")).await.unwrap();
    for reference in [web.id.as_str(), "web", &web.id.as_str()[..20]] {
        assert_eq!(control.service(reference).unwrap().id, web.id);
    }
    assert_eq!(text(control.service("nosuch")), "service nosuch not found");
    assert_eq!(text(control.service("")), "service  not found");
    assert_eq!(control.service("nosuch").unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_ambiguous_beginning_is_refused() {
    let control = control();
    for id in ["abc1", "abc2"] {
        control
            .store
            .update(|tx| {
                tx.create(Node {
                    id: id.into(),
                    ..Node::default()
                })
            })
            .await
            .unwrap();
    }
    assert_eq!(
        text(control.node("abc")),
        "node abc is ambiguous (2 matches found)"
    );
}

#[tokio::test]
async fn a_name_is_given_once() {
    let control = control();
    control.create_service(spec("web")).await.unwrap();
    let twin = control.create_service(spec("web")).await.unwrap_err();
    assert_eq!(
        twin.to_string(),
        "name conflicts with an existing object: service web already exists"
    );
    assert_eq!(twin.kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn an_update_keeps_the_spec_before_and_a_rollback_swaps_them() {
    let control = control();
    let first = control.create_service(spec("web")).await.unwrap();
    assert_eq!(
        text(control.rollback_service("web", first.meta.version.index).await),
        "service web does not have a previous spec"
    );
    let mut changed = spec("web");
    container(&mut changed).image = "new".into();
    let second = control
        .update_service("web", first.meta.version.index, changed.clone())
        .await
        .unwrap();
    assert_eq!(
        (second.spec == changed, second.previous_spec.as_deref()),
        (true, Some(&first.spec))
    );
    assert_ne!(second.spec_version, first.spec_version);

    let stale = control
        .update_service("web", first.meta.version.index, changed.clone())
        .await;
    assert_eq!(text(stale), "update out of sequence");
    let back = control
        .rollback_service("web", second.meta.version.index)
        .await
        .unwrap();
    assert_eq!(
        (&back.spec, back.previous_spec.as_deref()),
        (&first.spec, Some(&changed))
    );
    assert_eq!(back.spec_version, first.spec_version);
    assert_eq!(
        back.update_status.as_ref().unwrap().state,
        UpdateState::RollbackStarted
    );
}

#[tokio::test]
async fn a_service_goes_back_to_any_version_that_is_kept() {
    let control = control();
    let mut service = control.create_service(spec("web")).await.unwrap();
    let first = service.spec.clone();
    for image in ["two", "three"] {
        let mut changed = service.spec.clone();
        container(&mut changed).image = image.into();
        let version = service.meta.version.index;
        service = control.update_service("web", version, changed).await.unwrap();
    }
    let numbers = |control: &Control| {
        let (present, kept) = control.service_history("web").unwrap();
        let numbers: Vec<u64> = kept.iter().map(|kept| kept.number).collect();
        (present, numbers)
    };
    assert_eq!(numbers(&control), (3, vec![3, 2, 1]));
    let version = service.meta.version.index;
    assert_eq!(
        text(control.rollback_service_to("web", version, 7).await),
        "service web has no version 7 to go back to: kept are 1, 2"
    );
    assert_eq!(
        text(control.rollback_service_to("web", version, 3).await),
        "service web has version 3 already"
    );
    assert_eq!(
        text(control.rollback_service_to("web", version - 1, 1).await),
        "update out of sequence"
    );
    let back = control.rollback_service_to("web", version, 1).await.unwrap();
    assert_eq!((&back.spec, numbers(&control)), (&first, (1, vec![3, 2, 1])));
    assert_eq!(
        back.update_status.as_ref().unwrap().message,
        "manually requested rollback to version 1"
    );
}

#[tokio::test]
async fn names_and_modes_of_services_never_change() {
    let control = control();
    let version = control
        .create_service(spec("web"))
        .await
        .unwrap()
        .meta
        .version
        .index;
    let renamed = control.update_service("web", version, spec("other")).await;
    assert_eq!(text(renamed), "renaming services is not supported");
    let global = ServiceSpec {
        mode: ServiceMode::global(),
        ..spec("web")
    };
    assert_eq!(
        text(control.update_service("web", version, global).await),
        "service mode change is not allowed"
    );
    let scaled = ServiceSpec {
        mode: ServiceMode::replicated(5),
        ..spec("web")
    };
    assert!(control.update_service("web", version, scaled).await.is_ok());
}

#[tokio::test]
async fn a_published_port_belongs_to_one_service() {
    let control = control();
    let web = control
        .create_service(publishing("web", 8080, PublishMode::Ingress))
        .await
        .unwrap();
    let taken = format!("port '8080' is already in use by service 'web' ({})", web.id);
    for mode in [PublishMode::Ingress, PublishMode::Host] {
        assert_eq!(
            text(control.create_service(publishing("other", 8080, mode)).await),
            taken
        );
    }
    // The service itself may keep it.
    let again = publishing("web", 8080, PublishMode::Ingress);
    assert!(
        control
            .update_service("web", web.meta.version.index, again)
            .await
            .is_ok()
    );
    // On the nodes themselves the scheduler keeps services apart.
    for name in ["host1", "host2"] {
        control
            .create_service(publishing(name, 9090, PublishMode::Host))
            .await
            .unwrap();
    }
    let mut udp = publishing("udp", 8080, PublishMode::Ingress);
    udp.endpoint_spec.as_mut().unwrap().ports[0].protocol = proto::spec::PortProtocol::Udp;
    assert!(control.create_service(udp).await.is_ok());
}

#[tokio::test]
async fn specs_that_make_no_sense_are_refused() {
    let control = control();
    let refusals: [(&str, Spoil); 16] = [
        ("DNS name", |spec| spec.name = "a.b".into()),
        ("DNS name", |spec| spec.name = "../etc".into()),
        ("63 characters", |spec| spec.name = "a".repeat(64)),
        ("image reference must be provided", |spec| {
            container(spec).image.clear()
        }),
        ("missing runtime", |spec| spec.task_template.container_spec = None),
        ("restart-delay", |spec| {
            spec.task_template.restart_policy.get_or_insert_default().delay = Some(-1)
        }),
        ("maxfailureratio", |spec| {
            spec.update_config.get_or_insert_default().max_failure_ratio = 1.5
        }),
        ("at least 4MiB", |spec| {
            let resources = spec.task_template.resources.get_or_insert_default();
            resources.limits.get_or_insert_default().memory_bytes = 1024;
        }),
        ("duplicate mount point: /data", |spec| {
            let mount = |target: &str| proto::spec::Mount {
                target: target.into(),
                ..Default::default()
            };
            container(spec).mounts = vec![mount("/data/"), mount("/data")];
        }),
        ("absolute path", |spec| {
            container(spec).mounts = vec![proto::spec::Mount {
                target: "data".into(),
                ..Default::default()
            }];
        }),
        ("invalid argument for resource GPU", |spec| {
            let resources = spec.task_template.resources.get_or_insert_default();
            let named = proto::spec::NamedResource {
                kind: "GPU".into(),
                value: "UUID1".into(),
            };
            let things = &mut resources.reservations.get_or_insert_default().generic_resources;
            things.push(proto::spec::GenericResource {
                named_resource_spec: Some(named),
                ..Default::default()
            });
        }),
        ("label shoal.placement.strategy: unknown value \"x\"", |spec| {
            spec.labels.insert(STRATEGY.into(), "x".into());
        }),
        (
            "label shoal.placement.affinity: web is the service itself",
            |spec| {
                spec.labels.insert(AFFINITY.into(), "db,web".into());
            },
        ),
        (
            "label shoal.placement.affinity: web is the service itself",
            |spec| {
                spec.name = "shop_web".into();
                spec.labels
                    .insert("com.docker.stack.namespace".into(), "shop".into());
                spec.labels.insert(AFFINITY.into(), "web".into());
            },
        ),
        ("constraint", |spec| {
            let constraints = vec!["node.role=manager".into()];
            spec.task_template.placement = Some(Placement {
                constraints,
                ..Placement::default()
            });
        }),
        ("dnsrr", |spec| {
            *spec = publishing("web", 80, PublishMode::Ingress);
            spec.endpoint_spec.as_mut().unwrap().mode = EndpointMode::Dnsrr;
        }),
    ];
    for (expected, spoil) in refusals {
        let mut bad = spec("web");
        spoil(&mut bad);
        let error = control.create_service(bad).await.unwrap_err();
        assert!(
            error.to_string().contains(expected),
            "{error} should say {expected}"
        );
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    assert!(control.services().is_empty());
}

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
    assert!(text(control.create_network(network("c", "fd00::/64")).await).contains("not an IPv4 subnet"));
    assert!(text(control.create_network(network("host", "")).await).contains("reserved"));
    let ingress = |name: &str| NetworkSpec {
        ingress: true,
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

#[tokio::test]
async fn counts_of_tasks_are_those_that_run_and_shall_run() {
    let control = control();
    let web = control
        .create_service(ServiceSpec {
            mode: ServiceMode::replicated(3),
            ..spec("web")
        })
        .await
        .unwrap();
    for (id, state, desired) in [
        ("a", TaskState::Running, TaskState::Running),
        ("b", TaskState::Running, TaskState::Shutdown),
        ("c", TaskState::Starting, TaskState::Running),
    ] {
        let mut task = Task {
            id: id.into(),
            service_id: web.id.clone(),
            desired_state: desired,
            ..Task::default()
        };
        task.status.state = state;
        control.store.update(|tx| tx.create(task)).await.unwrap();
    }
    let status = control.service_status(&web);
    assert_eq!((status.running_tasks, status.desired_tasks), (1, 3));
    assert_eq!(
        text(control.task("nosuch")),
        format!("{} nosuch not found", Kind::Task)
    );
}
