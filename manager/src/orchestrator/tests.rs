//! Properties of the pure plan: whatever happened before, a service converges to its spec and then stays; and on the way
//! there are never two tasks of a slot at once, but where that is asked for.

use proptest::prelude::*;
use proto::TaskState;
use proto::spec::{FailureAction, Labels, UpdateConfig, UpdateOrder};
use proto::upkeep::{DRAIN_ORDER, FENCING, PROGRESS_DEADLINE, RESTART_MAX_DELAY};

mod world;

use world::{Happening, World};

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => (0..64usize).prop_map(Happening::Step),
        2 => (0..64usize).prop_map(Happening::Fail),
        2 => (0..8u64).prop_map(Happening::Replicas),
        1 => Just(Happening::NewSpec),
        2 => (0..3usize).prop_map(Happening::Drain),
        1 => (0..3usize).prop_map(Happening::Pause),
        1 => (0..3usize).prop_map(Happening::Forbid),
        2 => (0..8usize, 0..3usize).prop_map(|(slot, node)| Happening::Move(slot, node)),
        1 => (0..3usize).prop_map(Happening::Lose),
        2 => (0..3usize).prop_map(Happening::Return),
        1 => Just(Happening::Forget),
        3 => (0..20u64).prop_map(Happening::Wait),
    ]
}

fn config() -> impl Strategy<Value = UpdateConfig> {
    let action = prop_oneof![
        Just(FailureAction::Pause),
        Just(FailureAction::Continue),
        Just(FailureAction::Rollback)
    ];
    let order = prop_oneof![Just(UpdateOrder::StopFirst), Just(UpdateOrder::StartFirst)];
    (0..4u64, 0..10i64, action, order).prop_map(|(parallelism, delay, failure_action, order)| UpdateConfig {
        parallelism,
        delay: delay * 1_000_000_000,
        failure_action,
        order,
        ..UpdateConfig::default()
    })
}

fn labels() -> impl Strategy<Value = Labels> {
    let order = proptest::option::of(prop_oneof![Just("start-first"), Just("stop-first")]);
    let fencing = proptest::bool::weighted(0.3);
    (order, any::<bool>(), any::<bool>(), fencing).prop_map(|(order, deadline, backoff, fencing)| {
        let order = order.map(|order| (DRAIN_ORDER, order));
        let deadline = deadline.then_some((PROGRESS_DEADLINE, "15s"));
        let backoff = backoff.then_some((RESTART_MAX_DELAY, "10s"));
        let fencing = fencing.then_some((FENCING, "15s"));
        let all = [order, deadline, backoff, fencing].into_iter().flatten();
        all.map(|(label, value)| (label.to_owned(), value.to_owned()))
            .collect()
    })
}

/// What is new, lost or failed is planned for; what runs is left alone.
#[test]
fn a_service_is_at_rest_as_long_as_its_tasks_run() {
    let mut world = World::new(false, UpdateConfig::default(), Labels::new(), 2);
    assert!(!world.is_at_rest());
    world.reconcile();
    assert!(world.is_at_rest());
    for task in 0..2 {
        (0..5).for_each(|_| world.step(task, false));
    }
    assert!(world.is_at_rest());
    for happening in [
        Happening::Fail(0),
        Happening::Drain(0),
        Happening::NewSpec,
        Happening::Replicas(3),
    ] {
        let mut world = World::new(false, UpdateConfig::default(), Labels::new(), 2);
        world.reconcile();
        (0..2).for_each(|task| (0..5).for_each(|_| world.step(task, false)));
        world.happen(&happening);
        assert!(!world.is_at_rest(), "{happening:?}");
        world.calm_down();
        let updated = matches!(happening, Happening::NewSpec);
        assert_eq!(world.is_at_rest(), !updated, "{happening:?}");
    }
}

/// Two updates in quick succession: the last task waits for both that are to stop, not for the later one alone.
#[test]
fn a_new_task_waits_for_all_that_have_yet_to_stop() {
    let mut world = World::new(false, UpdateConfig::default(), Labels::new(), 1);
    let state = |world: &World, task: usize| world.picture.tasks[task].desired_state;
    world.reconcile();
    (0..5).for_each(|_| world.step(0, false));
    assert_eq!(world.picture.tasks[0].status.state, TaskState::Running);
    for _ in 0..2 {
        world.happen(&Happening::NewSpec);
        world.reconcile();
        let alive = world.picture.tasks.len() - 1;
        (0..2).for_each(|_| world.step(alive, false));
    }
    assert_eq!(world.picture.tasks.len(), 3);
    // Of those alive the second is the second one made; it has been told to stop.
    world.step(1, false);
    world.reconcile();
    assert_eq!(world.picture.tasks[1].status.state, TaskState::Shutdown);
    assert_eq!(state(&world, 2), TaskState::Ready, "the first one still runs");
    world.step(0, false);
    world.reconcile();
    assert_eq!(state(&world, 2), TaskState::Running);
}

/// A spec that is written twice is its own previous spec: rolling back to it is an update like any other, which takes in
/// what the failed one has left.
#[test]
fn a_rollback_to_the_same_spec_brings_every_task_to_it() {
    let update = UpdateConfig {
        parallelism: 0,
        failure_action: FailureAction::Rollback,
        order: UpdateOrder::StartFirst,
        ..UpdateConfig::default()
    };
    let labels = Labels::from([(PROGRESS_DEADLINE.to_owned(), "15s".to_owned())]);
    let mut world = World::new(false, update, labels, 2);
    world.reconcile();
    (0..2).for_each(|task| (0..5).for_each(|_| world.step(task, false)));
    world.happen(&Happening::NewSpec);
    world.happen(&Happening::Replicas(2));
    world.reconcile();
    assert_eq!(
        world.picture.tasks.len(),
        4,
        "the new ones do not run by the deadline"
    );
    world.happen(&Happening::Wait(16));
    world.calm_down();
    world.check_converged();
}

/// A task with a lease is not replaced before it must be dead, whoever leads.
#[test]
fn a_lost_node_s_lease_is_waited_for() {
    let labels = Labels::from([(FENCING.to_owned(), "15s".to_owned())]);
    let mut world = World::new(false, UpdateConfig::default(), labels, 1);
    world.reconcile();
    (0..5).for_each(|_| world.step(0, false));
    let node = world.picture.tasks[0].node_id.clone();
    let number = node.as_str()[1..].parse().unwrap();
    world.happen(&Happening::Lose(number));
    world.reconcile();
    let replacement = |world: &World| world.picture.tasks[1].desired_state;
    assert_eq!(replacement(&world), TaskState::Ready);
    world.happen(&Happening::Wait(20));
    world.happen(&Happening::Forget);
    world.reconcile();
    // Lease, stop grace period, margin and drift, since the new leader's beginning.
    world.happen(&Happening::Wait(27));
    assert_eq!(world.reconcile(), 0, "a new leader counts anew");
    world.happen(&Happening::Wait(1));
    world.reconcile();
    assert_eq!(replacement(&world), TaskState::Running);
}

/// Who takes a node out of the cluster says that nothing of it runs.
#[test]
fn the_tasks_of_a_removed_node_are_not_waited_for() {
    let labels = Labels::from([(FENCING.to_owned(), "15s".to_owned())]);
    let mut world = World::new(false, UpdateConfig::default(), labels, 1);
    world.reconcile();
    (0..5).for_each(|_| world.step(0, false));
    let node = world.picture.tasks[0].node_id.clone();
    world.picture.nodes.remove(&node);
    world.reconcile();
    assert_eq!(world.picture.tasks[1].desired_state, TaskState::Running);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whatever_happened_a_service_converges(
        global in any::<bool>(),
        update in config(),
        labels in labels(),
        replicas in 0..6u64,
        happenings in proptest::collection::vec((happening(), any::<bool>()), 0..60),
    ) {
        let mut world = World::new(global, update, labels, replicas);
        for (happening, look) in &happenings {
            world.happen(happening);
            world.check_slots();
            if *look {
                // A rollback gives reason for more.
                let settled = (0..4).any(|_| world.reconcile() == 0);
                prop_assert!(settled, "a plan that is carried out is not planned again");
            }
        }
        world.calm_down();
        world.check_converged();
    }
}
