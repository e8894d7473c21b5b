//! Names, removal and collection.

use serde_json::json;
use storage::image::{ImageUse, RemoveOptions, Removed};
use storage::{Kind, Storage};

use crate::common::{Store, Tar, docker_archive, hello};

fn unused(_: &storage::ImageId) -> Option<ImageUse> {
    None
}

#[test]
fn names_are_found_as_docker_finds_them() {
    let store = Store::new();
    let id = store
        .load(&docker_archive(&[hello()], &["bb"], json!({})))
        .unwrap()[0]
        .id;
    let images = store.storage.images();
    for name in [
        "bb",
        "bb:latest",
        "docker.io/library/bb",
        &id.to_string(),
        &id.hex(),
        &id.short(),
        &id.hex()[..4],
    ] {
        assert_eq!(images.get(name).unwrap().id, id, "{name}");
    }
    for (name, text) in [
        ("nope", "No such image: nope:latest"),
        ("bb:2", "No such image: bb:2"),
    ] {
        let error = images.get(name).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            (Kind::NotFound, text.to_owned())
        );
    }
    assert!(images.get("../../etc").is_err());
}

#[test]
fn removing_names_then_the_image_answers_like_docker() {
    let store = Store::new();
    let id = store
        .load(&docker_archive(&[hello()], &["bb:1"], json!({})))
        .unwrap()[0]
        .id;
    let images = store.storage.images();
    images.tag("bb:1", &"bb:2".parse().unwrap()).unwrap();
    let removed = images.remove("bb:1", RemoveOptions::default(), &unused).unwrap();
    assert_eq!(removed, [Removed::Untagged("bb:1".into())]);
    let removed = images.remove("bb:2", RemoveOptions::default(), &unused).unwrap();
    let layer = storage::Digest::of(&hello()).to_string();
    assert_eq!(
        removed,
        [
            Removed::Untagged("bb:2".into()),
            Removed::Deleted(id.to_string()),
            Removed::Deleted(layer)
        ]
    );
    store.assert_clean();
    assert_eq!(store.storage.gc().unwrap(), storage::Collected::default());
}

#[test]
fn a_moved_name_leaves_the_old_image_dangling() {
    let store = Store::new();
    let old = store
        .load(&docker_archive(&[hello()], &["bb"], json!({})))
        .unwrap()[0]
        .id;
    let mut renamed = Vec::new();
    let archive = docker_archive(&[hello()], &["bb"], json!({"User": "1"}));
    store
        .storage
        .images()
        .load(&mut &*archive, &mut |event| {
            if let storage::image::LoadEvent::Renamed { old, .. } = event {
                renamed.push(old);
            }
        })
        .unwrap();
    assert_eq!(renamed, [old]);
    assert!(
        store
            .storage
            .images()
            .get(&old.to_string())
            .unwrap()
            .refs
            .is_empty()
    );
    let (removed, bytes) = store
        .storage
        .images()
        .prune(&|image| image.refs.is_empty(), &unused)
        .unwrap();
    // The layer is shared with the newer image and stays.
    assert_eq!((removed, bytes), (vec![Removed::Deleted(old.to_string())], 0));
}

#[test]
fn the_collector_spares_images_snapshots_and_leases() {
    let store = Store::new();
    let lease = store.lease();
    let leased = store
        .apply(&Tar::new().file("leased", b"1").done(), &lease)
        .unwrap();
    let id = store
        .load(&docker_archive(&[hello()], &["bb"], json!({})))
        .unwrap()[0]
        .id;
    store.storage.snapshots().prepare("c1", &id).unwrap();
    let force = RemoveOptions {
        force: true,
        no_prune: false,
    };
    store
        .storage
        .images()
        .remove(&id.to_string(), force, &unused)
        .unwrap();
    assert_eq!(store.names("layers").len(), 3);
    store.storage.snapshots().remove("c1").unwrap();
    drop(lease);
    let collected = store.storage.gc().unwrap();
    assert_eq!(collected.layers.len(), 2);
    assert!(collected.layers.contains(&leased.diff_id));
    store.assert_clean();
}

#[test]
fn an_expired_lease_holds_nothing() {
    let store = Store::new();
    let lease = store
        .storage
        .leases()
        .acquire("test", std::time::Duration::ZERO)
        .unwrap();
    store.apply(&hello(), &lease).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(store.storage.gc().unwrap().layers.len(), 1);
}

#[test]
fn a_restart_finds_everything_and_drops_what_a_crash_left() {
    let store = Store::new();
    store
        .load(&docker_archive(&[hello()], &["bb"], json!({})))
        .unwrap();
    let id = store.storage.images().get("bb").unwrap().id;
    store.storage.snapshots().prepare("whole", &id).unwrap();
    store.storage.snapshots().prepare("torn", &id).unwrap();
    store
        .storage
        .volumes()
        .create(storage::CreateVolume {
            name: Some("data".into()),
            ..Default::default()
        })
        .unwrap();
    let Store { dir, storage } = store;
    drop(storage);
    let path = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(path("ingest/half/fs")).unwrap();
    std::fs::create_dir_all(path("trash/gone/fs")).unwrap();
    std::fs::create_dir_all(path("layers").join("f".repeat(64)).join("fs")).unwrap();
    std::fs::create_dir_all(path("snapshots/stranger/fs")).unwrap();
    std::fs::remove_dir_all(path("snapshots/torn")).unwrap();
    std::fs::create_dir_all(path("volumes/orphan/_data")).unwrap();
    std::fs::write(path("volumes/orphan/_data/precious"), "1").unwrap();

    let storage = Storage::open(dir.path()).unwrap();
    let store = Store { dir, storage };
    assert_eq!(store.storage.images().get("bb").unwrap().id, id);
    assert_eq!(store.names("ingest"), [""; 0]);
    assert_eq!(store.names("trash"), [""; 0]);
    assert_eq!(store.names("layers").len(), 2);
    let keys: Vec<String> = store
        .storage
        .snapshots()
        .list()
        .unwrap()
        .into_iter()
        .map(|s| s.key)
        .collect();
    assert_eq!(
        (keys, store.names("snapshots")),
        (vec!["whole".to_owned()], vec!["whole".to_owned()])
    );
    let orphan = store.storage.volumes().get("orphan").unwrap();
    assert_eq!(
        std::fs::read_to_string(orphan.mountpoint.join("precious")).unwrap(),
        "1"
    );
    assert!(store.storage.volumes().get("data").is_ok());
}

#[test]
fn a_second_opener_is_told_so() {
    let store = Store::new();
    let error = Storage::open(store.dir.path()).unwrap_err();
    assert!(
        error.to_string().contains("another agent runs with this root"),
        "{error}"
    );
}

#[test]
fn a_collector_beside_loads_takes_nothing_from_them() {
    let store = Store::new();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                store.storage.gc().unwrap();
            }
        });
        let loaders: Vec<_> = (0..3)
            .map(|thread| {
                let store = &store;
                scope.spawn(move || {
                    for round in 0..10 {
                        let layer = Tar::new().file("shared", &[round]).done();
                        let own = Tar::new().file("own", &[thread, round]).done();
                        let name = format!("image{thread}:{round}");
                        let id = store
                            .load(&docker_archive(&[layer, own], &[&name], json!({})))
                            .unwrap()[0]
                            .id;
                        let view = store.storage.snapshots().view_image(&id).unwrap();
                        assert_eq!(view.read_file("own", 9).unwrap(), [thread, round]);
                        store
                            .storage
                            .images()
                            .remove(&name, RemoveOptions::default(), &unused)
                            .unwrap();
                    }
                })
            })
            .collect();
        for loader in loaders {
            loader.join().unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        collector.join().unwrap();
    });
    store.storage.gc().unwrap();
    store.assert_clean();
}
