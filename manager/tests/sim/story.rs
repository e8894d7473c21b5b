//! One run, from an empty cluster over its troubles to its rest, and the seeds.

use std::cell::RefCell;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use manager::state::{Reader, Store};
use proto::Service;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::group::Group;
use crate::invariants::{self, Histories, Lost};
use crate::ledger;
use crate::managers::{Seat, Seats};
use crate::trouble::{self, Managers};
use crate::user::{self, User};
use crate::worker::Worker;
use crate::world::World;

/// Which managers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Alone,
    Group,
    /// The same, while several write to one object at once. Those who wait for one thing at one instant are woken by chance there:
    /// a seed is always the same story only in a build with `--cfg tokio_unstable` (see [`play`]).
    Contended,
}

/// What became of a run.
pub(crate) struct Outcome {
    pub(crate) trace: Vec<String>,
    pub(crate) violations: Vec<String>,
}

const NODES: usize = 5;
/// The image of all services at the end.
const FINAL: &str = "app:final";

thread_local! {
    /// What panicked in this thread: the loops are restarted after a panic, which must not hide it.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Plays many seeds, or the one of `SIM_SEED`. Fails with the trace of the first that violates something.
pub(crate) fn play_seeds(kind: Kind, seeds: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("SIM_SEED") {
        let outcome = play(kind, seed);
        outcome.trace.iter().for_each(|line| println!("{line}"));
        assert!(
            outcome.violations.is_empty(),
            "{kind:?} {seed}: {:#?}",
            outcome.violations
        );
        return;
    }
    let (next, last) = (AtomicU64::new(1), number("SIM_SEEDS").unwrap_or(seeds));
    let failed = Mutex::new(Vec::new());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed > last {
                return;
            }
            let outcome = play(kind, seed);
            if !outcome.violations.is_empty() {
                failed.lock().unwrap().push((seed, outcome));
            }
        }
    };
    std::thread::scope(|scope| {
        (0..2).for_each(|_| drop(scope.spawn(work)));
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort_by_key(|(seed, _)| *seed);
    let Some((seed, first)) = failed.first() else {
        return;
    };
    let mut text = first.trace.join("\n");
    for (seed, outcome) in failed.iter().take(20) {
        let _ = write!(
            text,
            "\n{seed}: {}",
            outcome.violations[0].chars().take(600).collect::<String>()
        );
    }
    panic!(
        "{text}\n{kind:?}: {} of {last} seeds violate something; replay the first with SIM_SEED={seed}",
        failed.len()
    );
}

/// Plays one seed.
pub(crate) fn play(kind: Kind, seed: u64) -> Outcome {
    hear_panics();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    // Without it the order in which a `watch` wakes several tasks at one instant is not the same each time.
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.build().unwrap();
    runtime.block_on(async {
        let (world, _simulated) = World::new(seed);
        world.note(format_args!("{kind:?} {seed}"));
        if timeout(Duration::from_secs(1800), run(&world, kind, seed))
            .await
            .is_err()
        {
            world.violated("a run ends", "it does not within half an hour");
        }
        for panic in PANICS.take() {
            world.violated("nothing panics", panic);
        }
        let (trace, violations) = world.outcome();
        Outcome { trace, violations }
    })
}

async fn run(world: &World, kind: Kind, seed: u64) {
    let seats = Seats::default();
    let (histories, lost) = (Arc::<Histories>::default(), Arc::<Lost>::default());
    let mut managers = match kind {
        Kind::Alone => {
            let store = Store::in_memory();
            tokio::spawn(invariants::watch(
                world.clone(),
                "m1".into(),
                store.clone(),
                histories.clone(),
                lost.clone(),
                seats.clone(),
            ));
            Managers::Alone { store, reign: None }
        }
        Kind::Group | Kind::Contended => {
            Managers::Group(Group::new(world, &seats, seed, histories.clone(), lost.clone()).await)
        }
    };
    managers.start_all(world, &seats).await;
    let workers = nodes(world, &seats).await;
    let user = User::new(world, &seats);
    let mut busy = JoinSet::new();
    busy.spawn(user.clone().live());
    if kind != Kind::Group {
        busy.spawn(ledger::keep(world.clone(), seats.clone(), histories.clone()));
    }
    busy.spawn(watch_containers(world.clone(), seats.clone(), lost));
    trouble::make(world, &seats, &workers, &mut managers, world.draw(8_000..25_000)).await;
    busy.abort_all();
    while busy.join_next().await.is_some() {}
    world.heal();
    managers.start_all(world, &seats).await;
    if let Managers::Group(group) = &mut managers {
        group.settle().await;
    }
    restart(world, &workers);
    if timeout(Duration::from_secs(60), user.settle(FINAL))
        .await
        .is_err()
    {
        return world.violated("a healed cluster takes writes", "it does not within 60 s");
    }
    rest(world, &seats).await;
    if let Managers::Group(group) = &managers {
        group.members_agree().await;
    }
    for (place, store) in stores(&managers) {
        user.no_acknowledged_write_is_lost(&store, &place);
        let ledger = ledger::read(&store);
        histories.an_acknowledged_write_is_in_every_later_state(world, &place, ledger.as_deref());
    }
}

/// The nodes start again; in some runs one never does, and what it had must run elsewhere.
fn restart(world: &World, workers: &[Worker]) {
    let lost = world.pick(workers).filter(|_| world.chance(0.4));
    for worker in workers {
        match lost {
            Some(lost) if lost.id == worker.id && worker.may_be_missed() => worker.lose_power(),
            _ => worker.start(),
        }
    }
}

fn stores(managers: &Managers) -> Vec<(String, Store)> {
    match managers {
        Managers::Alone { store, .. } => vec![("m1".into(), store.clone())],
        Managers::Group(group) => group.stores(),
    }
}

/// Makes the nodes known and starts their agents.
async fn nodes(world: &World, seats: &Seats) -> Vec<Worker> {
    let mut workers = Vec::new();
    for number in 0..NODES {
        let node = user::node(number);
        let worker = Worker::new(world, seats, node.id.clone(), node.description.clone());
        let seat = lead(seats).await;
        let created: Result<(), manager::state::StoreError> =
            seat.store.update(|tx| tx.create(node.clone())).await;
        if let Err(error) = created {
            world.violated("a new cluster takes writes", error);
        }
        worker.start();
        workers.push(worker);
    }
    workers
}

/// Waits for a manager that leads.
async fn lead(seats: &Seats) -> Seat {
    loop {
        if let Some(seat) = seats.all().into_iter().next() {
            return seat;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn watch_containers(world: World, seats: Seats, lost: Arc<Lost>) {
    loop {
        sleep(Duration::from_millis(50)).await;
        if let [seat] = seats.all().as_slice() {
            invariants::one_container_per_slot(&world, &seat.store, &lost);
        }
    }
}

/// After quiet every service comes to what its spec says, and then nothing is written any more.
async fn rest(world: &World, seats: &Seats) {
    let open = |seat: &Seat| -> Vec<(Arc<Service>, String)> {
        let services = seat.store.view(|tx| tx.all::<Service>());
        let check = |service: Arc<Service>| {
            let verdict = invariants::service_converges(world, &seat.store, &service, FINAL);
            verdict.err().map(|why| (service, why))
        };
        services.into_iter().filter_map(check).collect()
    };
    let begun = world.now();
    loop {
        let seat = lead(seats).await;
        let open = open(&seat);
        if open.is_empty() {
            break;
        }
        if world.now() - begun > 240_000 {
            for (service, why) in open {
                world.violated("services converge", format_args!("{}: {why}", service.spec.name));
            }
            return;
        }
        sleep(Duration::from_millis(250)).await;
    }
    world.note(format_args!("converged in {} ms", world.now() - begun));
    sleep(Duration::from_secs(90)).await;
    let version = |seat: &Seat| seat.store.replica().snapshot().version;
    let before = version(&lead(seats).await);
    sleep(Duration::from_secs(30)).await;
    let after = version(&lead(seats).await);
    if before != after {
        world.violated(
            "a cluster at rest writes nothing",
            format_args!("{before} became {after}"),
        );
    }
    for (service, why) in open(&lead(seats).await) {
        world.violated(
            "services stay converged",
            format_args!("{}: {why}", service.spec.name),
        );
    }
}

fn hear_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.with_borrow_mut(|panics| panics.push(info.to_string()));
            before(info);
        }));
    });
}
