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
use manager::state::{Proposer, Reader, Replica, Store};
use manager::vault::AtRest;
use proto::{Node, Service, Task};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::busy::Way;
use crate::invariants::{Histories, Lost, Terms, watch};
use crate::ledger;
use crate::managers::{Reign, Seats};
use crate::world::World;

/// Managers of a new group, and the most that it grows to.
const FIRST: u64 = 3;
const MOST: usize = 5;

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
    /// Who shall run. A number is never used again.
    members: BTreeSet<u64>,
    next: u64,
    terms: Arc<Terms>,
    histories: Arc<Histories>,
    lost: Arc<Lost>,
}

/// One life of one manager.
struct Process {
    consensus: Arc<Consensus>,
    way: Arc<Way>,
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
            members: BTreeSet::new(),
            next: 1,
            terms: Arc::default(),
            histories,
            lost,
        };
        for _ in 0..FIRST {
            if !group.grow(Duration::from_secs(60)).await {
                world.violated("members can be added", format_args!("{:?}", group.members));
            }
        }
        group
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("m{id}"))
    }

    /// Who leads, of those that run.
    fn leader(&self) -> Option<u64> {
        let seats = self.seats.all();
        let leads = |id: &&u64| seats.iter().any(|seat| seat.place == place(**id));
        self.running.keys().find(leads).copied()
    }

    /// A new manager joins. Whether it is a member then is not known if it took too long.
    async fn grow(&mut self, within: Duration) -> bool {
        let id = self.next;
        self.next += 1;
        self.members.insert(id);
        self.start(id).await;
        if id == 1 {
            return true;
        }
        let Some(leader) = self.leader().or(self.running.contains_key(&1).then_some(1)) else {
            return false;
        };
        let added = timeout(within, self.running[&leader].consensus.add(id, member(id))).await;
        self.world.note(format_args!("m{id} added: {added:?}"));
        matches!(added, Ok(Ok(())))
    }

    /// A manager is taken out, perhaps the one that leads, and leaves at once.
    async fn shrink(&mut self, id: u64) {
        let Some(leader) = self.leader() else { return };
        let removal = self.running[&leader].consensus.remove(id);
        let removed = timeout(Duration::from_secs(8), removal).await;
        self.world.note(format_args!("m{id} removed: {removed:?}"));
        if matches!(removed, Ok(Ok(()))) {
            self.members.remove(&id);
            self.kill(id).await;
        }
    }

    pub(crate) async fn start_all(&mut self) {
        for id in self.members.clone() {
            self.start(id).await;
        }
        self.disks.lock().slow.clear();
    }

    /// Ends what was begun with members, and lets those go that are none.
    pub(crate) async fn settle(&mut self) {
        for _ in 0..100 {
            sleep(Duration::from_millis(500)).await;
            let Some(leader) = self.leader() else { continue };
            let consensus = self.running[&leader].consensus.clone();
            if !matches!(
                timeout(Duration::from_secs(20), consensus.settle()).await,
                Ok(Ok(()))
            ) {
                continue;
            }
            let voters: BTreeSet<u64> = consensus.members().iter().map(|member| member.id).collect();
            self.world.note(format_args!("the members are {voters:?}"));
            for id in self.running.keys().copied().collect::<Vec<_>>() {
                if !voters.contains(&id) {
                    self.kill(id).await;
                }
            }
            self.members = voters;
            return self.start_all().await;
        }
        self.world.violated(
            "a healed group has a leader that can decide",
            format_args!("{:?}", self.members),
        );
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
        let way = Way::to(consensus.clone());
        let store = Store::new(replica, way.clone());
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
            way,
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
        let members: Vec<u64> = self.members.iter().copied().collect();
        let Some(&id) = world.pick(&members) else { return };
        match world.draw(0..13) {
            0 => self.kill(id).await,
            1 => {
                let leader = self.leader().unwrap_or(id);
                self.kill(leader).await;
            }
            2 | 3 => self.start_all().await,
            4 => world.cut(&place(id), world.chance(0.7), world.chance(0.7)),
            5 | 6 => members.iter().for_each(|id| world.cut(&place(*id), false, false)),
            7 if members.len() < MOST => drop(self.grow(Duration::from_secs(8)).await),
            8 | 9 if members.len() > 1 => self.shrink(id).await,
            10 | 11 => self.overtake().await,
            _ => {
                let slow = world.draw(3..1200);
                world.note(format_args!("the disk of {} takes {slow} ms", place(id)));
                self.disks.lock().slow.insert(self.path(id), slow);
            }
        }
    }

    /// A change of the leader reaches consensus when another has led in between, and perhaps in a second reign of its own.
    async fn overtake(&mut self) {
        let Some(id) = self.leader() else { return };
        let (world, busy) = (self.world.clone(), place(id));
        let Process {
            way,
            consensus,
            store,
            ..
        } = &self.running[&id];
        let (way, consensus) = (way.clone(), consensus.clone());
        world.note(format_args!("{busy} is very busy"));
        way.close();
        // Nobody is told what becomes of it.
        let late = ledger::add(store.clone(), format!("late at {}", world.now()));
        tokio::spawn(late);
        until(3000, || way.holds()).await;
        world.cut(&busy, true, true);
        until(6000, || self.leader().is_some_and(|leader| leader != id)).await;
        world.pause(300..2000).await;
        world.cut(&busy, false, false);
        world.pause(300..1500).await;
        if let Some(other) = self.leader().filter(|leader| *leader != id) {
            world.cut(&place(other), true, true);
        }
        until(5000, || consensus.term().is_some()).await;
        world.note(format_args!("{busy} goes on in {:?}", consensus.term()));
        way.open();
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
            if states.len() == self.members.len() && states.iter().all(|(_, state)| *state == states[0].1) {
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

/// Waits for something, for so many virtual milliseconds at most.
async fn until(millis: u64, is_so: impl Fn() -> bool) {
    for _ in 0..millis / 10 {
        if is_so() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
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
                // As a manager does when it begins to lead; it goes on whatever comes of it.
                let settled = timeout(Duration::from_secs(15), consensus.settle()).await;
                world.note(format_args!("{place} leads in {term}: {settled:?}"));
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
