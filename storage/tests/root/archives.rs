//! Loading and saving image archives.

use std::io::Write;

use serde_json::json;
use storage::image::ImportOptions;
use storage::{Digest, Kind, Storage};

use crate::common::{Store, Tar, config, docker_archive, hello};

fn save(storage: &Storage, names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut bytes = Vec::new();
    storage.images().save(&names, &mut bytes).unwrap();
    bytes
}

/// The files of a tar, by name.
fn files(archive: &[u8]) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut found = std::collections::BTreeMap::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        if entry.header().entry_type().is_file() {
            found.insert(name, bytes);
        }
    }
    found
}

fn pack(files: &std::collections::BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    files
        .iter()
        .fold(Tar::new(), |tar, (name, bytes)| tar.file(name, bytes))
        .done()
}

#[test]
fn a_docker_archive_loads_plain_and_compressed() {
    let archive = docker_archive(&[hello()], &["bb:1", "bb"], json!({"Cmd": ["sh"]}));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&archive).unwrap();
    for bytes in [
        archive.clone(),
        gzip.finish().unwrap(),
        zstd::encode_all(&*archive, 1).unwrap(),
    ] {
        let store = Store::new();
        let loaded = store.load(&bytes).unwrap();
        assert_eq!(loaded.len(), 1);
        let image = store.storage.images().get("bb:1").unwrap();
        assert_eq!(image.id, loaded[0].id);
        assert_eq!(image.config.config.cmd, Some(vec!["sh".to_owned()]));
        assert_eq!(
            image.refs.iter().map(|r| r.familiar()).collect::<Vec<_>>(),
            ["bb:1", "bb:latest"]
        );
        assert_eq!(image.size, 6);
        let expected = config(&[hello()], json!({"Cmd": ["sh"]}));
        assert_eq!(store.storage.images().config_bytes(&image.id).unwrap(), expected);
        assert_eq!(store.names("ingest"), [""; 0]);
    }
}

#[test]
fn what_is_saved_loads_elsewhere_as_docker_archive_and_as_layout() {
    let store = Store::new();
    let second = Tar::new().file("etc/.wh.hello", b"").file("new", b"n").done();
    store
        .load(&docker_archive(
            &[hello(), second],
            &["reg.example:5000/a/b:1"],
            json!({}),
        ))
        .unwrap();
    let image = store.storage.images().get("reg.example:5000/a/b:1").unwrap();
    let archive = save(&store.storage, &["reg.example:5000/a/b:1"]);
    assert_eq!(archive, save(&store.storage, &["reg.example:5000/a/b:1"]));

    let mut parts = files(&archive);
    let elsewhere = Store::new();
    assert_eq!(elsewhere.load(&archive).unwrap()[0].id, image.id);
    parts.remove("manifest.json").unwrap();
    parts.remove("repositories").unwrap();
    let layout = Store::new();
    let loaded = layout.load(&pack(&parts)).unwrap();
    assert_eq!(
        (loaded[0].id, loaded[0].refs.clone()),
        (image.id, image.refs.clone())
    );
    let there = layout.storage.images().get(&image.id.short()).unwrap();
    let manifest = layout.storage.images().manifest_bytes(&there).unwrap().unwrap();
    assert_eq!(
        parts[&format!("blobs/sha256/{}", Digest::of(&manifest).hex())],
        manifest
    );
}

/// Loads an archive made from a good layout by `change`; it must be refused and leave nothing.
fn refused(change: impl FnOnce(&mut std::collections::BTreeMap<String, Vec<u8>>)) -> String {
    let store = Store::new();
    store
        .load(&docker_archive(&[hello()], &["bb"], json!({})))
        .unwrap();
    let mut parts = files(&save(&store.storage, &["bb"]));
    parts.remove("manifest.json").unwrap();
    change(&mut parts);
    let other = Store::new();
    let error = other.load(&pack(&parts)).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{}", error.chain());
    other.assert_clean();
    error.chain()
}

fn manifest_name(parts: &std::collections::BTreeMap<String, Vec<u8>>) -> String {
    let index: serde_json::Value = serde_json::from_slice(&parts["index.json"]).unwrap();
    index["manifests"][0]["digest"]
        .as_str()
        .unwrap()
        .replace("sha256:", "blobs/sha256/")
}

/// Replaces the manifest by a changed one under its new digest.
fn with_manifest(
    parts: &mut std::collections::BTreeMap<String, Vec<u8>>,
    edit: impl FnOnce(&mut serde_json::Value),
) {
    let old = manifest_name(parts);
    let mut manifest: serde_json::Value = serde_json::from_slice(&parts.remove(&old).unwrap()).unwrap();
    edit(&mut manifest);
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let digest = Digest::of(&bytes);
    let mut index: serde_json::Value = serde_json::from_slice(&parts["index.json"]).unwrap();
    index["manifests"][0]["digest"] = json!(digest.to_string());
    index["manifests"][0]["size"] = json!(bytes.len());
    parts.insert("index.json".into(), serde_json::to_vec(&index).unwrap());
    parts.insert(format!("blobs/sha256/{}", digest.hex()), bytes);
}

#[test]
fn ambiguous_documents_are_refused() {
    let error = refused(|parts| with_manifest(parts, |m| m["manifests"] = json!([])));
    assert!(error.contains("ambiguous"), "{error}");
    let error = refused(|parts| {
        with_manifest(parts, |m| {
            m["mediaType"] = json!("application/vnd.oci.image.index.v1+json")
        });
    });
    assert!(error.contains("ambiguous"), "{error}");
}

#[test]
fn digests_are_checked_before_they_are_paths_and_after() {
    let error = refused(|parts| {
        with_manifest(parts, |m| {
            m["layers"][0]["digest"] = json!("sha256:../../../etc/passwd")
        })
    });
    assert!(error.contains("invalid digest"), "{error}");
    let error = refused(|parts| {
        let name = manifest_name(parts);
        let bytes = parts.get_mut(&name).unwrap();
        let last = bytes.len() - 1;
        bytes[last] = b' ';
        bytes[last - 1] = b'}';
    });
    assert!(error.contains("does not match its digest"), "{error}");
    let error = refused(|parts| with_manifest(parts, |m| m["config"]["size"] = json!(1)));
    assert!(error.contains("bytes, but 1 are declared"), "{error}");
}

#[test]
fn what_is_missing_or_foreign_is_named() {
    let error = refused(|parts| {
        let layer = format!("blobs/sha256/{}", Digest::of(&hello()).hex());
        parts.remove(&layer).unwrap();
    });
    assert!(error.contains("is missing from the archive"), "{error}");
    let error = refused(|parts| {
        with_manifest(parts, |m| {
            m["layers"][0]["mediaType"] = json!("application/x-enc")
        })
    });
    assert!(error.contains("unsupported layer type"), "{error}");
    let error = refused(|parts| parts.retain(|name, _| name.starts_with("blobs/")));
    assert!(error.contains("no image archive"), "{error}");
}

#[test]
fn a_wrong_layer_or_a_cut_archive_leaves_nothing() {
    let store = Store::new();
    let good = docker_archive(&[hello()], &["bb"], json!({}));
    let mut parts = files(&good);
    let layer = parts
        .keys()
        .find(|name| name.ends_with("layer.tar"))
        .unwrap()
        .clone();
    parts.insert(layer, Tar::new().file("evil", b"x").done());
    let error = store.load(&pack(&parts)).unwrap_err();
    assert!(error.to_string().contains("content digest"), "{error}");
    store.assert_clean();

    for cut in [10, 600, good.len() / 2, good.len() - 1600] {
        let error = store.load(&good[..cut]).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{cut}: {}", error.chain());
        store.assert_clean();
    }
    let climbing = Tar::new().file("../manifest.json", b"[]").done();
    assert!(
        store
            .load(&climbing)
            .unwrap_err()
            .to_string()
            .contains("climbs out")
    );
    for other in [&b"not an archive at all"[..], &[b'x'; 5000]] {
        let error = store.load(other).unwrap_err();
        assert!(error.to_string().contains("no tar archive"), "{error}");
    }
    store.assert_clean();
}

#[test]
fn import_makes_an_image_with_the_changes() {
    let store = Store::new();
    let options = ImportOptions {
        reference: Some("mine:1".parse().unwrap()),
        changes: vec!["CMD [\"/bin/sh\"]".into(), "ENV A=1".into()],
        message: "from a tar".into(),
    };
    let id = store.storage.images().import(&mut &*hello(), &options).unwrap();
    let image = store.storage.images().get("mine:1").unwrap();
    assert_eq!(
        (image.id, image.config.config.env.clone()),
        (id, vec!["A=1".to_owned()])
    );
    let history = store.storage.images().history("mine:1").unwrap();
    assert_eq!(
        (history.len(), history[0].size, history[0].comment.as_str()),
        (1, 6, "from a tar")
    );

    let bad = ImportOptions {
        changes: vec!["RUN x".into()],
        ..ImportOptions::default()
    };
    let error = store.storage.images().import(&mut &*hello(), &bad).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
}

#[test]
fn an_index_for_several_platforms_gives_this_machines_image() {
    let store = Store::new();
    store
        .load(&docker_archive(&[hello()], &["bb"], json!({})))
        .unwrap();
    let image = store.storage.images().get("bb").unwrap();
    let mut parts = files(&save(&store.storage, &["bb"]));
    parts.remove("manifest.json").unwrap();
    let mut index: serde_json::Value = serde_json::from_slice(&parts["index.json"]).unwrap();
    let mut ours = index["manifests"][0].clone();
    ours["platform"] = json!({"os": "linux", "architecture": storage::image::host_architecture()});
    let mut other = ours.clone();
    other["platform"] = json!({"os": "linux", "architecture": "vax"});
    other["digest"] = json!(Digest::of(b"not even here").to_string());
    let mut nest = |manifests: serde_json::Value| {
        let media_type = "application/vnd.oci.image.index.v1+json";
        let inner = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}).to_string();
        let digest = Digest::of(inner.as_bytes());
        index["manifests"] = json!([{
            "mediaType": media_type, "digest": digest.to_string(), "size": inner.len(),
            "annotations": {"io.containerd.image.name": "docker.io/library/multi:1"},
        }]);
        let mut parts = parts.clone();
        parts.insert(format!("blobs/sha256/{}", digest.hex()), inner.into_bytes());
        parts.insert("index.json".into(), index.to_string().into_bytes());
        pack(&parts)
    };
    let elsewhere = Store::new();
    let loaded = elsewhere.load(&nest(json!([other, ours]))).unwrap();
    assert_eq!(loaded[0].id, image.id);
    assert_eq!(elsewhere.storage.images().get("multi:1").unwrap().id, image.id);
    let error = Store::new().load(&nest(json!([other]))).unwrap_err();
    assert!(error.to_string().contains("only for linux/vax"), "{error}");
}
