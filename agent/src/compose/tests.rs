//! Whole files: what they become, and what is said of wrong ones.

mod extends;
mod folder;
mod include;

use std::path::Path;

use proto::spec::{MountType, RestartCondition, UpdateOrder};

use super::{Loaded, Variables, load_texts, plan};

fn load(text: &str) -> Result<Loaded, String> {
    let variables = Variables::from([("TAG".to_owned(), "2".to_owned())]);
    load_texts(&[(Path::new("stack.yml"), text)], &variables).map_err(|error| error.to_string())
}

fn error(text: &str) -> String {
    load(text)
        .map(|loaded| format!("loaded: {loaded:?}"))
        .unwrap_err()
}

const STACK: &str = r#"
services:
  db:
    image: "db:${TAG}"
    volumes: ["data:/var/lib/db", "./conf:/etc/db:ro", "/anonymous"]
    healthcheck: {test: "pg_isready", interval: 1s, retries: 5}
    restart: on-failure:3
    secrets: [password]
  app:
    image: app
    entrypoint: /start.sh --fast
    command: ["serve", "80"]
    environment: {A: 1, B: "two", C: null}
    depends_on: {db: {condition: service_healthy}}
    ports: ["8080:80", {target: 53, published: 53, protocol: udp, mode: host}]
    networks: {back: {aliases: [api]}}
    deploy:
      replicas: 3
      labels: {team: x}
      update_config: {order: start-first, parallelism: 2}
      resources: {limits: {cpus: "0.5", memory: 64m}}
networks:
  back: {internal: true}
volumes:
  data: {labels: {keep: "yes"}}
secrets:
  password: {content: "hidden"}
"#;

#[test]
fn a_stack_becomes_specs() {
    let loaded = load(STACK).unwrap();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let plan = plan(&loaded.stack, "shop");
    let names: Vec<_> = plan
        .services
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    assert_eq!(names, ["shop_db", "shop_app"]);
    let networks: Vec<_> = plan
        .networks
        .iter()
        .map(|network| network.name.as_str())
        .collect();
    assert_eq!(networks, ["shop_back", "shop_default"]);
    assert_eq!(
        (plan.secrets[0].name.as_str(), plan.secrets[0].data.as_str()),
        ("shop_password", "aGlkZGVu")
    );

    let db = plan.services[0].task_template.container_spec.clone().unwrap();
    assert_eq!(db.image, "db:2");
    let mounts: Vec<_> = db
        .mounts
        .iter()
        .map(|mount| (mount.kind, mount.source.as_str()))
        .collect();
    assert_eq!(mounts[0], (MountType::Volume, "shop_data"));
    assert_eq!(mounts[1].0, MountType::Bind);
    assert_eq!(mounts[2], (MountType::Volume, ""));
    assert_eq!(
        db.mounts[0].volume_options.as_ref().unwrap().labels["com.docker.stack.namespace"],
        "shop"
    );
    assert_eq!(db.healthcheck.unwrap().test, ["CMD-SHELL", "pg_isready"]);
    assert_eq!(db.secrets[0].file.as_ref().unwrap().name, "password");
    let restart = plan.services[0].task_template.restart_policy.clone().unwrap();
    assert_eq!(
        (restart.condition, restart.max_attempts),
        (RestartCondition::OnFailure, Some(3))
    );
}

#[test]
fn a_service_keeps_all_that_its_keys_say() {
    let plan = plan(&load(STACK).unwrap().stack, "shop");
    let app = &plan.services[1];
    let container = app.task_template.container_spec.as_ref().unwrap();
    assert_eq!(container.command, ["/start.sh", "--fast"]);
    assert_eq!(container.args, ["serve", "80"]);
    assert_eq!(container.env, ["A=1", "B=two"]);
    assert_eq!(app.labels["shoal.depends_on"], r#"{"shop_db":"service_healthy"}"#);
    assert_eq!(app.labels["com.docker.stack.image"], "app");
    assert_eq!(app.mode.replicas(), Some(3));
    assert_eq!(app.update_config.as_ref().unwrap().order, UpdateOrder::StartFirst);
    let network = &app.task_template.networks[0];
    assert_eq!(
        (network.target.as_str(), network.aliases.as_slice()),
        ("shop_back", &["api".to_owned(), "app".to_owned()][..])
    );
    let limits = app
        .task_template
        .resources
        .as_ref()
        .unwrap()
        .limits
        .as_ref()
        .unwrap();
    assert_eq!((limits.nano_cpus, limits.memory_bytes), (500_000_000, 64 << 20));
    assert_eq!(app.endpoint_spec.as_ref().unwrap().ports.len(), 2);
}

#[test]
fn placement_beyond_docker_becomes_labels() {
    let text = "services:\n  a:\n    image: x\n    deploy:\n      placement:\n        constraints: [node.role==worker]\n        \
                x-strategy: binpack\n        x-affinity: db\n        x-anti-affinity: [web, other_api]\n";
    let plan = plan(&load(text).unwrap().stack, "shop");
    let (labels, task) = (&plan.services[0].labels, &plan.services[0].task_template);
    assert_eq!(labels["shoal.placement.strategy"], "binpack");
    assert_eq!(labels["shoal.placement.affinity"], "db");
    assert_eq!(labels["shoal.placement.anti-affinity"], "web,other_api");
    assert_eq!(
        task.placement.as_ref().unwrap().constraints,
        ["node.role==worker"]
    );
    let wrong = |line: &str| {
        error(&format!(
            "services: {{a: {{image: x, deploy: {{placement: {{{line}}}}}}}}}"
        ))
    };
    let refused = wrong("x-strategy: tetris");
    assert!(
        refused.contains("deploy.placement.x-strategy: unknown value \"tetris\""),
        "{refused}"
    );
    let refused = wrong("x-affinity: a/b");
    assert!(
        refused.contains("\"a/b\" is not the name of a service"),
        "{refused}"
    );
}

#[test]
fn a_key_that_is_not_acted_on_is_named() {
    let loaded = load("services:\n  a:\n    image: x\n    privileged: true\n").unwrap();
    assert_eq!(
        loaded.warnings,
        ["stack.yml:4:17: services.a.privileged: not acted on in a stack"]
    );
}

#[test]
fn wrong_files_are_refused_with_place_and_path() {
    let service = |lines: &str| format!("services:\n  a:\n    image: x\n    {lines}\n");
    for (text, expected) in [
        (
            "services:\n  a: {}\n".to_owned(),
            "stack.yml:2:6: services.a: the service has neither image nor build",
        ),
        (
            "nets: {}\nservices: {}".to_owned(),
            "stack.yml:1:7: nets: the key \"nets\" is not known here",
        ),
        (
            service("imagee: y"),
            "services.a.imagee: the key \"imagee\" is not known here",
        ),
        (
            service("ports: 80"),
            "services.a.ports: this must be a list, but it is a number",
        ),
        (service("ports: [x]"), "services.a.ports[0]: \"x\" is not a port"),
        (
            service("command: {a: b}"),
            "services.a.command: this must be text, but it is a mapping",
        ),
        (
            service("deploy: {replicas: many}"),
            "services.a.deploy.replicas: this must be a whole number",
        ),
        (
            service("deploy: {restart_policy: {condition: x}}"),
            "it must be one of none, on-failure, any",
        ),
        (
            service("volumes: [data:/d]"),
            "the volume \"data\" is not among the file's volumes",
        ),
        (
            service("networks: [n]"),
            "the network \"n\" is not among the file's networks",
        ),
        (service("depends_on: [b]"), "depends_on names \"b\""),
        (service("depends_on: [a]"), "goes in a circle"),
        (
            service("env_file: missing.env"),
            "services.a.env_file: cannot read env file",
        ),
        (service("image: y"), "stands here twice"),
        (
            service("extends: b"),
            "services.a.extends: the service \"b\" is not among the services of stack.yml",
        ),
        (service("volumes_from: [b]"), "volumes_from is not built"),
        (
            service("environment: ['${NO:?set it}']"),
            "services.a.environment[0]: the variable NO is not set: set it",
        ),
        (
            format!("{}volumes:\n  ../x: {{}}\n", service("")),
            "is not a name",
        ),
        (
            format!("{}volumes:\n  d: {{name: a..b}}\n", service("")),
            "is not a name",
        ),
    ] {
        let found = error(&text);
        assert!(
            found.contains(expected) && found.starts_with("stack.yml:"),
            "{text}\n  {found}\n  {expected}"
        );
    }
}

#[test]
fn a_second_file_lies_over_the_first() {
    let over = "services:\n  app: {image: other, command: [x], environment: {B: three}}\n";
    let sources = [(Path::new("a.yml"), STACK), (Path::new("b.yml"), over)];
    let loaded = load_texts(&sources, &Variables::from([("TAG".to_owned(), "2".to_owned())])).unwrap();
    let app = loaded
        .stack
        .services
        .iter()
        .find(|service| service.key == "app")
        .unwrap();
    assert_eq!(
        (app.container.image.as_str(), app.container.args.as_slice()),
        ("other", &["x".to_owned()][..])
    );
    assert_eq!(app.container.env, ["A=1", "B=three"]);
}

#[test]
fn profiles_switch_services() {
    let text = "services:\n  a: {image: x}\n  b: {image: x, profiles: [debug]}\n";
    assert_eq!(load(text).unwrap().stack.services.len(), 1);
    let on = Variables::from([("COMPOSE_PROFILES".to_owned(), "debug".to_owned())]);
    assert_eq!(
        load_texts(&[(Path::new("s.yml"), text)], &on)
            .unwrap()
            .stack
            .services
            .len(),
        2
    );
}

#[test]
fn keys_beyond_docker_s_become_labels() {
    let with = |deploy: &str| format!("services:\n  web:\n    image: web\n    deploy: {{{deploy}}}\n");
    let text = with(
        "labels: {team: x}, rebalance: off, fencing: 15s, drain: {order: start-first, deadline: 2m}, \
         restart_policy: {delay: 1s, max_delay: 1m}, update_config: {progress_deadline: 30s}",
    );
    let loaded = load(&text).unwrap();
    let spec = &plan(&loaded.stack, "shop").services[0];
    let label = |name: &str| spec.labels.get(name).map(String::as_str);
    assert_eq!(label("team"), Some("x"));
    assert_eq!(label("shoal.rebalance"), Some("off"));
    assert_eq!(label("shoal.fencing.lease"), Some("15s"));
    assert_eq!(label("shoal.drain.order"), Some("start-first"));
    assert_eq!(label("shoal.drain.deadline"), Some("2m"));
    assert_eq!(label("shoal.restart.max-delay"), Some("1m"));
    assert_eq!(label("shoal.update.progress-deadline"), Some("30s"));

    let wrong = error(&with("restart_policy: {max_delay: soon}"));
    assert!(
        wrong.contains("restart_policy.max_delay") && wrong.contains("a duration"),
        "{wrong}"
    );
    assert!(error(&with("rollback_config: {progress_deadline: 30s}")).contains("progress_deadline"));
}
