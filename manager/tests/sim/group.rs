//! Several managers that agree by consensus: their processes, their disks, the network between them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use manager::disk::SimulatedDisk;
use manager::state::consensus::message::{Request, Response, Transport, TransportError};
use manager::state::consensus::{Compaction, Consensus, ConsensusConfig, Member, Timing};
use manager::state::{Reader, Replica, Store};
use manager::vault::AtRest;
use proto::{Node, Service, Task};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::invariants::{Histories, Lost, Terms, watch};
use crate::managers::{Reign, Seats};
use crate::world::World;

const MANAGERS: u64 = 3;

/// The managers of a group.
pub(crate) struct Group {
    world: World,
    seats: Seats,
    seed: u64,
    dir: tempfile::TempDir,
    at_rest: AtRest,
    net: Arc<Net>,
    disks: Disks,
    _disk: manager::disk::Simulated,
    running: BTreeMap<u64, Process>,
    terms: Arc<Terms>,
    histories: Arc<Histories>,
    lost: Arc<Lost>,
}

/// One life of one manager.
struct Process {
    consensus: Arc<Consensus>,
    store: Store,
    tasks: JoinSet<()>,
}

#[derive(Default)]
struct Net(Mutex<BTreeMap<String, Arc<Consensus>>>);

impl Net {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Consensus>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One manager's end of the network.
struct End {
    world: World,
    own: String,
    net: Arc<Net>,
}

impl Transport for End {
    fn send(&self, to: &Member, request: Request) -> BoxFuture<'static, Result<Response, TransportError>> {
        let (world, own, net, to) = (
            self.world.clone(),
            self.own.clone(),
            self.net.clone(),
            to.address.clone(),
        );
        async move {
            let failed = |reason: &str| TransportError {
                address: to.clone(),
                reason: reason.to_owned(),
                dismissed: false,
            };
            world.way(&own, &to).await;
            let member = net
                .lock()
                .get(&to)
                .cloned()
                .ok_or_else(|| failed("connection refused"))?;
            if world.chance(0.02) {
                let (member, request) = (member.clone(), request.clone());
                tokio::spawn(async move { member.handle(request).await.map(drop) });
            }
            let answer = member.handle(request).await.map_err(|_| failed("stopped"))?;
            world.way(&to, &own).await;
            Ok(answer)
        }
        .boxed()
    }
}

/// The disks: how slow each is, and which belong to dead processes.
#[derive(Clone)]
struct Disks {
    world: World,
    state: Arc<Mutex<DiskState>>,
}

#[derive(Default)]
struct DiskState {
    /// Milliseconds that work takes at most.
    slow: BTreeMap<PathBuf, u64>,
    dead: BTreeSet<PathBuf>,
}

impl Disks {
    fn lock(&self) -> MutexGuard<'_, DiskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SimulatedDisk for Disks {
    fn ready(&self, dir: &Path) -> BoxFuture<'static, io::Result<()>> {
        let (disks, dir) = (self.clone(), dir.to_owned());
        async move {
            let most = disks.lock().slow.get(&dir).copied().unwrap_or(3);
            disks.world.pause(0..most + 1).await;
            match disks.lock().dead.contains(&dir) {
                true => Err(io::Error::other("the process is dead")),
                false => Ok(()),
            }
        }
        .boxed()
    }
}

impl Group {
    /// A group of three.
    pub(crate) async fn new(
        world: &World,
        seats: &Seats,
        seed: u64,
        histories: Arc<Histories>,
        lost: Arc<Lost>,
    ) -> Self {
        let memory = Path::new("/dev/shm");
        let dir = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let disks = Disks {
            world: world.clone(),
            state: Arc::default(),
        };
        let mut group = Self {
            world: world.clone(),
            seats: seats.clone(),
            seed,
            dir: dir.unwrap(),
            at_rest: AtRest::ephemeral(),
            net: Arc::default(),
            _disk: manager::disk::simulate(disks.clone()),
            disks,
            running: BTreeMap::new(),
            terms: Arc::default(),
            histories,
            lost,
        };
        for id in 1..=MANAGERS {
            group.start(id).await;
            if id > 1 && !group.add(id).await {
                world.violated("members can be added", format_args!("m{id}"));
            }
        }
        group
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("m{id}"))
    }

    async fn add(&self, id: u64) -> bool {
        let Some(first) = self.running.get(&1) else {
            return false;
        };
        let added = timeout(Duration::from_secs(60), first.consensus.add(id, member(id))).await;
        self.world.note(format_args!("m{id} added: {added:?}"));
        matches!(added, Ok(Ok(())))
    }

    pub(crate) async fn start_all(&mut self) {
        for id in 1..=MANAGERS {
            self.start(id).await;
            self.disks.lock().slow.clear();
        }
    }

    async fn start(&mut self, id: u64) {
        if self.running.contains_key(&id) {
            return;
        }
        let place = place(id);
        self.world.note(format_args!("{place} starts"));
        self.disks.lock().dead.remove(&self.path(id));
        let config = ConsensusConfig {
            dir: self.path(id),
            id,
            member: member(id),
            transport: Arc::new(End {
                world: self.world.clone(),
                own: place.clone(),
                net: self.net.clone(),
            }),
            timing: Timing::default(),
            seed: Some(self.seed * 1000 + self.world.now() * 10 + id),
            at_rest: self.at_rest.clone(),
        };
        let replica = Replica::default();
        let opened = match (Consensus::exists(&config.dir), id) {
            (true, _) => Consensus::open(&config, replica.clone()).await,
            (false, 1) => Consensus::create(&config, replica.clone()).await,
            (false, _) => Consensus::join(&config, replica.clone()).await,
        };
        let consensus = match opened {
            Ok(consensus) => Arc::new(consensus),
            Err(error) => {
                return self
                    .world
                    .violated("a manager starts again", format_args!("{place}: {error}"));
            }
        };
        // Often, so that snapshots are made and sent.
        consensus.compact_as(Compaction {
            interval: self.world.draw(20..200),
            keep: self.world.draw(0..2),
        });
        let store = Store::new(replica, consensus.clone());
        self.net.lock().insert(place.clone(), consensus.clone());
        let mut tasks = JoinSet::new();
        let (histories, lost) = (self.histories.clone(), self.lost.clone());
        tasks.spawn(watch(
            self.world.clone(),
            place.clone(),
            store.clone(),
            histories,
            lost,
            self.seats.clone(),
        ));
        tasks.spawn(rule(
            self.world.clone(),
            self.seats.clone(),
            place,
            store.clone(),
            consensus.clone(),
            self.terms.clone(),
        ));
        let process = Process {
            consensus,
            store,
            tasks,
        };
        self.running.insert(id, process);
    }

    /// The process is gone from one instant to the next: what it was writing never reaches the disk.
    async fn kill(&mut self, id: u64) {
        let Some(mut process) = self.running.remove(&id) else {
            return;
        };
        self.world.note(format_args!("{} is killed", place(id)));
        self.net.lock().remove(&place(id));
        self.disks.lock().dead.insert(self.path(id));
        process.tasks.shutdown().await;
        if timeout(Duration::from_secs(30), process.consensus.shutdown())
            .await
            .is_err()
        {
            self.world.violated("a manager stops", place(id));
        }
        // What was under way on the disk has come to its end.
        sleep(Duration::from_secs(1)).await;
    }

    /// One of the things that happen to managers.
    pub(crate) async fn trouble(&mut self) {
        let world = self.world.clone();
        let id = world.draw(1..MANAGERS + 1);
        match world.draw(0..8) {
            0 => self.kill(id).await,
            1 => {
                let leader = self
                    .seats
                    .all()
                    .first()
                    .and_then(|seat| seat.place[1..].parse().ok());
                self.kill(leader.unwrap_or(id)).await;
            }
            2 | 3 => self.start_all().await,
            4 => world.cut(&place(id), world.chance(0.7), world.chance(0.7)),
            5 | 6 => (1..=MANAGERS).for_each(|id| world.cut(&place(id), false, false)),
            _ => {
                let slow = world.draw(3..1200);
                world.note(format_args!("the disk of {} takes {slow} ms", place(id)));
                self.disks.lock().slow.insert(self.path(id), slow);
            }
        }
    }

    pub(crate) fn stores(&self) -> Vec<(String, Store)> {
        self.running
            .iter()
            .map(|(id, process)| (place(*id), process.store.clone()))
            .collect()
    }

    /// All managers come to the same state.
    pub(crate) async fn members_agree(&self) {
        let states = || -> Vec<(String, String)> {
            let state = |store: &Store| {
                store.view(|tx| {
                    format!(
                        "{:?} {:?} {:?}",
                        tx.all::<Service>(),
                        tx.all::<Task>(),
                        tx.all::<Node>()
                    )
                })
            };
            self.stores()
                .iter()
                .map(|(place, store)| (place.clone(), state(store)))
                .collect()
        };
        for _ in 0..20 {
            let states = states();
            if states.len() == MANAGERS as usize && states.iter().all(|(_, state)| *state == states[0].1) {
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
        let lengths: Vec<_> = states()
            .into_iter()
            .map(|(place, state)| (place, state.len()))
            .collect();
        self.world.violated("managers agree", format_args!("{lengths:?}"));
    }
}

fn place(id: u64) -> String {
    format!("m{id}")
}

fn member(id: u64) -> Member {
    Member {
        address: place(id),
        node: place(id).into(),
    }
}

/// Leads whenever consensus says so.
async fn rule(
    world: World,
    seats: Seats,
    place: String,
    store: Store,
    consensus: Arc<Consensus>,
    terms: Arc<Terms>,
) {
    let mut leadership = consensus.leadership();
    let mut reign: Option<(u64, Reign)> = None;
    loop {
        let term = leadership.borrow_and_update().term();
        if reign.as_ref().map(|(led, _)| *led) != term {
            drop(reign.take());
            if let Some(term) = term {
                terms.one_leader_per_term(&world, term, &place);
                if let Ok(begun) = Reign::begin(&world, &seats, &place, store.clone()).await {
                    reign = Some((term, begun));
                }
            }
        }
        if leadership.borrow().term() == reign.as_ref().map(|(led, _)| *led)
            && leadership.changed().await.is_err()
        {
            return;
        }
        if reign.is_none() {
            sleep(Duration::from_millis(20)).await;
        }
    }
}
