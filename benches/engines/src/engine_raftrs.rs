//! tikv raft-rs 0.7 as a member: one actor that ticks, steps messages and works through what is ready.

mod storage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use raft::eraftpb::{ConfChange, ConfChangeType, Entry, EntryType, Message, MessageType, Snapshot};
use raft::{Config, RawNode, SnapshotStatus, StateRole};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::cluster::{Engine, Node, Status, Written};
use crate::world::{Id, Life, World};
use protobuf::Message as _;
use storage::{Disk, Store};

const TICK: u64 = 50;

type Inboxes = Arc<Mutex<BTreeMap<Id, mpsc::UnboundedSender<In>>>>;

pub struct RaftRs {
    pre_vote: bool,
    disks: Mutex<BTreeMap<Id, Disk>>,
    inboxes: Inboxes,
}

enum In {
    Message(Box<Message>),
    Snapshot(Id, bool),
    Write(u64, oneshot::Sender<Written>),
    Change(ConfChange, oneshot::Sender<Written>),
    /// Hands the leadership to another member.
    Transfer(Id),
    Compact,
}

impl RaftRs {
    pub fn new(pre_vote: bool) -> Self {
        Self {
            pre_vote,
            disks: Mutex::default(),
            inboxes: Arc::default(),
        }
    }
}

impl Engine for RaftRs {
    fn start(&self, world: &World, life: Life, founder: bool) -> BoxFuture<'static, Arc<dyn Node>> {
        let disk = self.disks.lock().unwrap().entry(life.id).or_default().clone();
        if founder && disk.is_empty() {
            disk.found(life.id);
        }
        let (sender, inbox) = mpsc::unbounded_channel();
        self.inboxes.lock().unwrap().insert(life.id, sender.clone());
        let store = Store::open(world, life, &disk);
        let config = Config {
            id: life.id,
            election_tick: 10,
            heartbeat_tick: 3,
            min_election_tick: 12,
            max_election_tick: 24,
            check_quorum: true,
            pre_vote: self.pre_vote,
            max_inflight_msgs: 64,
            max_size_per_msg: 1 << 20,
            applied: store.applied(),
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, store.clone(), &logger).expect("a good configuration");
        let status = Arc::new(Mutex::new(Status::default()));
        let actor = Actor {
            world: world.clone(),
            life,
            raw,
            store: store.clone(),
            inboxes: self.inboxes.clone(),
            waiting: BTreeMap::new(),
            token: 0,
            status: status.clone(),
            draws: 0,
            elapsed: 0,
        };
        let task = tokio::spawn(actor.live(inbox));
        let member = Member {
            id: life.id,
            sender,
            store,
            status,
            task,
        };
        async move { Arc::new(member) as Arc<dyn Node> }.boxed()
    }
}

struct Member {
    id: Id,
    sender: mpsc::UnboundedSender<In>,
    store: Store,
    status: Arc<Mutex<Status>>,
    task: JoinHandle<()>,
}

impl Node for Member {
    fn status(&self) -> Status {
        let mut status = self.status.lock().unwrap().clone();
        status.applied = self.store.applied();
        if self.task.is_finished() {
            status.leads = false;
            status.dead = Some("it panicked".into());
        }
        status
    }

    fn write(&self, value: u64) -> BoxFuture<'static, Written> {
        let (answer, answered) = oneshot::channel();
        let _ = self.sender.send(In::Write(value, answer));
        async move { answered.await.unwrap_or(Written::Unknown) }.boxed()
    }

    /// One member at a time: a change counts once it is applied.
    fn change(&self, voters: BTreeSet<Id>) -> BoxFuture<'static, bool> {
        let (sender, status, store, id) = (
            self.sender.clone(),
            self.status.clone(),
            self.store.clone(),
            self.id,
        );
        async move {
            loop {
                let now = status.lock().unwrap().voters.clone();
                let learners = store.learners();
                let step = if let Some(new) = voters.difference(&now).next() {
                    let kind = if learners.contains(new) {
                        ConfChangeType::AddNode
                    } else {
                        ConfChangeType::AddLearnerNode
                    };
                    (*new, kind)
                } else if let Some(heir) = voters
                    .iter()
                    .next()
                    .filter(|_| now.contains(&id) && !voters.contains(&id))
                {
                    // A leader that applied its own removal would go on as one and refuse all: it leaves its place first.
                    let _ = sender.send(In::Transfer(*heir));
                    return false;
                } else if let Some(gone) = now.difference(&voters).next() {
                    (*gone, ConfChangeType::RemoveNode)
                } else {
                    return true;
                };
                let mut change = ConfChange::default();
                change.node_id = step.0;
                change.set_change_type(step.1);
                let (answer, answered) = oneshot::channel();
                let _ = sender.send(In::Change(change, answer));
                if answered.await != Ok(Written::Acked) {
                    return false;
                }
                // A new learner gets the time to catch up.
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
        .boxed()
    }

    fn compact(&self) {
        let _ = self.sender.send(In::Compact);
    }

    fn state(&self) -> Vec<u64> {
        self.store.values()
    }

    fn kill(&self) {
        self.task.abort();
    }
}

struct Actor {
    world: World,
    life: Life,
    raw: RawNode<Store>,
    store: Store,
    inboxes: Inboxes,
    waiting: BTreeMap<u64, oneshot::Sender<Written>>,
    token: u64,
    status: Arc<Mutex<Status>>,
    draws: u64,
    elapsed: usize,
}

impl Actor {
    async fn live(mut self, mut inbox: mpsc::UnboundedReceiver<In>) {
        let mut ticks = interval(Duration::from_millis(TICK));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => drop(self.raw.tick()),
                message = inbox.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
            }
            while let Ok(message) = inbox.try_recv() {
                self.take(message);
            }
            self.chance();
            while self.raw.has_ready() {
                if !self.ready().await {
                    return;
                }
            }
            self.tell();
        }
    }

    /// raft-rs draws its timeouts from the thread's generator; here they follow from the seed.
    fn chance(&mut self) {
        let raft = &mut self.raw.raft;
        if raft.election_elapsed < self.elapsed {
            self.draws += 1;
        }
        self.elapsed = raft.election_elapsed;
        let mut mixed = self.world.seed()
            ^ (raft.term << 20)
            ^ (self.life.id << 50)
            ^ (self.draws << 8)
            ^ self.life.count << 40;
        mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        raft.set_randomized_election_timeout(12 + ((mixed >> 33) % 12) as usize);
    }

    fn take(&mut self, message: In) {
        match message {
            In::Message(message) => drop(self.raw.step(*message)),
            In::Snapshot(to, arrived) => {
                let status = if arrived {
                    SnapshotStatus::Finish
                } else {
                    SnapshotStatus::Failure
                };
                self.raw.report_snapshot(to, status);
            }
            In::Write(value, answer) => {
                self.token += 1;
                let token = self.token.to_le_bytes().to_vec();
                match self.raw.propose(token, value.to_le_bytes().to_vec()) {
                    Ok(()) if self.raw.raft.state == StateRole::Leader => {
                        drop(self.waiting.insert(self.token, answer))
                    }
                    Ok(()) => drop(answer.send(Written::Unknown)),
                    Err(_) => drop(answer.send(Written::Refused)),
                }
            }
            In::Change(change, answer) => {
                self.token += 1;
                match self
                    .raw
                    .propose_conf_change(self.token.to_le_bytes().to_vec(), change)
                {
                    Ok(()) => drop(self.waiting.insert(self.token, answer)),
                    Err(_) => drop(answer.send(Written::Refused)),
                }
            }
            In::Transfer(to) => self.raw.transfer_leader(to),
            In::Compact => self.store.compact(),
        }
    }

    /// True unless the process died.
    async fn ready(&mut self) -> bool {
        let mut ready = self.raw.ready();
        self.send(ready.take_messages());
        if *ready.snapshot() != Snapshot::default() {
            self.store.install(ready.snapshot());
        }
        let committed = ready.take_committed_entries();
        self.apply(committed);
        self.store.append(ready.entries());
        if let Some(state) = ready.hs() {
            self.store.set_hard_state(state.clone());
        }
        if !self.store.sync().await {
            return false;
        }
        self.send(ready.take_persisted_messages());
        let mut light = self.raw.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.store.commit(commit);
        }
        self.send(light.take_messages());
        let committed = light.take_committed_entries();
        self.apply(committed);
        self.raw.advance_apply();
        true
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            if entry.get_entry_type() == EntryType::EntryConfChange {
                let mut change = ConfChange::default();
                if change.merge_from_bytes(&entry.data).is_ok() {
                    if let Ok(state) = self.raw.apply_conf_change(&change) {
                        self.store.set_conf_state(state);
                    }
                }
                self.store.apply(&entry, None);
            } else {
                let value = <[u8; 8]>::try_from(&entry.data[..]).ok().map(u64::from_le_bytes);
                self.store.apply(&entry, value);
            }
            let token = <[u8; 8]>::try_from(&entry.context[..])
                .ok()
                .map(u64::from_le_bytes);
            let mine = entry.term == self.raw.raft.term && self.raw.raft.state == StateRole::Leader;
            if let Some(answer) = token
                .filter(|_| mine)
                .and_then(|token| self.waiting.remove(&token))
            {
                let _ = answer.send(Written::Acked);
            }
        }
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let (world, inboxes, from) = (self.world.clone(), self.inboxes.clone(), self.life);
            tokio::spawn(async move {
                let to = message.to;
                let snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
                let arrives = world.way(from.id, to).await && inboxes.lock().unwrap().contains_key(&to);
                if arrives {
                    let twice = world.doubled();
                    post(&inboxes, to, In::Message(Box::new(message.clone())));
                    if twice && world.way(from.id, to).await {
                        post(&inboxes, to, In::Message(Box::new(message)));
                    }
                }
                if snapshot && world.lives(from) {
                    post(&inboxes, from.id, In::Snapshot(to, arrives));
                }
            });
        }
    }

    fn tell(&mut self) {
        let raft = &self.raw.raft;
        let leads = raft.state == StateRole::Leader;
        let mut status = self.status.lock().unwrap();
        if (leads, raft.term) != (status.leads, status.term) {
            self.world.note(format_args!(
                "{} is {:?} in term {}",
                self.life.id, raft.state, raft.term
            ));
        }
        if leads {
            self.world.oracle().leads(self.life.id, raft.term);
        } else {
            for (_, answer) in std::mem::take(&mut self.waiting) {
                let _ = answer.send(Written::Unknown);
            }
        }
        *status = Status {
            term: raft.term,
            leads,
            applied: self.store.applied(),
            voters: self.store.voters(),
            dead: None,
        };
    }
}

fn post(inboxes: &Inboxes, to: Id, message: In) {
    if let Some(inbox) = inboxes.lock().unwrap().get(&to) {
        let _ = inbox.send(message);
    }
}
