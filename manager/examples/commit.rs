//! What one commit costs: `cargo run -p manager --example commit [COMMITS [BYTES]]`.
//!
//! Each commit changes one config of so many bytes and waits until it is agreed upon, on the disk and applied. Prints the
//! median and the 99th percentile, and what of it is the sealing of the journal's frame.

use std::sync::Arc;
use std::time::{Duration, Instant};

use manager::state::consensus::{Consensus, ConsensusConfig};
use manager::state::{Reader, Replica, Store, StoreError};
use manager::vault::AtRest;
use proto::Config;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let numbers: Vec<usize> = std::env::args()
        .skip(1)
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?;
    let number = |place: usize, default| numbers.get(place).copied().unwrap_or(default);
    let (commits, bytes) = (number(0, 2000), number(1, 1000));
    let dir = tempfile::tempdir()?;
    let config = ConsensusConfig::alone(dir.path().join("raft"), AtRest::ephemeral());
    let replica = Replica::default();
    let consensus = Arc::new(Consensus::create(&config, replica.clone()).await?);
    let store = Store::new(replica, consensus.clone());
    let mut took = Vec::with_capacity(commits);
    for _ in 0..commits {
        let begun = Instant::now();
        commit(&store, bytes).await?;
        took.push(begun.elapsed());
    }
    took.sort();
    let at = |share: usize| took[(took.len() - 1) * share / 100];
    println!(
        "{commits} commits of {bytes} B: median {:?}, p99 {:?}",
        at(50),
        at(99)
    );
    println!("of that, sealing {bytes} B: {:?}", sealing(commits, bytes)?);
    consensus.shutdown().await;
    Ok(())
}

/// The cipher of the journal alone, per frame.
fn sealing(frames: usize, bytes: usize) -> anyhow::Result<Duration> {
    let failed = |_| anyhow::anyhow!("the cipher failed");
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).map_err(failed)?);
    let mut frame = vec![b'A'; bytes];
    let begun = Instant::now();
    for number in 0..frames {
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&number.to_le_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(b"place"), &mut frame);
        std::hint::black_box(tag.map_err(failed)?.as_ref().len());
    }
    Ok(begun.elapsed() / u32::try_from(frames)?.max(1))
}

async fn commit(store: &Store, bytes: usize) -> Result<(), StoreError> {
    let change = |tx: &mut manager::state::WriteTx<'_>| {
        let mut config = match tx.get::<Config>("c") {
            Some(old) => Config::clone(&old),
            None => {
                return tx.create(Config {
                    id: "c".into(),
                    ..Config::default()
                });
            }
        };
        config.spec.data = "A".repeat(bytes);
        config
            .spec
            .labels
            .insert("n".into(), config.meta.version.index.to_string());
        tx.update(config)
    };
    store.update(change).await
}
