//! What consensus keeps: restarts, interrupted writes, damage, compaction, a full disk.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use proto::{Config, ConfigId, Service, ServiceId};
use sha2::{Digest, Sha256};

use super::super::{ProposeError, Reader, Store, StoreError};
use super::*;
use crate::vault::{AtRest, Vault};

fn config(dir: &Path) -> ConsensusConfig {
    let at_rest = Vault::open(dir, None).unwrap().at_rest();
    ConsensusConfig::alone(dir.join("raft"), at_rest)
}

fn service(id: &str) -> Service {
    let mut service = Service {
        id: ServiceId::from(id),
        ..Service::default()
    };
    service.spec.name = format!("name-{id}");
    service
}

struct Running {
    consensus: Arc<Consensus>,
    store: Store,
}

async fn create(dir: &Path) -> Running {
    let replica = Replica::default();
    run(
        Consensus::create(&config(dir), replica.clone()).await.unwrap(),
        replica,
    )
}

async fn reopen(dir: &Path) -> Running {
    let replica = Replica::default();
    run(
        Consensus::open(&config(dir), replica.clone()).await.unwrap(),
        replica,
    )
}

fn run(consensus: Consensus, replica: Replica) -> Running {
    let consensus = Arc::new(consensus);
    Running {
        store: Store::new(replica, consensus.clone()),
        consensus,
    }
}

impl Running {
    async fn add(&self, id: &str) {
        self.store.update(|tx| tx.create(service(id))).await.unwrap();
    }

    fn services(&self) -> Vec<Arc<Service>> {
        self.store.view(|tx| tx.all())
    }
}

fn journal(dir: &Path) -> PathBuf {
    journal::path(&config(dir).dir)
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = create(dir.path()).await;
    for id in ["a", "b", "c"] {
        first.add(id).await;
    }
    first.store.update(|tx| tx.remove::<Service>("b")).await.unwrap();
    let before = first.services();
    first.consensus.shutdown().await;

    for _ in 0..3 {
        let again = reopen(dir.path()).await;
        assert_eq!(again.services(), before);
        again.consensus.shutdown().await;
    }
    let last = reopen(dir.path()).await;
    last.add("d").await;
    let version = |id: &str| {
        last.store
            .view(|tx| tx.get::<Service>(id))
            .unwrap()
            .meta
            .version
            .index
    };
    assert!(version("d") > version("c") && version("c") > version("a"));
}

#[tokio::test]
async fn a_group_is_neither_made_twice_nor_opened_where_none_is() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Consensus::open(&config(dir.path()), Replica::default()).await;
    assert!(matches!(
        opened,
        Err(ConsensusError::Directory { exists: false, .. })
    ));
    let _first = create(dir.path()).await;
    let created = Consensus::create(&config(dir.path()), Replica::default()).await;
    assert!(matches!(
        created,
        Err(ConsensusError::Directory { exists: true, .. })
    ));
}

/// Whatever part of the last write a crash left behind, everything acknowledged before it is there.
#[tokio::test]
async fn a_torn_write_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let first = create(dir.path()).await;
    first.add("kept").await;
    let whole = std::fs::metadata(journal(dir.path())).unwrap().len();
    first.add("torn").await;
    first.consensus.shutdown().await;
    let bytes = std::fs::read(journal(dir.path())).unwrap();

    let length = bytes.len() as u64;
    for cut in [
        whole + 1,
        whole + 15,
        whole + 16,
        (whole + length) / 2,
        length - 1,
    ] {
        std::fs::write(journal(dir.path()), &bytes[..usize::try_from(cut).unwrap()]).unwrap();
        let again = reopen(dir.path()).await;
        assert_eq!(
            again.services().iter().map(|s| s.id.as_str()).collect::<Vec<_>>(),
            ["kept"],
            "cut at {cut}"
        );
        again.add("next").await;
        again.consensus.shutdown().await;
        let last = reopen(dir.path()).await;
        assert_eq!(last.services().len(), 2);
        last.consensus.shutdown().await;
    }
}

#[tokio::test]
async fn damage_before_the_end_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = create(dir.path()).await;
    first.add("one").await;
    let middle = std::fs::metadata(journal(dir.path())).unwrap().len();
    first.add("two").await;
    first.add("three").await;
    first.consensus.shutdown().await;

    // Byte 2 of the frame is its magic, 5 its length, 30 its payload.
    for at in [2, 5, 30] {
        let bytes = std::fs::read(journal(dir.path())).unwrap();
        let file = OpenOptions::new().write(true).open(journal(dir.path())).unwrap();
        file.write_all_at(b"\xff", middle + at).unwrap();
        let opened = Consensus::open(&config(dir.path()), Replica::default()).await;
        assert!(
            matches!(opened, Err(ConsensusError::Damaged { offset, .. }) if offset == middle),
            "{opened:?}"
        );
        std::fs::write(journal(dir.path()), bytes).unwrap();
    }
    assert_eq!(reopen(dir.path()).await.services().len(), 3);
}

#[tokio::test]
async fn the_journal_is_compacted_and_the_snapshot_restored() {
    let dir = tempfile::tempdir().unwrap();
    let first = create(dir.path()).await;
    first.add("kept").await;
    let content = "A".repeat(100_000);
    for n in 0..60 {
        let mut config = Config {
            id: ConfigId::from("c"),
            ..Config::default()
        };
        config.spec.name = "big".into();
        config.spec.data = content.clone();
        config.spec.labels.insert("n".into(), n.to_string());
        first
            .store
            .update(|tx| match tx.get::<Config>("c") {
                Some(old) => tx.update(Config {
                    meta: old.meta.clone(),
                    ..config
                }),
                None => tx.create(config),
            })
            .await
            .unwrap();
    }
    let mut metrics = first.consensus.raft.metrics();
    metrics.wait_for(|now| now.snapshot.is_some()).await.unwrap();
    first.consensus.shutdown().await;
    let snapshot = snapshot::path(&config(dir.path()).dir);
    assert!(snapshot.exists());

    let again = reopen(dir.path()).await;
    assert!(again.store.view(|tx| tx.get::<Service>("kept")).is_some());
    let big = again.store.view(|tx| tx.get::<Config>("c")).unwrap();
    assert_eq!(
        (big.spec.labels["n"].as_str(), big.spec.data == content),
        ("59", true)
    );
    again.add("more").await;
    again.consensus.shutdown().await;

    let mut bytes = std::fs::read(&snapshot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&snapshot, bytes).unwrap();
    let opened = Consensus::open(&config(dir.path()), Replica::default()).await;
    assert!(
        matches!(opened, Err(ConsensusError::Damaged { .. })),
        "{opened:?}"
    );
}

#[tokio::test]
async fn a_transaction_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let running = create(dir.path()).await;
    let mut huge = service("huge");
    huge.spec.labels.insert("l".into(), "x".repeat(MAX_BYTES));
    let refused: Result<(), StoreError> = running.store.update(|tx| tx.create(huge)).await;
    assert!(matches!(
        refused,
        Err(StoreError::Propose(ProposeError::TooLarge { .. }))
    ));
    running.add("small").await;
}

#[tokio::test]
async fn records_of_a_journal_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let (vote, at_rest) = (openraft::Vote::new(3, 7), AtRest::ephemeral());
    let mut journal = journal::Journal::open(dir.path(), &at_rest, |_| panic!("it is new")).unwrap();
    journal
        .append(&[journal::Record::Vote(vote), journal::Record::Truncate(9)])
        .unwrap();
    journal.rewrite(&[journal::Record::Vote(vote)]).unwrap();
    journal.append(&[journal::Record::Truncate(4)]).unwrap();
    drop(journal);
    let mut seen = Vec::new();
    journal::Journal::open(dir.path(), &at_rest, |record| seen.push(record)).unwrap();
    assert!(
        matches!(seen[..], [journal::Record::Vote(v), journal::Record::Truncate(4)] if v == vote),
        "{seen:?}"
    );
}

/// A journal with a vote per frame, of growing terms; the ends of the frames.
fn votes(dir: &Path, at_rest: &AtRest, frames: u64) -> Vec<u64> {
    let mut journal = journal::Journal::open(dir, at_rest, |_| {}).unwrap();
    let append = |term| {
        journal
            .append(&[journal::Record::Vote(openraft::Vote::new(term, 7))])
            .unwrap();
        journal.size()
    };
    (1..=frames).map(append).collect()
}

fn replayed(dir: &Path, at_rest: &AtRest) -> Result<usize, ConsensusError> {
    let mut seen = 0;
    journal::Journal::open(dir, at_rest, |_| seen += 1).map(|_| seen)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Wherever a crash cuts the file, and whatever rubbish it leaves there, every frame before is read.
    #[test]
    fn a_journal_is_read_up_to_the_cut(frames in 1u64..8, cut in 0.0..1.0, rubbish in proptest::collection::vec(any::<u8>(), 0..40)) {
        let (dir, at_rest) = (tempfile::tempdir().unwrap(), AtRest::ephemeral());
        let ends = votes(dir.path(), &at_rest, frames);
        let bytes = std::fs::read(journal::path(dir.path())).unwrap();
        let cut = (bytes.len() as f64 * cut) as usize;
        let mut file = std::fs::File::create(journal::path(dir.path())).unwrap();
        file.write_all(&bytes[..cut]).unwrap();
        file.write_all(&rubbish).unwrap();
        let whole = ends.iter().filter(|&&end| end <= cut as u64).count();
        prop_assert_eq!(replayed(dir.path(), &at_rest).unwrap(), whole);
        // What was cut off stays away.
        prop_assert_eq!(replayed(dir.path(), &at_rest).unwrap(), whole);
    }

    /// A flipped bit before the last frame is never taken for an interrupted write.
    #[test]
    fn a_flipped_bit_is_noticed(frames in 2u64..8, at in 0.0..1.0, bit in 0u8..8) {
        let (dir, at_rest) = (tempfile::tempdir().unwrap(), AtRest::ephemeral());
        let ends = votes(dir.path(), &at_rest, frames);
        let mut bytes = std::fs::read(journal::path(dir.path())).unwrap();
        let last = ends[ends.len() - 2] as f64;
        bytes[(last * at) as usize] ^= 1 << bit;
        std::fs::write(journal::path(dir.path()), bytes).unwrap();
        let damaged = matches!(replayed(dir.path(), &at_rest), Err(ConsensusError::Damaged { .. }));
        prop_assert!(damaged);
    }
}

/// Frames as they were written before they were sealed.
fn plain(lists: &[&[journal::Record]]) -> Vec<u8> {
    let frame = |list: &&[journal::Record]| {
        let text = serde_json::to_vec(list).unwrap();
        let length = u32::try_from(text.len()).unwrap().to_le_bytes();
        [b"SHJ1", &length[..], &Sha256::digest(&text)[..8], &text].concat()
    };
    lists.iter().flat_map(frame).collect()
}

#[test]
fn a_plain_journal_is_read_once_and_sealed() {
    let (dir, at_rest) = (tempfile::tempdir().unwrap(), AtRest::ephemeral());
    let vote = |term| journal::Record::Vote(openraft::Vote::new(term, 7));
    let old = plain(&[&[vote(11), vote(12)], &[vote(13)]]);
    let path = journal::path(dir.path());
    std::fs::write(&path, [&old[..], b"SHJ1torn"].concat()).unwrap();
    assert_eq!(replayed(dir.path(), &at_rest).unwrap(), 3);
    let sealed = std::fs::read(&path).unwrap();
    assert!(!contains(&sealed, b"Vote"), "it is still readable");
    assert_eq!(replayed(dir.path(), &at_rest).unwrap(), 3);
    let other = replayed(dir.path(), &AtRest::ephemeral());
    assert!(matches!(other, Err(ConsensusError::Damaged { offset: 0, .. })));
}

#[test]
fn a_plain_file_is_not_believed_once_all_are_sealed() {
    let home = tempfile::tempdir().unwrap();
    let vault = Vault::create(home.path(), false).unwrap();
    let vote = journal::Record::Vote(openraft::Vote::new(1, 7));
    let frame = plain(&[&[vote]]);
    let path = journal::path(home.path());
    std::fs::write(&path, &frame).unwrap();
    let opened = replayed(home.path(), &vault.at_rest());
    assert!(
        matches!(opened, Err(ConsensusError::Damaged { .. })),
        "{opened:?}"
    );
    // Nor behind frames that are sealed.
    std::fs::remove_file(&path).unwrap();
    votes(home.path(), &vault.at_rest(), 2);
    std::fs::write(&path, [std::fs::read(&path).unwrap(), frame].concat()).unwrap();
    let opened = replayed(home.path(), &vault.at_rest());
    assert!(
        matches!(opened, Err(ConsensusError::Damaged { .. })),
        "{opened:?}"
    );
}

#[test]
fn frames_open_in_their_place_alone() {
    let (dir, at_rest) = (tempfile::tempdir().unwrap(), AtRest::ephemeral());
    let path = journal::path(dir.path());
    // All frames are of one length, so that they could stand in each other's place.
    let ends: Vec<_> = votes(dir.path(), &at_rest, 3)
        .into_iter()
        .map(|end| end as usize)
        .collect();
    let first = std::fs::read(&path).unwrap();
    let frame = |bytes: &[u8], n: usize| bytes[ends[n] - ends[0]..ends[n]].to_vec();
    let refused = |bytes: Vec<u8>| {
        std::fs::write(&path, bytes).unwrap();
        matches!(
            replayed(dir.path(), &at_rest),
            Err(ConsensusError::Damaged { .. })
        )
    };
    assert!(
        refused([frame(&first, 0), frame(&first, 2), frame(&first, 1)].concat()),
        "exchanged"
    );
    assert!(
        refused([frame(&first, 0), frame(&first, 0), frame(&first, 2)].concat()),
        "replayed"
    );
    std::fs::remove_file(&path).unwrap();
    votes(dir.path(), &at_rest, 3);
    let second = std::fs::read(&path).unwrap();
    assert!(
        refused([frame(&second, 0), frame(&first, 1), frame(&second, 2)].concat()),
        "from another file"
    );
    assert!(!refused(second), "it is good as it was");
}

/// What is written in the place of an interrupted write shares no key stream with it.
#[test]
fn a_nonce_does_not_come_back_after_a_cut() {
    let (dir, at_rest) = (tempfile::tempdir().unwrap(), AtRest::ephemeral());
    let ends = votes(dir.path(), &at_rest, 2);
    let path = journal::path(dir.path());
    let before = std::fs::read(&path).unwrap();
    std::fs::write(&path, &before[..before.len() - 1]).unwrap();
    let mut journal = journal::Journal::open(dir.path(), &at_rest, |_| {}).unwrap();
    journal
        .append(&[journal::Record::Vote(openraft::Vote::new(2, 7))])
        .unwrap();
    let after = std::fs::read(&path).unwrap();
    let nonce = |bytes: &[u8]| bytes[ends[0] as usize + 16..][..24].to_vec();
    assert_eq!(before.len(), after.len());
    assert_ne!(nonce(&before), nonce(&after));
}

#[tokio::test]
async fn nothing_that_is_kept_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let first = create(dir.path()).await;
    first.add("a-name-that-is-nowhere").await;
    let readable = || {
        let files = std::fs::read_dir(config(dir.path()).dir).unwrap();
        let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        assert!(!files.is_empty(), "{files:?}");
        files
            .iter()
            .any(|file| contains(&std::fs::read(file).unwrap(), b"a-name-that-is-nowhere"))
    };
    assert!(!readable());
    first.consensus.log.grown().notify_one();
    let mut metrics = first.consensus.raft.metrics();
    metrics.wait_for(|now| now.snapshot.is_some()).await.unwrap();
    assert!(snapshot::path(&config(dir.path()).dir).exists() && !readable());
    first.consensus.shutdown().await;
    // A snapshot from before is read, and sealed.
    let path = snapshot::path(&config(dir.path()).dir);
    let lines = snapshot::bytes(&config(dir.path()).dir, &config(dir.path()).at_rest)
        .unwrap()
        .unwrap();
    std::fs::write(&path, &lines).unwrap();
    assert!(readable());
    let again = reopen(dir.path()).await;
    assert!(!again.services().is_empty() && !readable());
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn snapshots_come_as_often_and_stay_as_many_as_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let running = create(dir.path()).await;
    running.consensus.compact_as(Compaction { interval: 3, keep: 2 });
    let mut metrics = running.consensus.raft.metrics();
    let names = || {
        let entries = std::fs::read_dir(config(dir.path()).dir).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.starts_with("snapshot")).collect();
        names.sort();
        names
    };
    let mut seen = None;
    for round in 0..4 {
        for n in 0..3 {
            running.add(&format!("s{round}-{n}")).await;
        }
        seen = metrics
            .wait_for(|now| now.snapshot > seen)
            .await
            .unwrap()
            .snapshot;
    }
    let kept = names();
    assert_eq!((kept.len(), kept[0].as_str()), (3, "snapshot"), "{kept:?}");
    running.consensus.compact_as(Compaction { interval: 3, keep: 0 });
    for n in 0..3 {
        running.add(&format!("last-{n}")).await;
    }
    metrics.wait_for(|now| now.snapshot > seen).await.unwrap();
    assert_eq!(names(), ["snapshot"]);
}
