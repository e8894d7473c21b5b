//! Volumes: life, names, and filling from the image.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::json;
use storage::{CreateVolume, Kind, RootFd, Volume};

use crate::common::{Store, Tar, docker_archive};

fn nobody(_: &str) -> Vec<String> {
    Vec::new()
}

fn create(store: &Store, name: &str) -> storage::Result<Volume> {
    store.storage.volumes().create(CreateVolume {
        name: Some(name.into()),
        ..Default::default()
    })
}

fn view(store: &Store) -> RootFd {
    let tar = Tar::new()
        .dir("data/", 0o2750)
        .owned_file("data/db", b"rows", 0o640, 999)
        .hard_link("data/db2", "data/db")
        .symlink("data/link", "/etc/passwd")
        .dir("data/sub/", 0o700)
        .file("data/sub/x", b"x")
        .file("plain", b"f")
        .symlink("alias", "/data")
        .done();
    let id = store.load(&docker_archive(&[tar], &["bb"], json!({}))).unwrap()[0].id;
    store.storage.snapshots().view_image(&id).unwrap()
}

#[test]
fn an_empty_volume_is_filled_once_with_everything_kept() {
    let store = Store::new();
    let image = view(&store);
    let volume = create(&store, "vol").unwrap();
    assert!(store.storage.volumes().copy_up("vol", &image, "/data").unwrap());
    let data = &volume.mountpoint;
    let root = fs::metadata(data).unwrap();
    assert_eq!(root.mode() & 0o7777, 0o2750);
    let db = fs::metadata(data.join("db")).unwrap();
    assert_eq!(
        (db.mode() & 0o7777, db.uid(), db.nlink(), db.mtime()),
        (0o640, 999, 2, 1_700_000_000)
    );
    assert_eq!(
        fs::read_link(data.join("link")).unwrap(),
        std::path::Path::new("/etc/passwd")
    );
    assert_eq!(fs::read(data.join("sub/x")).unwrap(), b"x");

    fs::write(data.join("db"), "changed").unwrap();
    assert!(!store.storage.volumes().copy_up("vol", &image, "/data").unwrap());
    assert_eq!(fs::read(data.join("db")).unwrap(), b"changed");
    assert_eq!(store.storage.volumes().usage("vol").unwrap(), 8);
}

#[test]
fn a_path_that_is_no_directory_copies_nothing_and_none_leads_out() {
    let store = Store::new();
    let image = view(&store);
    let volume = create(&store, "vol").unwrap();
    for path in ["/absent", "/plain", "/../../../../etc", "/data/link"] {
        assert!(
            !store.storage.volumes().copy_up("vol", &image, path).unwrap(),
            "{path}"
        );
        assert_eq!(fs::read_dir(&volume.mountpoint).unwrap().count(), 0);
    }
    assert!(store.storage.volumes().copy_up("vol", &image, "/alias").unwrap());
    assert!(volume.mountpoint.join("db").is_file());
}

#[test]
fn an_interrupted_copy_is_finished_or_forgotten_at_the_next_start() {
    let store = Store::new();
    let half = create(&store, "half").unwrap();
    let ready = create(&store, "ready").unwrap();
    let beside = |volume: &Volume, name: &str| volume.mountpoint.parent().unwrap().join(name);
    fs::create_dir(beside(&half, "incoming")).unwrap();
    fs::write(beside(&half, "incoming").join("x"), "1").unwrap();
    fs::create_dir(beside(&ready, "ready")).unwrap();
    fs::write(beside(&ready, "ready").join("x"), "1").unwrap();
    let Store { dir, storage } = store;
    drop(storage);
    let storage = storage::Storage::open(dir.path()).unwrap();
    assert_eq!(fs::read_dir(&half.mountpoint).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(ready.mountpoint.join("x")).unwrap(), "1");
    assert!(!beside(&half, "incoming").exists() && !beside(&ready, "ready").exists());
    drop(storage);
}

#[test]
fn volumes_are_made_found_and_removed_as_docker_does() {
    let store = Store::new();
    let volumes = store.storage.volumes();
    let labels = std::collections::BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let made = volumes
        .create(CreateVolume {
            name: Some("data".into()),
            labels: labels.clone(),
            ..Default::default()
        })
        .unwrap();
    assert_eq!(
        (made.driver.as_str(), made.scope.as_str(), &made.labels),
        ("local", "local", &labels)
    );
    assert_eq!(fs::metadata(&made.mountpoint).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(create(&store, "data").unwrap(), made);
    let anonymous = volumes.create(CreateVolume::default()).unwrap();
    assert!(anonymous.anonymous && anonymous.name.len() == 64);
    assert_eq!(volumes.list().unwrap().len(), 2);

    let error = volumes.remove("data", false, &|_| vec!["c1".into()]).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::Conflict, "remove data: volume is in use - [c1]")
    );
    let (removed, _) = volumes.prune(&|volume| volume.anonymous, &nobody).unwrap();
    assert_eq!(removed, [anonymous.name]);
    volumes.remove("data", false, &nobody).unwrap();
    assert!(!made.mountpoint.exists());
    let error = volumes.remove("data", false, &nobody).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::NotFound, "get data: no such volume")
    );
    volumes.remove("data", true, &nobody).unwrap();
}

#[test]
fn what_a_local_volume_cannot_be_is_refused_by_name() {
    let store = Store::new();
    let error = create(&store, "../x").unwrap_err();
    assert!(
        error.kind() == Kind::Invalid && error.to_string().contains("includes invalid characters"),
        "{error}"
    );
    let volumes = store.storage.volumes();
    let request = CreateVolume {
        name: Some("v1".into()),
        driver: "nfs".into(),
        ..Default::default()
    };
    assert!(
        volumes
            .create(request)
            .unwrap_err()
            .to_string()
            .contains("plugin \"nfs\" not found")
    );
    let options = std::collections::BTreeMap::from([("type".to_owned(), "nfs".to_owned())]);
    let request = CreateVolume {
        name: Some("v1".into()),
        options,
        ..Default::default()
    };
    assert!(
        volumes
            .create(request)
            .unwrap_err()
            .to_string()
            .contains("option \"type\"")
    );
    assert!(volumes.list().unwrap().is_empty());
}
