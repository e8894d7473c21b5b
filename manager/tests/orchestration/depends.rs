//! Services that wait for others: the label `shoal.depends_on`.

use std::time::Duration;

use proto::{ServiceSpec, TaskState};
use tokio::time::sleep;

use super::harness::{Cluster, service, set_image, settle};

fn depends(mut spec: ServiceSpec, on: &str) -> ServiceSpec {
    spec.labels.insert("shoal.depends_on".into(), on.into());
    spec
}

fn says(cluster: &Cluster, name: &str, text: &str) {
    for task in cluster.tasks(name) {
        assert_eq!(task.status.state, TaskState::Pending);
        assert_eq!(task.status.message, text);
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_waits_until_the_other_is_healthy() {
    let cluster = Cluster::of(1).await;
    cluster
        .create(depends(
            service("web", "app", 2),
            r#"{"store":"service_healthy"}"#,
        ))
        .await;
    says(
        &cluster,
        "web",
        "waiting for store (service_healthy): no such service",
    );
    cluster.create(service("store", "slow", 1)).await;
    says(&cluster, "web", "waiting for store (service_healthy)");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(cluster.tasks("store")[0].status.state, TaskState::Starting);
    says(&cluster, "web", "waiting for store (service_healthy)");
    sleep(Duration::from_secs(6)).await;
    assert_eq!(cluster.slots("web"), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn started_is_less_than_healthy() {
    let cluster = Cluster::of(1).await;
    cluster
        .create(depends(
            service("web", "app", 1),
            r#"{"store":"service_started"}"#,
        ))
        .await;
    cluster.create(service("store", "sick", 1)).await;
    assert_eq!(cluster.slots("web"), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_service_waits_until_the_other_has_ended_well() {
    let cluster = Cluster::of(1).await;
    let label = r#"{"migrate":"service_completed_successfully","cache":"service_started"}"#;
    cluster.create(depends(service("web", "app", 1), label)).await;
    let once = proto::spec::RestartPolicy {
        condition: proto::spec::RestartCondition::OnFailure,
        ..Default::default()
    };
    cluster
        .create(super::harness::restart(service("migrate", "once", 1), once))
        .await;
    says(
        &cluster,
        "web",
        "waiting for cache (service_started): no such service, migrate (service_completed_successfully)",
    );
    cluster.create(service("cache", "app", 1)).await;
    says(
        &cluster,
        "web",
        "waiting for migrate (service_completed_successfully)",
    );
    sleep(Duration::from_secs(3)).await;
    assert_eq!(cluster.slots("web"), [1]);

    // To write the same again asks for nothing new; another image does.
    cluster
        .update("migrate", |spec| drop(spec.labels.insert("a".into(), "b".into())))
        .await;
    cluster.update("web", |spec| set_image(spec, "app:2")).await;
    settle().await;
    assert_eq!(cluster.images("web"), ["app:2"]);
    cluster.update("migrate", |spec| set_image(spec, "once:2")).await;
    cluster.update("web", |spec| set_image(spec, "app:3")).await;
    sleep(Duration::from_secs(1)).await;
    let newest = cluster.tasks("web").pop().unwrap();
    assert_eq!(
        newest.status.message,
        "waiting for migrate (service_completed_successfully)"
    );
    sleep(Duration::from_secs(3)).await;
    assert_eq!(cluster.images("web"), ["app:3"]);
}

#[tokio::test(start_paused = true)]
async fn a_label_that_cannot_be_read_is_explained_and_can_be_mended() {
    let cluster = Cluster::of(1).await;
    let spec = depends(service("web", "app", 1), r#"{"store":"soon"}"#);
    cluster.plant(spec).await;
    let message = cluster.tasks("web")[0].status.message.clone();
    assert!(
        message.starts_with("cannot read the label shoal.depends_on: "),
        "{message}"
    );
    cluster
        .update("web", |spec| {
            spec.labels.clear();
            set_image(spec, "app:2");
        })
        .await;
    settle().await;
    assert_eq!(cluster.slots("web"), [1]);
}
