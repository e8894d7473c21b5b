//! Who holds a secret or config.

use proto::spec::{ConfigReference, ContainerSpec, FileTarget};

use proto::{ConfigId, ConfigSpec, ServiceSpec, Task, TaskState};

use super::*;

async fn config(control: &Control, name: &str) -> ConfigId {
    let spec = ConfigSpec {
        name: name.into(),
        data: "Zm9v".into(),
        ..ConfigSpec::default()
    };
    control.create_config(spec).await.unwrap()
}

fn using(config: &ConfigId) -> ServiceSpec {
    let used = ConfigReference {
        config_id: config.clone(),
        config_name: "c".into(),
        file: Some(FileTarget {
            name: "f".into(),
            ..FileTarget::default()
        }),
        ..ConfigReference::default()
    };
    let mut spec = ServiceSpec {
        name: "web".into(),
        ..ServiceSpec::default()
    };
    spec.task_template.container_spec = Some(ContainerSpec {
        image: "bb".into(),
        configs: vec![used],
        ..ContainerSpec::default()
    });
    spec
}

async fn unused(control: &Control, id: &ConfigId) -> std::result::Result<(), String> {
    let removed = control.remove_config(id.as_str(), HeldBy::Anyone).await;
    removed.map_err(|error| error.to_string())
}

async fn update_to(control: &Control, config: &ConfigId, number: usize) {
    let mut spec = using(config);
    spec.labels.insert("number".into(), number.to_string());
    let version = control.service("web").unwrap().meta.version.index;
    let updated = control.update_service("web", version, spec).await;
    updated.unwrap();
}

#[tokio::test]
async fn what_a_service_can_go_back_to_is_not_unused() {
    let control = Control::new(Store::in_memory());
    let mut versions = Vec::new();
    for name in ["c", "c-2", "c-3"] {
        versions.push(config(&control, name).await);
    }
    control.create_service(using(&versions[0])).await.unwrap();
    // More than a service keeps, each with a spec of its own.
    let further = versions[1..].iter().cycle().take(2 * crate::history::MOST_SPECS);
    for (number, next) in further.enumerate() {
        if number >= 2 {
            update_to(&control, next, number).await;
            continue;
        }
        let held = unused(&control, &versions[0]).await.unwrap_err();
        assert_eq!(held, "config 'c' is in use by the following service: web");
        update_to(&control, next, number).await;
    }
    assert!(
        unused(&control, &versions[1]).await.is_err(),
        "the previous spec has it"
    );
    unused(&control, &versions[0]).await.unwrap();
    let asked = control.remove_config("c-2", HeldBy::Specs).await;
    asked.expect("a user may remove what only a rollback needs, as with Docker");
}

#[tokio::test]
async fn a_task_that_has_not_ended_holds_what_it_reads() {
    let control = Control::new(Store::in_memory());
    let id = config(&control, "c").await;
    let mut task = Task {
        id: "t".into(),
        service_name: "web".into(),
        slot: 1,
        spec: using(&id).task_template.into(),
        desired_state: TaskState::Running,
        ..Task::default()
    };
    task.status.state = TaskState::Running;
    control.store.update(|tx| tx.create(task)).await.unwrap();
    let held = unused(&control, &id).await.unwrap_err();
    assert_eq!(held, "config 'c' is in use by the following task: web.1.t");
    let end = |task: &mut Task| task.desired_state = TaskState::Shutdown;
    control.store.update(|tx| tx.modify("t", end)).await.unwrap();
    unused(&control, &id).await.unwrap();
}

#[tokio::test]
async fn an_update_that_says_nothing_new_writes_nothing() {
    let control = Control::new(Store::in_memory());
    config(&control, "c").await;
    let before = control.config("c").unwrap();
    let version = before.meta.version.index;
    let mut spec = before.spec.clone();
    control.update_config("c", version, spec.clone()).await.unwrap();
    assert_eq!(control.config("c").unwrap().meta, before.meta);
    spec.data = "YmFy".into();
    assert!(control.update_config("c", version, spec).await.is_err());
}
