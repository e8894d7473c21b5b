//! How many tasks a service has and where: replicated, global, and jobs.

use proto::spec::ServiceMode;

use super::harness::{Cluster, add_node, service, settle};

#[tokio::test(start_paused = true)]
async fn a_service_gets_its_replicas_and_follows_its_number() {
    let cluster = Cluster::of(3).await;
    cluster.create(service("web", "app", 6)).await;
    assert_eq!(cluster.slots("web"), [1, 2, 3, 4, 5, 6]);
    assert_eq!(
        cluster.spread("web"),
        [("n1".into(), 2), ("n2".into(), 2), ("n3".into(), 2)]
    );
    let before = cluster.running("web");

    cluster
        .update("web", |spec| spec.mode = ServiceMode::replicated(8))
        .await;
    settle().await;
    assert_eq!(cluster.slots("web"), [1, 2, 3, 4, 5, 6, 7, 8]);
    let after: Vec<_> = cluster
        .running("web")
        .iter()
        .map(|task| task.id.clone())
        .collect();
    assert!(
        before.iter().all(|task| after.contains(&task.id)),
        "a new number restarts nothing"
    );
    assert_eq!(cluster.update_status("web"), None, "a new number is no update");

    cluster
        .update("web", |spec| spec.mode = ServiceMode::replicated(3))
        .await;
    settle().await;
    assert_eq!(
        cluster.spread("web"),
        [("n1".into(), 1), ("n2".into(), 1), ("n3".into(), 1)]
    );

    cluster
        .update("web", |spec| spec.mode = ServiceMode::replicated(0))
        .await;
    cluster
        .until("all tasks are reaped", |cluster| cluster.tasks("web").is_empty())
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_removed_service_leaves_no_tasks() {
    let cluster = Cluster::of(1).await;
    let web = cluster.create(service("web", "app", 3)).await;
    cluster.control.remove_service("web").await.unwrap();
    settle().await;
    settle().await;
    let key = manager::state::Key::Service(web.id.as_str().to_owned());
    use manager::state::Reader;
    assert!(cluster.store.view(|tx| tx.by_key::<proto::Task>(key)).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_scaled_slot_waits_for_the_task_that_was_removed_from_it() {
    let cluster = Cluster::of(2).await;
    cluster.create(service("db", "app", 1)).await;
    cluster
        .update("db", |spec| spec.mode = ServiceMode::replicated(0))
        .await;
    cluster
        .update("db", |spec| spec.mode = ServiceMode::replicated(1))
        .await;
    // The harness checks that both never run at once.
    settle().await;
    assert_eq!(cluster.slots("db"), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_global_service_has_one_task_on_each_node_that_fits() {
    let cluster = Cluster::of(2).await;
    let mut spec = service("log", "app", 1);
    spec.mode = ServiceMode::global();
    spec.task_template.placement = Some(proto::spec::Placement {
        constraints: vec!["node.labels.no!=true".into()],
        ..Default::default()
    });
    cluster.create(spec).await;
    assert_eq!(cluster.spread("log"), [("n1".into(), 1), ("n2".into(), 1)]);

    add_node(&cluster.store, 3).await;
    settle().await;
    assert_eq!(cluster.running("log").len(), 3, "a new node gets its task");

    cluster
        .change_node("n2", |node| {
            drop(node.spec.labels.insert("no".into(), "true".into()))
        })
        .await;
    assert_eq!(cluster.spread("log"), [("n1".into(), 1), ("n3".into(), 1)]);
    cluster.change_node("n2", |node| node.spec.labels.clear()).await;
    assert_eq!(cluster.running("log").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn jobs_run_to_their_end_so_many_at_a_time() {
    let cluster = Cluster::of(2).await;
    let mut spec = service("job", "once", 1);
    spec.mode = ServiceMode {
        replicated_job: Some(proto::spec::JobMode {
            max_concurrent: Some(2),
            total_completions: Some(5),
        }),
        ..ServiceMode::default()
    };
    cluster.create(spec).await;
    assert_eq!(cluster.tasks("job").len(), 2);
    let ended = |cluster: &Cluster| {
        let tasks = cluster.tasks("job");
        tasks
            .iter()
            .filter(|task| task.status.state == proto::TaskState::Complete)
            .count()
            == 5
    };
    cluster.until("five runs", ended).await;
    settle().await;
    assert_eq!(cluster.tasks("job").len(), 5, "and no more");
}
