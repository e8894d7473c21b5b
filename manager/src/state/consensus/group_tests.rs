//! Several members in one process, over a network that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use proto::{Service, ServiceId};
use tempfile::TempDir;

use super::message::{Request, Response, Transport, TransportError};
use super::*;
use crate::state::{Reader, Store, StoreError, WriteTx};
use crate::vault::Vault;

/// Where every member is reached, and which ways are cut.
#[derive(Default)]
struct Net {
    members: Mutex<BTreeMap<String, Weak<Consensus>>>,
    cut: Mutex<BTreeSet<(String, String)>>,
}

/// One member's end of it.
struct End {
    own: String,
    net: Arc<Net>,
}

impl Transport for End {
    fn send(&self, to: &Member, request: Request) -> BoxFuture<'static, Result<Response, TransportError>> {
        let (net, own, to) = (self.net.clone(), self.own.clone(), to.address.clone());
        let is_cut = move |net: &Net, from: &String, to: &String| {
            net.cut.lock().unwrap().contains(&(from.clone(), to.clone()))
        };
        Box::pin(async move {
            let lost = |reason: &str| TransportError {
                address: to.clone(),
                reason: reason.into(),
                dismissed: false,
            };
            if is_cut(&net, &own, &to) {
                return std::future::pending().await;
            }
            let member = net.members.lock().unwrap().get(&to).and_then(Weak::upgrade);
            let member = member.ok_or_else(|| lost("down"))?;
            // What travels is what the wire carries.
            let request = match request {
                Request::Snapshot(transfer) => Request::Snapshot(transfer),
                other => serde_json::from_slice(&serde_json::to_vec(&other).unwrap()).unwrap(),
            };
            let answer = member.handle(request).await.map_err(|_| lost("stopped"))?;
            if is_cut(&net, &to, &own) {
                return std::future::pending().await;
            }
            Ok(serde_json::from_slice(&serde_json::to_vec(&answer).unwrap()).unwrap())
        })
    }
}

struct Node {
    id: u64,
    consensus: Arc<Consensus>,
    store: Store,
}

struct Group {
    net: Arc<Net>,
    dir: TempDir,
}

impl Group {
    fn new() -> Self {
        Self {
            net: Arc::default(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn config(&self, id: u64) -> ConsensusConfig {
        ConsensusConfig {
            dir: self.dir.path().join(id.to_string()),
            id,
            member: member(id),
            transport: Arc::new(End {
                own: member(id).address,
                net: self.net.clone(),
            }),
            timing: Timing::default(),
            seed: Some(id),
            at_rest: Vault::open(&self.dir.path().join(format!("vault{id}")), None)
                .unwrap()
                .at_rest(),
        }
    }

    fn plug(&self, id: u64, consensus: Consensus, replica: Replica) -> Node {
        let consensus = Arc::new(consensus);
        let address = member(id).address;
        self.net
            .members
            .lock()
            .unwrap()
            .insert(address, Arc::downgrade(&consensus));
        Node {
            id,
            store: Store::new(replica, consensus.clone()),
            consensus,
        }
    }

    async fn create(&self, id: u64) -> Node {
        let replica = Replica::default();
        let consensus = Consensus::create(&self.config(id), replica.clone())
            .await
            .unwrap();
        self.plug(id, consensus, replica)
    }

    async fn open(&self, id: u64) -> Node {
        let replica = Replica::default();
        let consensus = Consensus::open(&self.config(id), replica.clone()).await.unwrap();
        self.plug(id, consensus, replica)
    }

    async fn join(&self, id: u64, leader: &Node) -> Node {
        let replica = Replica::default();
        let consensus = Consensus::join(&self.config(id), replica.clone()).await.unwrap();
        let node = self.plug(id, consensus, replica);
        leader.consensus.add(id, member(id)).await.unwrap();
        node.consensus.takes_part().await.unwrap();
        node
    }

    async fn three(&self) -> [Node; 3] {
        let first = self.create(1).await;
        let second = self.join(2, &first).await;
        let third = self.join(3, &first).await;
        [first, second, third]
    }

    fn cut(&self, from: u64, to: u64) {
        self.net
            .cut
            .lock()
            .unwrap()
            .insert((member(from).address, member(to).address));
    }

    fn isolate(&self, id: u64, others: &[u64]) {
        for &other in others {
            self.cut(id, other);
            self.cut(other, id);
        }
    }

    fn heal(&self) {
        self.net.cut.lock().unwrap().clear();
    }
}

impl Node {
    async fn add(&self, id: &str) -> Result<(), StoreError> {
        let mut service = Service {
            id: ServiceId::from(id),
            ..Service::default()
        };
        service.spec.name = id.into();
        self.store.update(|tx| tx.create(service)).await
    }

    fn has(&self, id: &str) -> bool {
        self.store.view(|tx| tx.get::<Service>(id)).is_some()
    }

    async fn sees(&self, id: &str) {
        let (there, mut changes) = self
            .store
            .view_and_watch(Default::default(), |tx| tx.get::<Service>(id).is_some());
        if there {
            return;
        }
        while !self.has(id) {
            within(changes.next()).await;
        }
    }

    async fn leads(&self) {
        within(self.consensus.leadership().wait_for(|seen| seen.term().is_some()))
            .await
            .unwrap();
    }

    async fn stops_leading(&self) {
        within(self.consensus.leadership().wait_for(|seen| seen.term().is_none()))
            .await
            .unwrap();
    }

    async fn follows(&self, leader: &Node) {
        let expected = Leadership::Follows(member(leader.id));
        within(self.consensus.leadership().wait_for(|seen| *seen == expected))
            .await
            .unwrap();
    }
}

fn member(id: u64) -> Member {
    Member {
        address: format!("m{id}"),
        node: format!("node{id}").into(),
    }
}

/// Whoever of them leads first.
async fn leader<'a>(nodes: &[&'a Node]) -> &'a Node {
    let (_, first, _) = futures::future::select_all(nodes.iter().map(|node| Box::pin(node.leads()))).await;
    nodes[first]
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("it takes too long")
}

#[tokio::test]
async fn what_the_leader_writes_is_everywhere() {
    let group = Group::new();
    let [first, second, third] = group.three().await;
    first.add("a").await.unwrap();
    second.sees("a").await;
    third.sees("a").await;
    second.follows(&first).await;
    assert!(matches!(
        second.add("b").await,
        Err(StoreError::Propose(ProposeError::NotLeader))
    ));
    first.consensus.confirm().await.unwrap();
    assert!(second.consensus.confirm().await.is_err());
}

#[tokio::test]
async fn a_lost_leader_is_replaced_and_comes_back_as_a_follower() {
    let group = Group::new();
    let [first, second, third] = group.three().await;
    first.add("before").await.unwrap();
    first.consensus.shutdown().await;
    drop(first);
    let new = leader(&[&second, &third]).await;
    new.add("after").await.unwrap();
    let first = group.open(1).await;
    first.sees("after").await;
    assert!(first.has("before"));
    first.follows(new).await;
}

#[tokio::test]
async fn a_leader_that_hears_nobody_falls_silent() {
    let group = Group::new();
    let [first, second, third] = group.three().await;
    // They hear the leader; it does not hear them.
    group.cut(2, 1);
    group.cut(3, 1);
    first.stops_leading().await;
    let new = leader(&[&second, &third]).await;
    new.add("without").await.unwrap();
    group.heal();
    first.sees("without").await;
    first.follows(new).await;
}

#[tokio::test]
async fn a_member_that_was_away_disturbs_nobody() {
    let group = Group::new();
    let [first, second, third] = group.three().await;
    let term = first.consensus.leadership().borrow().term();
    group.isolate(3, &[1, 2]);
    within(
        third
            .consensus
            .leadership()
            .wait_for(|seen| *seen == Leadership::Unknown),
    )
    .await
    .unwrap();
    first.add("meanwhile").await.unwrap();
    // Time enough for many elections.
    tokio::time::sleep(Duration::from_secs(3)).await;
    group.heal();
    third.sees("meanwhile").await;
    third.follows(&first).await;
    second.follows(&first).await;
    assert_eq!(first.consensus.leadership().borrow().term(), term);
}

/// For longer than openraft waits for an answer, and for less than it takes the others to want another leader.
const SLOW: Duration = Duration::from_millis(430);

#[tokio::test]
async fn a_leader_that_is_answered_late_still_leads() {
    let group = Group::new();
    let nodes = group.three().await;
    let all: Vec<&Node> = nodes.iter().collect();
    for _ in 0..20 {
        let leads = leader(&all).await;
        let term = leads.consensus.leadership().borrow().term();
        let others: Vec<u64> = all
            .iter()
            .map(|node| node.id)
            .filter(|id| *id != leads.id)
            .collect();
        group.isolate(leads.id, &others);
        let heals = async {
            tokio::time::sleep(SLOW).await;
            group.heal();
        };
        let (confirmed, ()) = tokio::join!(within(leads.consensus.confirm()), heals);
        // On a busy machine the others may have been left alone for too long.
        if leads.consensus.leadership().borrow().term() == term {
            confirmed.unwrap();
            return;
        }
    }
    panic!("in none of the rounds was there one leader throughout");
}

#[tokio::test]
async fn a_write_of_a_leader_that_is_cut_off_is_not_acknowledged() {
    let group = Group::new();
    let [first, second, third] = group.three().await;
    group.isolate(1, &[2, 3]);
    let lost = within(first.add("lost")).await;
    assert!(
        matches!(
            lost,
            Err(StoreError::Propose(
                ProposeError::Unknown | ProposeError::NotLeader
            ))
        ),
        "{lost:?}"
    );
    let new = leader(&[&second, &third]).await;
    new.add("kept").await.unwrap();
    group.heal();
    first.sees("kept").await;
    assert!(!first.has("lost"), "nobody has agreed to it");
}

/// It was computed before somebody else led, and arrives when this member leads again.
#[tokio::test]
async fn a_change_of_an_earlier_reign_does_not_undo_what_was_written_since() {
    let group = Group::new();
    let nodes = group.three().await;
    let [first, second, third] = &nodes;
    first.add("kept").await.unwrap();
    let relabel = |tx: &mut WriteTx<'_>, label: &str| {
        tx.modify("kept", |service: &mut Service| {
            service.spec.labels.insert(label.into(), String::new());
        })
    };
    let mut batch = first.store.batch().await;
    batch.update(|tx| relabel(tx, "stale")).await.unwrap();
    group.isolate(1, &[2, 3]);
    first.stops_leading().await;
    let mut leads = leader(&[second, third]).await;
    leads.store.update(|tx| relabel(tx, "newest")).await.unwrap();
    group.heal();
    while leads.id != 1 {
        let others: Vec<&Node> = nodes.iter().filter(|node| node.id != leads.id).collect();
        let ids: Vec<u64> = others.iter().map(|node| node.id).collect();
        let before = leads;
        group.isolate(before.id, &ids);
        leads = leader(&others).await;
        group.heal();
        before.follows(leads).await;
    }
    let stale = within(batch.commit()).await;
    assert!(stale.is_err(), "it was acknowledged");
    first.add("after").await.unwrap();
    for node in &nodes {
        node.sees("after").await;
        let kept = node.store.view(|tx| tx.get::<Service>("kept")).unwrap();
        let labels: Vec<_> = kept.spec.labels.keys().map(String::as_str).collect();
        assert_eq!(labels, ["newest"], "member {}", node.id);
    }
}

#[tokio::test]
async fn from_one_to_three_to_one() {
    let group = Group::new();
    let [first, second, third] = group.three().await;
    first.consensus.remove(3).await.unwrap();
    // Of two, the one that leads is taken out: the other leads.
    first.consensus.remove(1).await.unwrap();
    within(first.consensus.is_left_out()).await;
    second.leads().await;
    second.add("alone").await.unwrap();
    assert_eq!(second.consensus.members().len(), 1);
    assert!(matches!(
        second.consensus.remove(2).await,
        Err(MembershipError::Quorum)
    ));
    drop(third);
    drop(first);
    let fourth = group.join(4, &second).await;
    assert!(fourth.has("alone"));
    // Of two, the one that follows is taken out.
    second.consensus.remove(4).await.unwrap();
    second.add("alone again").await.unwrap();
}

#[tokio::test]
async fn one_goes_on_alone_with_what_it_has() {
    let group = Group::new();
    let [first, second, third] = group.three().await;
    first.add("kept").await.unwrap();
    third.sees("kept").await;
    for node in [first, second, third] {
        node.consensus.shutdown().await;
    }
    Consensus::rescue(&group.config(3)).await.unwrap();
    let third = group.open(3).await;
    assert!(third.has("kept"));
    assert_eq!(third.consensus.members().len(), 1);
    third.add("more").await.unwrap();
    let fourth = group.join(4, &third).await;
    assert!(fourth.has("kept") && fourth.has("more"));
}
