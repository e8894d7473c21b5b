//! Our own timer: heartbeats, a fresh random timeout before each election, a vote before the vote, and a leader that gives up
//! when it hears no quorum.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::raft::VoteRequest;
use openraft::{ServerState, Vote};
use tokio::time::{Instant, sleep, timeout};

use super::{HEARTBEAT, LEASE, Member, Members, Rules};
use crate::world::Id;

pub(super) fn begin(member: Arc<Member>, rules: Rules, members: Members) {
    tokio::spawn(observe(member.clone()));
    if rules.own_timer {
        tokio::spawn(heartbeats(member.clone(), rules));
        tokio::spawn(elections(member, rules, members));
    }
}

fn alive(member: &Member) -> bool {
    !member.stopped.load(Ordering::SeqCst) && member.world.lives(member.life)
}

/// Tells the oracle who leads.
async fn observe(member: Arc<Member>) {
    let Some(raft) = &member.raft else { return };
    let mut metrics = raft.server_metrics();
    let mut before = (0, ServerState::Learner);
    loop {
        let now = {
            let metrics = metrics.borrow_and_update();
            (metrics.vote.leader_id().get_term(), metrics.state)
        };
        if alive(&member) && now != before {
            member.world.note(format_args!(
                "{} is {:?} in term {}",
                member.life.id, now.1, now.0
            ));
            if now.1 == ServerState::Leader {
                member.world.oracle().leads(member.life.id, now.0);
            }
            before = now;
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

async fn heartbeats(member: Arc<Member>, rules: Rules) {
    let Some(raft) = &member.raft else { return };
    while alive(&member) {
        sleep(Duration::from_millis(HEARTBEAT)).await;
        let Some(metrics) = member.metrics() else { return };
        if metrics.state != ServerState::Leader {
            continue;
        }
        if rules.quorum
            && metrics
                .millis_since_quorum_ack
                .is_some_and(|since| since > 2 * LEASE)
        {
            give_up(&member, &metrics).await;
            continue;
        }
        let _ = raft.trigger().heartbeat().await;
    }
}

/// There is no call for it: the own member votes for another one that did not ask. That other never hears of it.
async fn give_up(member: &Member, metrics: &openraft::RaftMetrics<u64, openraft::BasicNode>) {
    let Some(raft) = &member.raft else { return };
    let Some(other) = metrics
        .membership_config
        .voter_ids()
        .find(|id| *id != member.life.id)
    else {
        return;
    };
    member
        .world
        .note(format_args!("{} hears no quorum and gives up", member.life.id));
    let last_log_id = member.machine.last_log();
    let vote = Vote::new(metrics.current_term + 1, other);
    let _ = raft.vote(VoteRequest { vote, last_log_id }).await;
}

async fn elections(member: Arc<Member>, rules: Rules, members: Members) {
    let Some(raft) = &member.raft else { return };
    let mut begun = Instant::now();
    while alive(&member) {
        let wait = Duration::from_millis(member.world.draw(LEASE + 100..2 * LEASE + 200));
        let since = (*member.heard.lock().unwrap()).map_or(begun, |heard| heard.max(begun));
        sleep(
            wait.saturating_sub(since.elapsed())
                .max(Duration::from_millis(20)),
        )
        .await;
        let Some(metrics) = member.metrics() else { return };
        let quiet = (*member.heard.lock().unwrap()).is_none_or(|heard| heard <= since);
        let votes = metrics
            .membership_config
            .voter_ids()
            .any(|id| id == member.life.id);
        if metrics.state == ServerState::Leader || !votes || !quiet || !alive(&member) {
            continue;
        }
        begun = Instant::now();
        if !rules.pre_vote || would_win(&member, &metrics, &members).await {
            member
                .world
                .note(format_args!("{} stands for election", member.life.id));
            member.elections.fetch_add(1, Ordering::SeqCst);
            let _ = raft.trigger().elect().await;
        }
    }
}

/// Asks all voters whether they would vote for this member.
async fn would_win(
    member: &Arc<Member>,
    metrics: &openraft::RaftMetrics<u64, openraft::BasicNode>,
    members: &Members,
) -> bool {
    let last = member.machine.last_log();
    let ask = |to: Id| {
        let (member, members) = (member.clone(), members.clone());
        async move {
            let serve = || {
                let asked = members.lock().unwrap().get(&to).cloned();
                async move { asked.is_some_and(|asked| asked.would_vote(last)) }
            };
            let answer = timeout(
                Duration::from_millis(LEASE),
                member.world.call(member.life, to, serve),
            )
            .await;
            (to, matches!(answer, Ok(Ok(true))))
        }
    };
    let me = member.life.id;
    let voters: BTreeSet<Id> = metrics
        .membership_config
        .voter_ids()
        .filter(|id| *id != me)
        .collect();
    let mut asked: FuturesUnordered<_> = voters.into_iter().map(ask).collect();
    let mut granted = BTreeSet::from([me]);
    let quorum = |granted: &BTreeSet<Id>| {
        let sets = metrics.membership_config.membership().get_joint_config();
        sets.iter()
            .all(|set| set.intersection(granted).count() * 2 > set.len())
    };
    while !quorum(&granted) {
        match asked.next().await {
            Some((id, true)) => drop(granted.insert(id)),
            Some((_, false)) => {}
            None => return false,
        }
    }
    true
}
