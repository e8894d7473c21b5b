//! Elections and signs of life. openraft has timers of its own; they are off.
//!
//! openraft 0.9 draws its election timeout once per process, so that votes can split for ever, lets a member that was cut
//! off disturb the others when it returns, and says nothing while its disk is slow. So this is done here:
//!
//! - a timeout is drawn anew each time;
//! - who wants to lead first asks whether it would be elected ([`PreVote`]), and disturbs nobody if it would not;
//! - signs of life ([`Ping`]) go beside the log;
//! - a leader that the others no longer answer gives up (etcd calls it CheckQuorum). It falls silent first, so that
//!   followers who hear it, but whom it cannot hear, are free to choose another.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::raft::VoteRequest;
use openraft::{CommittedLeaderId, LogId, Raft, ServerState, Vote};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::leadership::{Leadership, Metrics, Stance, is_quorum, leadership};
use super::log::Log;
use super::message::{Ping, PreVote, Request, Response, Transport};
use super::peers::{Peers, Sent};
use super::timing::Timing;
use super::{Member, ROOM, Types};

/// Nobody's number: no member has it.
const NOBODY: u64 = 0;

/// Keeps one member's time.
pub(super) struct Driver {
    pub(super) raft: Raft<Types>,
    pub(super) peers: Arc<Peers>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) log: Log,
    pub(super) timing: Timing,
    pub(super) rng: StdRng,
    pub(super) leadership: watch::Sender<Leadership>,
    /// The members that have answered lately, while this one leads.
    pub(super) reachable: watch::Sender<BTreeSet<u64>>,
    /// Whether another member has said that this one is none any more.
    pub(super) dismissed: watch::Sender<bool>,
}

impl Driver {
    /// Runs until consensus has stopped.
    pub(super) async fn run(mut self) {
        let mut metrics = self.raft.metrics();
        let mut quiet_since = Instant::now();
        loop {
            let now = metrics.borrow_and_update().clone();
            self.publish(&now);
            if now.running_state.is_err() {
                return;
            }
            match Stance::of(&now) {
                Stance::Idle | Stance::Alone => {
                    if metrics.changed().await.is_err() {
                        return;
                    }
                    quiet_since = Instant::now();
                }
                Stance::Removed => {
                    self.step_down(&now, &mut metrics).await;
                    quiet_since = Instant::now();
                }
                Stance::Lead => {
                    self.lead(&now, &mut metrics).await;
                    quiet_since = Instant::now();
                }
                Stance::Follow => quiet_since = self.follow(&now, &mut metrics, quiet_since).await,
            }
        }
    }

    fn publish(&self, now: &Metrics) {
        let heard = self.peers.has_leader(self.timing.election.end);
        let seen = match now.running_state.is_ok() {
            true => leadership(now, heard, self.peers.is_muted()),
            false => Leadership::Unknown,
        };
        self.leadership.send_if_modified(|current| {
            let changed = *current != seen;
            *current = seen;
            changed
        });
    }

    /// Leads the term until it is over.
    async fn lead(&mut self, begun: &Metrics, metrics: &mut watch::Receiver<Metrics>) {
        self.peers.forget_answers();
        let mut term = Term {
            number: begun.current_term,
            since: Instant::now(),
            probe: None,
        };
        loop {
            let now = metrics.borrow_and_update().clone();
            if now.current_term != term.number || Stance::of(&now) != Stance::Lead {
                break;
            }
            self.publish(&now);
            let is_healthy =
                self.has_quorum(&now, &term) && !term.is_stuck(&self.timing) && !self.peers.gives_up();
            if !is_healthy {
                self.give_up(&now, metrics).await;
                break;
            }
            self.publish_reachable(&now, &term);
            self.show_life(&now, &mut term);
            let next = sleep(self.timing.heartbeat);
            tokio::pin!(next);
            // What openraft says of itself is passed on meanwhile, without further signs of life.
            loop {
                tokio::select! {
                    biased;
                    () = &mut next => break,
                    changed = metrics.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        let now = metrics.borrow_and_update().clone();
                        self.publish(&now);
                        if now.state != ServerState::Leader {
                            return;
                        }
                    }
                }
            }
        }
    }

    fn publish_reachable(&self, now: &Metrics, term: &Term) {
        // A term that has just begun has not had the time to find out.
        let is_new = term.since.elapsed() < self.timing.lost;
        let nodes = now.membership_config.membership().nodes();
        let heard = nodes.map(|(id, _)| *id).filter(|&id| {
            let last = self.peers.last_answer(id);
            is_new || id == now.id || last.is_some_and(|at| at.elapsed() < self.timing.lost)
        });
        let heard: BTreeSet<u64> = heard.collect();
        self.reachable.send_if_modified(|current| {
            let changed = *current != heard;
            *current = heard;
            changed
        });
    }

    /// Whether most members have answered lately; a term that has just begun has not had the time to find out.
    fn has_quorum(&self, now: &Metrics, term: &Term) -> bool {
        let lost = self.timing.lost;
        if term.since.elapsed() < lost {
            return true;
        }
        let membership = now.membership_config.membership();
        let heard = membership.voter_ids().filter(|&id| {
            let last = self.peers.last_answer(id);
            id == now.id || last.is_some_and(|at| at.elapsed() < lost)
        });
        is_quorum(membership, &heard.collect())
    }

    fn show_life(&self, now: &Metrics, term: &mut Term) {
        let ping = Ping {
            leader: now.id,
            term: term.number,
        };
        for (&id, member) in now.membership_config.membership().nodes() {
            if id == now.id {
                continue;
            }
            let answer = self.transport.send(member, Request::Ping(ping));
            let (peers, limit, sent) = (self.peers.clone(), self.timing.lost, Sent::now());
            tokio::spawn(async move {
                if let Ok(Ok(Response::Ping(true))) = timeout(limit, answer).await {
                    peers.answered(id, sent);
                }
            });
        }
        term.probe(&self.raft);
    }

    /// Falls silent until the others may have chosen another leader, and is a follower again.
    async fn give_up(&self, now: &Metrics, metrics: &mut watch::Receiver<Metrics>) {
        tracing::warn!(
            term = now.current_term,
            "this manager gives up leading: most managers do not answer, or its disk does not, or it is full"
        );
        self.peers.mute(true);
        self.publish(now);
        sleep(self.timing.lease).await;
        self.step_down(now, metrics).await;
        self.peers.mute(false);
    }

    /// Makes openraft a follower. It steps down for a higher term only; so there is one, of nobody.
    async fn step_down(&self, now: &Metrics, metrics: &mut watch::Receiver<Metrics>) {
        let request = VoteRequest {
            vote: Vote::new(now.current_term + 1, NOBODY),
            last_log_id: Some(LogId::new(CommittedLeaderId::new(u64::MAX, NOBODY), u64::MAX)),
        };
        loop {
            // A disk that does not answer keeps openraft from hearing this; it is heard afterwards.
            let (raft, request) = (self.raft.clone(), request.clone());
            tokio::spawn(async move { raft.vote(request).await.map(drop) });
            let down = metrics.wait_for(|now| now.state != ServerState::Leader || now.running_state.is_err());
            // openraft refuses all votes for one lease after it was elected.
            match timeout(self.timing.lease, down).await {
                Ok(_) => return,
                Err(_) => continue,
            }
        }
    }

    /// Waits for a sign of the leader or a change; campaigns when there is none in time. Returns since when it is quiet.
    async fn follow(
        &mut self,
        now: &Metrics,
        metrics: &mut watch::Receiver<Metrics>,
        quiet_since: Instant,
    ) -> Instant {
        let mut leader = self.peers.leader();
        let heard = *leader.borrow_and_update();
        let quiet_since = heard.map_or(quiet_since, |at| at.max(quiet_since));
        let is_alone = now.membership_config.membership().voter_ids().count() == 1;
        let patience = match is_alone {
            true => std::time::Duration::ZERO,
            false => self.rng.random_range(self.timing.election.clone()),
        };
        tokio::select! {
            // Whoever is late itself has not heard yet what was said meanwhile: that comes before the judgement.
            biased;
            _ = leader.changed() => quiet_since,
            _ = metrics.changed() => quiet_since,
            () = sleep_until(quiet_since + patience) => {
                self.campaign(now, metrics).await;
                Instant::now()
            }
        }
    }

    async fn campaign(&mut self, now: &Metrics, metrics: &mut watch::Receiver<Metrics>) {
        self.publish(now);
        let is_alone = now.membership_config.membership().voter_ids().count() == 1;
        let has_room = is_alone || self.log.reserve(ROOM).await.is_ok();
        if !has_room || !self.would_win(now).await {
            return;
        }
        tracing::info!(term = now.current_term + 1, "this manager wants to lead");
        // The only error is that openraft has stopped, which the metrics say.
        let _ = self.raft.trigger().elect().await;
        let decided = metrics.wait_for(|then| {
            // Until openraft has seen to it, it names the leader before.
            let other = then.current_leader.is_some_and(|id| id != then.id);
            then.state == ServerState::Leader
                || then.running_state.is_err()
                || (other && then.current_term > now.current_term)
        });
        let _ = timeout(self.timing.lease, decided).await;
    }

    /// Asks the others whether they would vote for this member.
    async fn would_win(&self, now: &Metrics) -> bool {
        let membership = now.membership_config.membership();
        let question = PreVote {
            candidate: now.id,
            last_log_id: self.log.last(),
        };
        let ask = |(&id, member): (&u64, &Member)| {
            let answer = self.transport.send(member, Request::PreVote(question));
            async move { (id, answer.await) }
        };
        let mut answers: FuturesUnordered<_> = membership
            .nodes()
            .filter(|(id, _)| **id != now.id)
            .map(ask)
            .collect();
        let mut granted = BTreeSet::from([now.id]);
        let count = async {
            while !is_quorum(membership, &granted) {
                match answers.next().await {
                    Some((id, Ok(Response::PreVote(true)))) => drop(granted.insert(id)),
                    // openraft does not tell a member that it was taken out.
                    Some((_, Err(error))) if error.dismissed => drop(self.dismissed.send_replace(true)),
                    Some(_) => {}
                    None => return false,
                }
            }
            true
        };
        timeout(self.timing.lease, count).await.unwrap_or(false)
    }
}

/// A term that this member leads.
struct Term {
    number: u64,
    since: Instant,
    /// Asks openraft for a sign of its own life, and makes it send its followers what is agreed upon.
    probe: Option<(JoinHandle<()>, Instant)>,
}

impl Term {
    fn probe(&mut self, raft: &Raft<Types>) {
        if self.probe.as_ref().is_some_and(|(probe, _)| !probe.is_finished()) {
            return;
        }
        let raft = raft.clone();
        let probe = tokio::spawn(async move {
            // The only error is that openraft has stopped, which the metrics say.
            let _ = raft.trigger().heartbeat().await;
            let _ = raft.with_raft_state(|_| ()).await;
        });
        self.probe = Some((probe, Instant::now()));
    }

    fn is_stuck(&self, timing: &Timing) -> bool {
        let stuck = |(probe, since): &(JoinHandle<()>, Instant)| {
            !probe.is_finished() && since.elapsed() > timing.stuck
        };
        self.probe.as_ref().is_some_and(stuck)
    }
}
