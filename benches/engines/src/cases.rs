//! What happens to the group, case by case, and what is asked at the end of each.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{sleep, timeout};

use crate::cluster::{Cluster, Engine, Written};
use crate::world::{Id, World};

/// A group must take writes again within so many milliseconds after the last trouble.
const WITHIN: u64 = 5_000;

/// A case: how many members it begins with, and its story, which tells who votes at the end.
pub struct Case {
    pub name: &'static str,
    members: u64,
    story: fn(Cluster) -> BoxFuture<'static, Vec<Id>>,
}

macro_rules! case {
    ($name:literal, $members:literal, $story:ident) => {
        Case {
            name: $name,
            members: $members,
            story: |cluster| $story(cluster).boxed(),
        }
    };
}

pub const ALL: &[Case] = &[
    case!("leader-loss", 3, leader_loss),
    case!("demote-leader", 2, demote_leader),
    case!("demote-follower", 2, demote_follower),
    case!("growth", 1, growth),
    case!("flapping", 3, flapping),
    case!("deaf-leader", 3, deaf_leader),
    case!("mute-leader", 3, mute_leader),
    case!("deaf-follower", 3, deaf_follower),
    case!("slow-disk", 3, slow_disk),
    case!("restart-all", 3, restart_all),
    case!("removed-returns", 3, removed_returns),
    case!("late-follower", 3, late_follower),
    case!("snapshot-crash", 3, snapshot_crash),
    case!("storm", 5, storm),
];

/// Plays a case from an empty group to its judgement.
pub async fn play(case: &Case, engine: Box<dyn Engine>, world: World) {
    world.note(format_args!("case {} seed {}", case.name, world.seed()));
    let cluster = Cluster::new(world.clone(), engine);
    let members: Vec<Id> = (1..=case.members).collect();
    for &id in &members {
        cluster.start(id).await;
    }
    cluster.wait_leader().await;
    if !cluster.become_voters(&members, 30).await {
        world.violation("no group: the members did not become voters".into());
        return;
    }
    let writers = [
        tokio::spawn(cluster.clone().keep_writing(1_000_000, 20)),
        tokio::spawn(cluster.clone().keep_writing(2_000_000, 60)),
    ];
    sleep(millis(500)).await;
    let voters = (case.story)(cluster.clone()).await;
    settle(&cluster, &voters).await;
    writers.iter().for_each(|writer| writer.abort());
    judge(&cluster, &voters).await;
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// All is well again: within a while a write must get through.
async fn settle(cluster: &Cluster, voters: &[Id]) {
    let world = &cluster.world;
    world.heal();
    for &id in voters {
        if cluster.node(id).is_none() {
            cluster.start(id).await;
        }
    }
    world.note("healed");
    let healed = world.now();
    match available(cluster, 3_000_000, 20_000).await {
        Some(after) if after > WITHIN => world.violation(format!("slow to heal: {after} ms")),
        Some(_) => {}
        None => world
            .violation("not available: no write was taken within 20 s after everything was healed".into()),
    }
    world.healed_in(world.now() - healed);
}

/// Milliseconds until a write is acknowledged; `None` if none is within `most`.
async fn available(cluster: &Cluster, first: u64, most: u64) -> Option<u64> {
    let begun = cluster.world.now();
    let tries = async {
        let mut value = first + begun * 10;
        while cluster.write(value).await != Written::Acked {
            value += 1;
            sleep(millis(20)).await;
        }
    };
    timeout(millis(most), tries)
        .await
        .ok()
        .map(|()| cluster.world.now() - begun)
}

/// A majority works: writes must go on within a few seconds although something else is wrong.
async fn must_work(cluster: &Cluster, first: u64, what: &str) {
    if available(cluster, first, 6_000).await.is_none() {
        cluster.world.violation(format!("not available: {what}"));
    }
}

/// Everybody comes to the same state, and it holds all that was acknowledged.
async fn judge(cluster: &Cluster, voters: &[Id]) {
    let world = &cluster.world;
    sleep(millis(500)).await;
    let same = async {
        loop {
            let states: BTreeSet<_> = voters
                .iter()
                .filter_map(|id| Some(cluster.node(*id)?.status().applied))
                .collect();
            if states.len() == 1 {
                return;
            }
            sleep(millis(50)).await;
        }
    };
    if timeout(millis(15_000), same).await.is_err() {
        let applied: Vec<_> = cluster
            .nodes()
            .iter()
            .map(|(id, node)| (*id, node.status().applied))
            .collect();
        world.violation(format!("not the same: members stay at {applied:?}"));
    }
    for (id, node) in cluster.nodes() {
        if let Some(reason) = node.status().dead {
            world.violation(format!("gave up: member {id}: {reason}"));
        } else if voters.contains(&id) {
            world.oracle().kept(id, &node.state());
        }
    }
}

async fn leader_loss(cluster: Cluster) -> Vec<Id> {
    for _ in 0..3 {
        let Some(leader) = cluster.wait_leader().await else {
            break;
        };
        cluster.kill(leader);
        must_work(&cluster, 4_000_000, "one of three is down").await;
        cluster.start(leader).await;
        sleep(millis(cluster.world.draw(10..2000))).await;
    }
    vec![1, 2, 3]
}

async fn demote(cluster: &Cluster, leader: bool) -> Vec<Id> {
    let first = cluster.wait_leader().await.unwrap_or(1);
    let stays = if leader { 3 - first } else { first };
    cluster.world.weather(3, 3, 30);
    if !cluster.become_voters(&[stays], 60).await {
        cluster
            .world
            .violation("not demoted: the change did not come to an end".into());
    }
    // Whoever was demoted leaves at once.
    cluster.kill(3 - stays);
    must_work(cluster, 4_000_000, "the demoted one left").await;
    let other = cluster.node(stays).map(|node| node.status().voters);
    if other != Some(BTreeSet::from([stays])) {
        cluster
            .world
            .violation(format!("not alone: the one that stays sees the voters {other:?}"));
    }
    vec![stays]
}

async fn demote_leader(cluster: Cluster) -> Vec<Id> {
    demote(&cluster, true).await
}

async fn demote_follower(cluster: Cluster) -> Vec<Id> {
    demote(&cluster, false).await
}

async fn growth(cluster: Cluster) -> Vec<Id> {
    cluster.world.weather(2, 2, 20);
    for id in 2..=5 {
        cluster.start(id).await;
    }
    for voters in [&[1, 2, 3][..], &[1, 2, 3, 4, 5], &[3, 4, 5], &[5]] {
        if !cluster.become_voters(voters, 60).await {
            cluster
                .world
                .violation(format!("no growth: {voters:?} did not become the voters"));
            return vec![1, 2, 3, 4, 5];
        }
        for (id, _) in cluster.nodes() {
            // Members that are no longer needed stay for a while, and go.
            if !voters.contains(&id) && id < voters[0] {
                cluster.kill(id);
            }
        }
        must_work(&cluster, 4_000_000, "after growth").await;
    }
    vec![5]
}

async fn flapping(cluster: Cluster) -> Vec<Id> {
    let world = cluster.world.clone();
    let id = world.draw(1..4);
    let both = world.chance(0.5);
    for _ in 0..10 {
        let sending = both || world.chance(0.5);
        world.isolate(id, sending, both || !sending);
        sleep(millis(world.draw(200..2500))).await;
        world.isolate(id, false, false);
        sleep(millis(world.draw(50..1500))).await;
    }
    world.isolate(id, true, true);
    must_work(&cluster, 4_000_000, "one of three is cut off").await;
    vec![1, 2, 3]
}

async fn one_way(cluster: Cluster, leader: bool, sending: bool) -> Vec<Id> {
    let world = cluster.world.clone();
    let first = cluster.wait_leader().await.unwrap_or(1);
    let id = if leader { first } else { first % 3 + 1 };
    world.note(format_args!(
        "{id} can only {}",
        if sending { "receive" } else { "send" }
    ));
    world.isolate(id, sending, !sending);
    for round in 0..4 {
        must_work(
            &cluster,
            4_000_000 + round * 500_000,
            "one of three is cut off one way",
        )
        .await;
        sleep(millis(1500)).await;
    }
    vec![1, 2, 3]
}

async fn deaf_leader(cluster: Cluster) -> Vec<Id> {
    one_way(cluster, true, false).await
}

async fn mute_leader(cluster: Cluster) -> Vec<Id> {
    one_way(cluster, true, true).await
}

async fn deaf_follower(cluster: Cluster) -> Vec<Id> {
    one_way(cluster, false, false).await
}

async fn slow_disk(cluster: Cluster) -> Vec<Id> {
    let leader = cluster.wait_leader().await.unwrap_or(1);
    let slow = cluster.world.draw(500..5000);
    cluster.world.slow_disk(leader, slow);
    sleep(millis(6_000)).await;
    must_work(&cluster, 4_000_000, "one of three has a slow disk").await;
    vec![1, 2, 3]
}

async fn restart_all(cluster: Cluster) -> Vec<Id> {
    for _ in 0..3 {
        (1..=3).for_each(|id| cluster.kill(id));
        for id in 1..=3 {
            sleep(millis(cluster.world.draw(0..400))).await;
            cluster.start(id).await;
        }
        must_work(&cluster, 4_000_000, "all were restarted").await;
        sleep(millis(cluster.world.draw(0..500))).await;
    }
    vec![1, 2, 3]
}

async fn removed_returns(cluster: Cluster) -> Vec<Id> {
    let world = cluster.world.clone();
    let leader = cluster.wait_leader().await.unwrap_or(1);
    let gone = leader % 3 + 1;
    if world.chance(0.5) {
        cluster.kill(gone);
    } else {
        world.isolate(gone, true, true);
    }
    let stay: Vec<Id> = (1..=3).filter(|id| *id != gone).collect();
    if !cluster.become_voters(&stay, 30).await {
        world.violation("not removed: the change did not come to an end".into());
    }
    sleep(millis(world.draw(100..3000))).await;
    world.isolate(gone, false, false);
    if cluster.node(gone).is_none() {
        cluster.start(gone).await;
    }
    for round in 0..3 {
        must_work(
            &cluster,
            4_000_000 + round * 500_000,
            "a removed member came back",
        )
        .await;
        sleep(millis(1500)).await;
    }
    stay
}

async fn late_follower(cluster: Cluster) -> Vec<Id> {
    let leader = cluster.wait_leader().await.unwrap_or(1);
    let late = leader % 3 + 1;
    cluster.kill(late);
    for _ in 0..3 {
        sleep(millis(1500)).await;
        cluster.nodes().iter().for_each(|(_, node)| node.compact());
    }
    cluster.world.weather(3, 3, 20);
    cluster.start(late).await;
    sleep(millis(cluster.world.draw(500..3000))).await;
    vec![1, 2, 3]
}

/// Members crash while snapshots are written and taken over.
async fn snapshot_crash(cluster: Cluster) -> Vec<Id> {
    let world = cluster.world.clone();
    for _ in 0..6 {
        let leader = cluster.wait_leader().await.unwrap_or(1);
        let late = leader % 3 + 1;
        cluster.kill(late);
        sleep(millis(700)).await;
        cluster.nodes().iter().for_each(|(_, node)| node.compact());
        sleep(millis(300)).await;
        world.slow_disk(late, 60);
        cluster.start(late).await;
        sleep(millis(world.draw(1..400))).await;
        cluster.kill(late);
        cluster.start(late).await;
        sleep(millis(500)).await;
    }
    vec![1, 2, 3]
}

async fn storm(cluster: Cluster) -> Vec<Id> {
    let world = cluster.world.clone();
    world.weather(5, 5, 60);
    for _ in 0..40 {
        trouble(&cluster).await;
        sleep(millis(world.draw(20..900))).await;
    }
    vec![1, 2, 3, 4, 5]
}

async fn trouble(cluster: &Cluster) {
    let world = &cluster.world;
    let id = world.draw(1..6);
    match world.draw(0..10) {
        0 | 1 => cluster.kill(id),
        2..=4 => {
            for id in 1..=5 {
                if cluster.node(id).is_none() {
                    cluster.start(id).await;
                }
            }
        }
        5 => world.isolate(id, world.chance(0.6), world.chance(0.6)),
        6 => (1..=5).for_each(|id| world.isolate(id, false, false)),
        7 => world.slow_disk(id, world.draw(2..1500)),
        8 => cluster.nodes().iter().for_each(|(_, node)| node.compact()),
        _ => {
            if let Some(leader) = cluster.leader() {
                cluster.kill(leader);
            }
        }
    }
}
