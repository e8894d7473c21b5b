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

mod objects;

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
async fn a_job_runs_again_after_an_update_or_a_rollback_and_has_no_update_status() {
    let modes = [
        ServiceMode {
            replicated_job: Some(Default::default()),
            ..ServiceMode::default()
        },
        ServiceMode {
            global_job: Some(Default::default()),
            ..ServiceMode::default()
        },
    ];
    for mode in modes {
        let control = control();
        let mut job = ServiceSpec { mode, ..spec("job") };
        let first = control.create_service(job.clone()).await.unwrap();
        container(&mut job).image = "new".into();
        let version = first.meta.version.index;
        let second = control.update_service("job", version, job).await.unwrap();
        assert_eq!(second.update_status, None);
        let version = second.meta.version.index;
        let back = control.rollback_service("job", version).await.unwrap();
        assert_eq!((&back.spec, &back.update_status), (&first.spec, &None));
        let version = back.meta.version.index;
        let forth = control.rollback_service_to("job", version, 2).await.unwrap();
        assert_eq!((&forth.spec, &forth.update_status), (&second.spec, &None));
        let iteration = |job: &Service| job.job_status.as_ref().map(|status| status.job_iteration.index);
        let iterations = [&first, &second, &back, &forth].map(|job| iteration(job));
        assert_eq!(iterations, [0, 1, 2, 3].map(Some), "each time it runs again");
    }
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
    let refusals: [(&str, Spoil); 17] = [
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
        ("label shoal.bogus: there is no such setting", |spec| {
            spec.labels.insert("shoal.bogus".into(), "xx".into());
        }),
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
