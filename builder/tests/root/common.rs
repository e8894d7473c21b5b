//! A temporary store and contexts made in memory.

use std::collections::BTreeMap;

use builder::{BuildError, BuildEvent, BuildRequest};
use storage::{Image, ImageId, RootFd, Storage};

/// A store and what the last build printed.
pub(crate) struct Bench {
    _dir: tempfile::TempDir,
    pub(crate) storage: Storage,
}

impl Bench {
    pub(crate) fn new() -> Self {
        assert!(nix_root(), "these tests need root: run `cargo xtask test`");
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        Self { _dir: dir, storage }
    }

    /// Builds under the name `test`; the output's lines.
    pub(crate) fn build(&self, context: &Context) -> Result<(ImageId, Vec<String>), BuildError> {
        self.build_with(context, |_| {})
    }

    pub(crate) fn build_with(
        &self,
        context: &Context,
        change: impl FnOnce(&mut BuildRequest<'_>),
    ) -> Result<(ImageId, Vec<String>), BuildError> {
        let tar = context.tar();
        let mut reader = tar.as_slice();
        let mut request = BuildRequest {
            context: &mut reader,
            dockerfile: String::new(),
            tags: vec!["test".parse().unwrap()],
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            target: None,
            no_cache: false,
        };
        change(&mut request);
        let mut output = String::new();
        let id = builder::build(&self.storage, request, &mut |event| {
            if let BuildEvent::Stream(text) = event {
                output.push_str(&text);
            }
        })?;
        Ok((id, output.lines().map(str::to_owned).collect()))
    }

    /// Builds and gives the image and its files.
    pub(crate) fn built(&self, context: &Context) -> (Image, RootFd) {
        let (id, _) = self
            .build(context)
            .unwrap_or_else(|error| panic!("{}", error.chain()));
        let image = self.storage.images().get(&id.to_string()).unwrap();
        let view = self.storage.snapshots().view_image(&id).unwrap();
        (image, view)
    }

    /// The error's text; nothing of the build is left.
    pub(crate) fn refused(&self, context: &Context) -> String {
        let before = self.storage.images().list().unwrap().len();
        let error = self.build(context).unwrap_err();
        assert!(error.is_user_error(), "{}", error.chain());
        assert_eq!(self.storage.images().list().unwrap().len(), before);
        error.chain()
    }
}

fn nix_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

/// Files of a build context.
pub(crate) struct Context {
    files: Vec<(String, tar::EntryType, Vec<u8>, u32, u64)>,
}

impl Context {
    pub(crate) fn new(dockerfile: &str) -> Self {
        Self { files: Vec::new() }.file("Dockerfile", dockerfile.as_bytes())
    }

    pub(crate) fn file(self, path: &str, data: &[u8]) -> Self {
        self.entry(path, tar::EntryType::Regular, data, 0o644, 1_600_000_000)
    }

    pub(crate) fn entry(
        mut self,
        path: &str,
        kind: tar::EntryType,
        data: &[u8],
        mode: u32,
        mtime: u64,
    ) -> Self {
        self.files
            .push((path.to_owned(), kind, data.to_vec(), mode, mtime));
        self
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(
            path,
            tar::EntryType::Symlink,
            target.as_bytes(),
            0o777,
            1_600_000_000,
        )
    }

    pub(crate) fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(path, tar::EntryType::Directory, b"", mode, 1_600_000_000)
    }

    pub(crate) fn tar(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, data, mode, mtime) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(*mode);
            header.set_uid(1000);
            header.set_gid(1000);
            header.set_mtime(*mtime);
            if *kind == tar::EntryType::Symlink {
                let target = String::from_utf8(data.clone()).unwrap();
                header.set_size(0);
                builder.append_link(&mut header, path, target).unwrap();
            } else {
                header.set_size(data.len() as u64);
                builder.append_data(&mut header, path, data.as_slice()).unwrap();
            }
        }
        builder.into_inner().unwrap()
    }
}
