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

#[test]
fn a_full_disk_refuses_changes_and_nothing_else() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    }
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
