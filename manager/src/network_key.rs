//! The key that nodes with encrypted networks share besides the keys that each of them has: made with the first such
//! network, exchanged twice a day as SwarmKit does, forgotten with the last one.
//!
//! A tunnel takes a new key with its next handshake, every two minutes (WireGuard's `REKEY_AFTER_TIME`), and a session
//! lives for a minute longer: so nodes may learn of it one after the other, and no packet is lost.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto::object::NetworkKey;
use proto::{Cluster, Network, Timestamp};
use rand::RngCore;
use tokio::time::sleep;

use crate::state::{Filter, Kind, Reader, Store, StoreError, WriteTx};

/// How long a key is used.
const LIFE: Duration = Duration::from_hours(12);

/// What is to be done, now or later.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Make,
    Forget,
    /// There is one that will do for so long.
    Wait(Duration),
    /// Nothing is encrypted.
    Rest,
}

/// Keeps the key. Runs on the manager that leads.
pub(crate) async fn run(store: Store) -> Result<(), StoreError> {
    let mut events = store.watch(Filter::kinds(&[Kind::Network, Kind::Cluster]));
    loop {
        let left = match store.view(|tx| step(&tx, Timestamp::now())) {
            Step::Make => {
                store.update(|tx| set(tx, Some(new_key()))).await?;
                continue;
            }
            Step::Forget => {
                store.update(|tx| set(tx, None)).await?;
                continue;
            }
            Step::Wait(left) => left,
            Step::Rest => Duration::MAX,
        };
        tokio::select! {
            () = sleep(left), if left < Duration::MAX => {}
            event = events.next() => if event.is_none() { return Ok(()) },
        }
    }
}

fn step(tx: &impl Reader, now: Timestamp) -> Step {
    let clusters = tx.all::<Cluster>();
    // A store without a cluster has nowhere to keep it.
    let Some(cluster) = clusters.first() else {
        return Step::Rest;
    };
    let encrypted = tx
        .all::<Network>()
        .iter()
        .any(|network| network.spec.is_encrypted());
    match (&cluster.network_key, encrypted) {
        (None, false) => Step::Rest,
        (None, true) => Step::Make,
        (Some(_), false) => Step::Forget,
        (Some(key), true) => {
            // A clock that went back makes it younger; it is exchanged all the same one day.
            let age = Duration::try_from(now.0 - key.created_at.0).unwrap_or_default();
            match LIFE.saturating_sub(age) {
                Duration::ZERO => Step::Make,
                left => Step::Wait(left),
            }
        }
    }
}

fn set(tx: &mut WriteTx<'_>, key: Option<NetworkKey>) -> Result<(), StoreError> {
    let Some(id) = tx.all::<Cluster>().first().map(|cluster| cluster.id.clone()) else {
        return Ok(());
    };
    tx.modify(&id, |cluster: &mut Cluster| cluster.network_key = key)
}

fn new_key() -> NetworkKey {
    let mut key = [0; 32];
    rand::rng().fill_bytes(&mut key);
    NetworkKey {
        key: STANDARD.encode(key).into(),
        created_at: Timestamp::now(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::NetworkSpec;
    use proto::spec::NetworkDriver;

    async fn store(networks: &[Option<&str>]) -> Store {
        let store = Store::in_memory();
        let cluster = Cluster {
            id: "c".into(),
            ..Cluster::default()
        };
        store.update(|tx| tx.create(cluster)).await.unwrap();
        for (number, encrypted) in networks.iter().enumerate() {
            let options = encrypted.map(|value| (NetworkSpec::ENCRYPTED.to_owned(), value.to_owned()));
            let driver = NetworkDriver {
                name: "overlay".into(),
                options: options.into_iter().collect(),
            };
            let network = Network {
                id: number.to_string().into(),
                spec: NetworkSpec {
                    name: format!("n{number}"),
                    driver_configuration: Some(driver),
                    ..NetworkSpec::default()
                },
                ..Network::default()
            };
            store.update(|tx| tx.create(network)).await.unwrap();
        }
        store
    }

    fn after(seconds: u64) -> Timestamp {
        Timestamp(Timestamp::now().0 + Duration::from_secs(seconds))
    }

    #[tokio::test]
    async fn a_key_lives_as_long_as_something_is_encrypted_and_no_longer_than_half_a_day() {
        let plain = store(&[None, Some("false")]).await;
        assert_eq!(plain.view(|tx| step(&tx, Timestamp::now())), Step::Rest);
        let store = store(&[None, Some("")]).await;
        assert_eq!(store.view(|tx| step(&tx, Timestamp::now())), Step::Make);
        store.update(|tx| set(tx, Some(new_key()))).await.unwrap();
        let Step::Wait(left) = store.view(|tx| step(&tx, Timestamp::now())) else {
            panic!("a fresh key will do");
        };
        assert!(left > LIFE - Duration::from_secs(60));
        assert_eq!(store.view(|tx| step(&tx, after(12 * 3600))), Step::Make);
        store.update(|tx| tx.remove::<Network>("1")).await.unwrap();
        assert_eq!(store.view(|tx| step(&tx, Timestamp::now())), Step::Forget);
    }
}
