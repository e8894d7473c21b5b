//! The store's promises: transactions are whole, versions guard, watchers see every change once and in order.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::{Service, ServiceId, Task, TaskId, TaskState};

use super::*;

fn service(id: &str, name: &str) -> Service {
    let mut service = Service {
        id: ServiceId::from(id),
        ..Service::default()
    };
    service.spec.name = name.to_owned();
    service
}

fn task(id: &str, service: &str, slot: u64) -> Task {
    Task {
        id: TaskId::from(id),
        service_id: ServiceId::from(service),
        slot,
        ..Task::default()
    }
}

#[tokio::test]
async fn a_transaction_sees_itself_and_others_see_it_after_the_commit() {
    let store = Store::in_memory();
    let result: Result<(), StoreError> = store
        .update(|tx| {
            tx.create(service("s1", "web"))?;
            tx.create(task("t1", "s1", 1))?;
            assert_eq!(tx.by_key::<Task>(Key::Service("s1".into())).len(), 1);
            assert!(tx.by_name::<Service>("web").is_some());
            tx.remove::<Task>("t1")?;
            assert!(tx.all::<Task>().is_empty());
            tx.create(task("t2", "s1", 2))
        })
        .await;
    result.unwrap();
    let (service, tasks) = store.view(|tx| (tx.get::<Service>("s1").unwrap(), tx.all::<Task>()));
    assert_eq!(
        (service.meta.version.index, tasks.len(), tasks[0].id.as_str()),
        (1, 1, "t2")
    );
    assert!(!service.meta.created_at.is_zero());
}

#[tokio::test]
async fn a_failed_transaction_leaves_nothing() {
    let store = Store::in_memory();
    let mut watch = store.watch(Filter::all());
    let result: Result<(), StoreError> = store
        .update(|tx| {
            tx.create(service("s1", "web"))?;
            tx.remove::<Task>("nosuch")
        })
        .await;
    assert!(matches!(
        result,
        Err(StoreError::NotFound { kind: Kind::Task, .. })
    ));
    assert!(store.view(|tx| tx.all::<Service>().is_empty()) && watch.try_next().is_none());
}

#[tokio::test]
async fn stale_versions_and_taken_names_are_refused() {
    let store = Store::in_memory();
    store.update(|tx| tx.create(service("s1", "web"))).await.unwrap();
    let stale = store.view(|tx| tx.get::<Service>("s1")).unwrap();
    store
        .update(|tx| tx.modify("s1", |s: &mut Service| s.pending_delete = true))
        .await
        .unwrap();
    let late: Result<(), StoreError> = store.update(|tx| tx.update(Service::clone(&stale))).await;
    assert_eq!(late.unwrap_err().to_string(), "update out of sequence");
    let twin: Result<(), StoreError> = store.update(|tx| tx.create(service("s2", "web"))).await;
    assert_eq!(
        twin.unwrap_err().to_string(),
        "name conflicts with an existing object: service web already exists"
    );
    store.update(|tx| tx.create(service("s2", "db"))).await.unwrap();
    let renamed: Result<(), StoreError> = store
        .update(|tx| tx.modify("s2", |s: &mut Service| s.spec.name = "web".into()))
        .await;
    assert!(matches!(renamed, Err(StoreError::NameConflict { .. })));
}

#[tokio::test]
async fn indexes_follow_the_objects() {
    let store = Store::in_memory();
    store.update(|tx| tx.create(task("t1", "s1", 1))).await.unwrap();
    store
        .update(|tx| {
            tx.modify("t1", |t: &mut Task| {
                (t.node_id, t.desired_state) = ("n1".into(), TaskState::Running)
            })
        })
        .await
        .unwrap();
    let found = |key: Key| store.view(|tx| tx.by_key::<Task>(key).len());
    assert_eq!(found(Key::Node("n1".into())), 1);
    assert_eq!(found(Key::Slot("s1".into(), 1)), 1);
    store.update(|tx| tx.remove::<Task>("t1")).await.unwrap();
    assert_eq!(
        found(Key::Node("n1".into())) + found(Key::Service("s1".into())),
        0
    );
}

#[tokio::test]
async fn prefixes_find_identifiers_and_names() {
    let store = Store::in_memory();
    let result: Result<(), StoreError> = store
        .update(|tx| {
            tx.create(service("ab1", "my_web"))?;
            tx.create(service("ab2", "my_db"))?;
            tx.create(service("b1", "other"))
        })
        .await;
    result.unwrap();
    store.view(|tx| {
        assert_eq!(tx.find::<Service>(By::IdPrefix("ab")).len(), 2);
        assert_eq!(tx.find::<Service>(By::IdPrefix("b")).len(), 1);
        assert_eq!(tx.find::<Service>(By::NamePrefix("my_")).len(), 2);
    });
}

#[tokio::test]
async fn a_batch_takes_back_what_fails_and_splits_what_is_large() {
    let store = Store::in_memory();
    let mut watch = store.watch(Filter::kinds(&[]).with_commits());
    let mut batch = store.batch().await;
    for n in 0..MAX_CHANGES + 10 {
        let result: Result<(), StoreError> = batch
            .update(|tx| {
                tx.create(task(&format!("t{n}"), "s1", n as u64))?;
                if n == 3 {
                    tx.remove::<Service>("nosuch")
                } else {
                    Ok(())
                }
            })
            .await;
        assert_eq!(result.is_err(), n == 3);
    }
    batch.commit().await.unwrap();
    assert_eq!(store.view(|tx| tx.all::<Task>().len()), MAX_CHANGES + 9);
    assert!(store.view(|tx| tx.get::<Task>("t3").is_none()));
    let commits: Vec<_> = std::iter::from_fn(|| watch.try_next()).collect();
    assert!(
        matches!(commits[..], [Event::Commit(1), Event::Commit(2)]),
        "{commits:?}"
    );
}

#[tokio::test]
async fn concurrent_updates_are_one_after_the_other() {
    let store = Store::in_memory();
    store.update(|tx| tx.create(task("t1", "s1", 0))).await.unwrap();
    let increments = (0..50).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            store
                .update(|tx| tx.modify("t1", |t: &mut Task| t.slot += 1))
                .await
                .unwrap()
        })
    });
    futures::future::join_all(increments).await;
    assert_eq!(store.view(|tx| tx.get::<Task>("t1").unwrap().slot), 50);
}

#[tokio::test]
async fn restoring_tells_the_differences_alone() {
    let ours = Store::in_memory();
    for id in ["keep", "gone"] {
        ours.update(|tx| tx.create(task(id, "s", 1))).await.unwrap();
    }
    let mut theirs = ours.replica().snapshot();
    theirs.apply(
        7,
        vec![
            StoreAction::Remove(Kind::Task, "gone".into()),
            StoreAction::Create(task("new", "s", 2).into()),
        ],
    );
    let mut watch = ours.watch(Filter::all());
    ours.replica().restore(theirs);
    let events: Vec<_> = std::iter::from_fn(|| watch.try_next()).collect();
    assert!(
        matches!(&events[..], [Event::Task(Change::Remove(old)), Event::Task(Change::Create(new))]
            if old.id.as_str() == "gone" && new.id.as_str() == "new"),
        "{events:?}"
    );
}

/// One step of a random history: a slot is written, or the task removed.
#[derive(Debug, Clone)]
enum Step {
    Write(u8, u64),
    Remove(u8),
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let step = prop_oneof![
        3 => (0u8..6, any::<u64>()).prop_map(|(id, slot)| Step::Write(id, slot)),
        1 => (0u8..6).prop_map(Step::Remove),
    ];
    proptest::collection::vec(proptest::collection::vec(step, 0..5), 0..20)
}

fn take(tx: &mut WriteTx<'_>, step: &Step) -> Result<(), StoreError> {
    match step {
        Step::Write(id, slot) if tx.get::<Task>(id.to_string()).is_some() => {
            tx.modify(id.to_string(), |t: &mut Task| t.slot = *slot)
        }
        Step::Write(id, slot) => tx.create(task(&id.to_string(), "s", *slot)),
        Step::Remove(id) => tx.remove::<Task>(id.to_string()).or(Ok(())),
    }
}

proptest! {
    /// Whoever looks once and then follows the events always knows exactly what the store holds.
    #[test]
    fn following_the_events_rebuilds_the_store(history in steps(), begin in 0usize..20) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let store = Store::in_memory();
            let mut follower = None;
            for (n, transaction) in history.iter().enumerate() {
                if n == begin {
                    let look = |tx: ReadTx<'_>| tx.all::<Task>().into_iter().map(|t| (t.id.clone(), t)).collect();
                    let (seen, watch): (BTreeMap<_, _>, _) = store.view_and_watch(Filter::kinds(&[Kind::Task]), look);
                    follower = Some((seen, watch));
                }
                let all = |tx: &mut WriteTx<'_>| transaction.iter().try_for_each(|step| take(tx, step));
                store.update::<_, StoreError, _>(all).await.unwrap();
            }
            let Some((mut seen, mut watch)) = follower else { return };
            while let Some(Event::Task(change)) = watch.try_next() {
                let id = change.object().id.clone();
                prop_assert_follow(&seen, &change);
                match change.new_object() {
                    Some(new) => seen.insert(id, new.clone()),
                    None => seen.remove(&id),
                };
            }
            let held: Vec<_> = store.view(|tx| tx.all::<Task>());
            assert_eq!(seen.into_values().collect::<Vec<_>>(), held);
        });
    }
}

/// The event must start from exactly what the follower knows.
fn prop_assert_follow(seen: &BTreeMap<TaskId, std::sync::Arc<Task>>, change: &Change<Task>) {
    assert_eq!(seen.get(&change.object().id), change.old());
    if let (Some(old), Some(new)) = (change.old(), change.new_object()) {
        assert!(old.meta.version < new.meta.version);
    }
}

#[tokio::test]
async fn equal_specs_of_a_service_s_tasks_are_one() {
    let running = |id: &str, slot: u64, runtime: &str| {
        let mut task = task(id, "s1", slot);
        // Each has a spec of its own, as when it was read from the disk.
        std::sync::Arc::make_mut(&mut task.spec).runtime = runtime.to_owned();
        task
    };
    let store = Store::in_memory();
    for (id, slot, runtime) in [("a", 1, "one"), ("b", 2, "one"), ("c", 3, "two"), ("d", 4, "two")] {
        let made = store.update(|tx| tx.create(running(id, slot, runtime))).await;
        made.unwrap();
    }
    let newer = running("a", 1, "one");
    let changed = |task: &mut Task| task.spec = newer.spec.clone();
    store.update(|tx| tx.modify("a", changed)).await.unwrap();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|id| store.view(|tx| tx.get::<Task>(id)).unwrap());
    assert!(std::sync::Arc::ptr_eq(&a.spec, &b.spec) && std::sync::Arc::ptr_eq(&c.spec, &d.spec));
    assert_eq!((a.spec.runtime.as_str(), c.spec.runtime.as_str()), ("one", "two"));
}
