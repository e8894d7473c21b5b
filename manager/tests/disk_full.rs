//! A full disk refuses changes with words for the user; reading goes on, and so does everything once there is room.
//! Needs root: it mounts a small tmpfs in a mount namespace of its own.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use manager::state::consensus::{Consensus, ConsensusConfig};
use manager::state::{ProposeError, Reader, Replica, Store, StoreError};
use manager::vault::AtRest;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use proto::Config;

/// Fills the file system to the last byte.
fn fill(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("ballast");
    let mut file = File::create(&path).unwrap();
    for size in [1 << 16, 1 << 12, 1] {
        let piece = vec![0; size];
        while file.write_all(&piece).is_ok() {}
    }
    path
}

async fn add(store: &Store, id: &str, size: usize) -> Result<(), StoreError> {
    let mut config = Config {
        id: id.into(),
        ..Config::default()
    };
    config.spec.name = id.into();
    config.spec.data = "A".repeat(size);
    store.update(|tx| tx.create(config)).await
}

fn count(store: &Store) -> usize {
    store.view(|tx| tx.all::<Config>().len())
}

async fn run(dir: &Path) {
    let config = ConsensusConfig::alone(dir.join("raft"), AtRest::ephemeral());
    let replica = Replica::default();
    let consensus = Arc::new(Consensus::create(&config, replica.clone()).await.unwrap());
    let store = Store::new(replica, consensus.clone());
    add(&store, "first", 10).await.unwrap();

    let ballast = fill(dir);
    let mut kept = 1;
    let refused = loop {
        match add(&store, &format!("c{kept}"), 100_000).await {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(refused, StoreError::Propose(ProposeError::DiskFull { .. })),
        "{refused:?}"
    );
    assert_eq!(count(&store), kept);

    std::fs::remove_file(ballast).unwrap();
    add(&store, "after", 100_000).await.unwrap();
    consensus.shutdown().await;

    let replica = Replica::default();
    let again = Consensus::open(&config, replica.clone()).await.unwrap();
    assert_eq!(count(&Store::new(replica, Arc::new(again))), kept + 1);
}

/// Three members in one process, of which the first leads and has its files in `dir`.
mod group {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, Weak};

    use futures::future::BoxFuture;
    use manager::state::consensus::message::{Request, Response, Transport, TransportError};
    use manager::state::consensus::{Consensus, Member};

    use super::*;

    #[derive(Clone, Default)]
    pub(super) struct Net(Arc<Mutex<BTreeMap<String, Weak<Consensus>>>>);

    impl Transport for Net {
        fn send(
            &self,
            to: &Member,
            request: Request,
        ) -> BoxFuture<'static, Result<Response, TransportError>> {
            let (member, address) = (
                self.0.lock().unwrap().get(&to.address).cloned(),
                to.address.clone(),
            );
            Box::pin(async move {
                let lost = |reason: String| TransportError {
                    address: address.clone(),
                    reason,
                    dismissed: false,
                };
                let member = member.and_then(|member| member.upgrade());
                let member = member.ok_or_else(|| lost("down".into()))?;
                member
                    .handle(request)
                    .await
                    .map_err(|error| lost(error.to_string()))
            })
        }
    }

    impl Net {
        pub(super) async fn member(
            &self,
            id: u64,
            dir: &Path,
            leader: Option<&Consensus>,
        ) -> (Arc<Consensus>, Store) {
            let member = Member {
                address: format!("m{id}"),
                node: format!("n{id}").into(),
            };
            let config = ConsensusConfig {
                id,
                member: member.clone(),
                transport: Arc::new(self.clone()),
                ..ConsensusConfig::alone(dir.join(id.to_string()), AtRest::ephemeral())
            };
            let replica = Replica::default();
            let consensus = match leader {
                None => Consensus::create(&config, replica.clone()).await,
                Some(_) => Consensus::join(&config, replica.clone()).await,
            };
            let consensus = Arc::new(consensus.unwrap());
            let (address, weak) = (member.address.clone(), Arc::downgrade(&consensus));
            self.0.lock().unwrap().insert(address, weak);
            if let Some(leader) = leader {
                leader.add(id, member).await.unwrap();
            }
            (consensus.clone(), Store::new(replica, consensus))
        }
    }
}

/// Waits until this member leads.
async fn leads(consensus: &Consensus) {
    let mut leadership = consensus.leadership();
    leadership.wait_for(|seen| seen.term().is_some()).await.unwrap();
}

async fn run_group(small: &Path) {
    let large = tempfile::tempdir().unwrap();
    let net = group::Net::default();
    let (first, first_store) = net.member(1, small, None).await;
    let (second, second_store) = net.member(2, large.path(), Some(&first)).await;
    let (third, third_store) = net.member(3, large.path(), Some(&first)).await;
    add(&first_store, "first", 10).await.unwrap();

    let ballast = fill(small);
    let mut kept = 1;
    while add(&first_store, &format!("c{kept}"), 100_000).await.is_ok() {
        kept += 1;
    }
    // Those who have room go on without it.
    let store = tokio::select! {
        () = leads(&second) => &second_store,
        () = leads(&third) => &third_store,
    };
    for more in 0..5 {
        add(store, &format!("more{more}"), 100_000).await.unwrap();
    }
    std::fs::remove_file(ballast).unwrap();
    let mut changes = first_store.watch(manager::state::Filter::all().with_commits());
    while count(&first_store) < count(store) {
        changes.next().await.unwrap();
    }
    for consensus in [first, second, third] {
        consensus.shutdown().await;
    }
}

#[test]
fn a_full_disk_refuses_changes_and_nothing_else() {
    on_a_small_disk(run);
}

#[test]
fn a_leader_whose_disk_is_full_lets_another_lead() {
    on_a_small_disk(run_group);
}

fn on_a_small_disk<F: AsyncFnOnce(&Path) + Send + 'static>(run: F) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    // The namespace is the thread's and that of the threads which it starts; it goes with them.
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .unwrap();
        mount(
            Some("tmpfs"),
            &path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=4m"),
        )
        .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(run(&path));
    });
    thread.join().unwrap();
}
