//! Which volumes this node has: what the managers know of it, so that a task goes back to its data.

use storage::{Storage, Volume, Volumes};
use tokio::sync::watch;

/// Names of the named volumes, sorted; always as they are now. Volumes that nobody named belong to one container and attract
/// no task.
pub fn volumes(storage: &Storage) -> watch::Receiver<Vec<String>> {
    let (sender, receiver) = watch::channel(Vec::new());
    let look = move |volumes: &Volumes| {
        // A list that cannot be read is no news; whoever works with the volumes meets the same error.
        if let Ok(found) = volumes.list() {
            let names = names(&found);
            sender.send_if_modified(|known| std::mem::replace(known, names.clone()) != names);
        }
        !sender.is_closed()
    };
    look(&storage.volumes());
    storage.volumes().on_change(look);
    receiver
}

fn names(volumes: &[Volume]) -> Vec<String> {
    let named = volumes.iter().filter(|volume| !volume.anonymous);
    named.map(|volume| volume.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::CreateVolume;

    #[test]
    fn volumes_that_come_and_go_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let make = |name: Option<&str>| {
            let name = name.map(str::to_owned);
            let request = CreateVolume {
                name,
                ..CreateVolume::default()
            };
            storage.volumes().create(request).unwrap()
        };
        make(Some("first"));
        let mut seen = volumes(&storage);
        assert_eq!(*seen.borrow_and_update(), ["first"]);
        make(None);
        make(Some("first"));
        assert!(!seen.has_changed().unwrap());
        make(Some("a-second"));
        assert_eq!(*seen.borrow_and_update(), ["a-second", "first"]);
        storage.volumes().remove("first", false, &|_| Vec::new()).unwrap();
        assert_eq!(*seen.borrow_and_update(), ["a-second"]);
    }
}
