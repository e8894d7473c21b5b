//! Temporary stores and archives made in memory.

use std::time::Duration;

use serde_json::json;
use storage::image::LoadedImage;
use storage::{Digest, Layer, Lease, Storage};

/// A store in a directory that is removed at the end.
pub(crate) struct Store {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) storage: Storage,
}

impl Store {
    pub(crate) fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests need root: run `cargo xtask test`"
        );
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        Self { dir, storage }
    }

    pub(crate) fn lease(&self) -> Lease {
        self.storage
            .leases()
            .acquire("test", Duration::from_secs(3600))
            .unwrap()
    }

    pub(crate) fn apply(&self, tar: &[u8], lease: &Lease) -> storage::Result<Layer> {
        self.storage.layers().apply_tar(&mut &*tar, lease)
    }

    pub(crate) fn load(&self, archive: &[u8]) -> storage::Result<Vec<LoadedImage>> {
        self.storage.images().load(&mut &*archive, &mut |_| {})
    }

    /// Names in a directory of the store.
    pub(crate) fn names(&self, dir: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join(dir)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Nothing of a failed operation is left.
    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.names("layers"), ["empty"]);
        assert_eq!(self.names("ingest"), [""; 0]);
        assert_eq!(self.names("trash"), [""; 0]);
        assert!(self.storage.images().list().unwrap().is_empty());
    }
}

/// A tar under construction.
pub(crate) struct Tar(pub(crate) tar::Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub(crate) fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header
    }

    /// Writes the name unchecked: the crate itself refuses what the tests need.
    pub(crate) fn named(mut header: tar::Header, path: &str) -> tar::Header {
        header.as_mut_bytes()[..100].fill(0);
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        header
    }

    pub(crate) fn link_named(mut header: tar::Header, target: &str) -> tar::Header {
        header.as_mut_bytes()[157..257].fill(0);
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        header
    }

    pub(crate) fn file(self, path: &str, data: &[u8]) -> Self {
        self.owned_file(path, data, 0o644, 0)
    }

    pub(crate) fn owned_file(mut self, path: &str, data: &[u8], mode: u32, uid: u64) -> Self {
        let mut header = Self::header(tar::EntryType::Regular, mode, data.len());
        header.set_uid(uid);
        self.0.append(&Self::named(header, path), data).unwrap();
        self
    }

    pub(crate) fn dir(mut self, path: &str, mode: u32) -> Self {
        let header = Self::named(Self::header(tar::EntryType::Directory, mode, 0), path);
        self.0.append(&header, &[][..]).unwrap();
        self
    }

    pub(crate) fn link(mut self, kind: tar::EntryType, path: &str, target: &str) -> Self {
        let header = Self::link_named(Self::named(Self::header(kind, 0o777, 0), path), target);
        self.0.append(&header, &[][..]).unwrap();
        self
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.link(tar::EntryType::Symlink, path, target)
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.link(tar::EntryType::Link, path, target)
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// An image of the given layers as a docker archive.
pub(crate) fn docker_archive(layers: &[Vec<u8>], tags: &[&str], extra: serde_json::Value) -> Vec<u8> {
    let config = config(layers, extra);
    let mut tar = Tar::new();
    let mut files = Vec::new();
    for layer in layers {
        let name = format!("{}/layer.tar", Digest::of(layer).hex());
        tar = tar.file(&name, layer);
        files.push(name);
    }
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let manifest = json!([{"Config": config_name, "RepoTags": tags, "Layers": files}]);
    tar.file(&config_name, &config)
        .file("manifest.json", manifest.to_string().as_bytes())
        .done()
}

pub(crate) fn config(layers: &[Vec<u8>], extra: serde_json::Value) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let document = json!({
        "architecture": storage::image::host_architecture(), "os": "linux", "created": "2024-01-02T03:04:05Z",
        "config": extra, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    serde_json::to_vec(&document).unwrap()
}

/// A small layer.
pub(crate) fn hello() -> Vec<u8> {
    Tar::new().dir("etc/", 0o755).file("etc/hello", b"hello\n").done()
}
