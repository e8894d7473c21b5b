//! The context of a build: a folder less what its .dockerignore leaves out, packed as the tar that the API takes.
//!
//! Owns where context and Dockerfile come from (`PATH`, `-`, `-f FILE`, `-f -`). Everything is checked before the
//! first byte is sent, so that the user reads of a missing file and not of an ended connection.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use builder::ignore::Ignore;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio_util::io::{ReaderStream, SyncIoBridge};

const IGNORE_FILE: &str = ".dockerignore";
/// Bytes that tell an archive from a Dockerfile.
const HEAD: usize = 512;
/// A stream of the parts of a tar.
pub(crate) type Parts = std::pin::Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send + Sync>>;

/// Where the files of a build come from, and which of them is the Dockerfile.
#[derive(Debug)]
pub(crate) struct Context {
    /// The Dockerfile's name within the archive.
    pub(crate) dockerfile: String,
    files: Files,
}

#[derive(Debug)]
enum Files {
    Folder(Folder),
    /// An archive that comes on standard input, and what was read of it to know that it is one.
    Archive(Vec<u8>),
}

#[derive(Debug)]
struct Folder {
    /// `None`: nothing but the Dockerfile.
    path: Option<PathBuf>,
    ignore: Ignore,
    /// The Dockerfile's path within the folder, sent whatever .dockerignore says.
    always: BTreeSet<String>,
    /// Files that are sent beside those of the folder, or in their place.
    made: Vec<(String, Vec<u8>)>,
}

impl Context {
    /// Reads the words of the command line: a folder or `-`, and `-f` if it was said.
    ///
    /// # Errors
    /// What is not there or not possible, by name.
    pub(crate) fn open(context: &str, file: Option<&str>) -> Result<Self> {
        match (context, file) {
            ("-", Some("-")) => {
                bail!("invalid argument: can't use stdin for both build context and dockerfile")
            }
            ("-", file) => Self::from_input(&mut io::stdin().lock(), file),
            (url, _)
                if ["http://", "https://", "git://", "git@", "ssh://"]
                    .iter()
                    .any(|s| url.starts_with(s)) =>
            {
                bail!("building from the remote context {url} is not built yet: fetch it and name the folder")
            }
            (folder, Some("-")) => {
                let mut text = Vec::new();
                io::stdin()
                    .lock()
                    .read_to_end(&mut text)
                    .context("read the Dockerfile from standard input")?;
                Self::with_dockerfile(Some(Path::new(folder)), text)
            }
            (folder, file) => Self::folder(Path::new(folder), file),
        }
    }

    /// A folder with its Dockerfile in it; `file` is named from here or from the folder, as Docker has it.
    ///
    /// # Errors
    /// A folder, Dockerfile or .dockerignore that cannot be read.
    pub(crate) fn folder(folder: &Path, file: Option<&str>) -> Result<Self> {
        let root = existing(folder)?;
        let dockerfile = dockerfile_in(folder, &root, file)?;
        let (ignore, _) = read_ignore(&root)?;
        Ok(Self {
            files: Files::Folder(Folder {
                path: Some(root),
                ignore,
                always: BTreeSet::from([dockerfile.clone(), IGNORE_FILE.to_owned()]),
                made: Vec::new(),
            }),
            dockerfile,
        })
    }

    /// A Dockerfile that is no file of the folder. It is sent under a name of its own, which no `COPY .` takes along.
    fn with_dockerfile(folder: Option<&Path>, text: Vec<u8>) -> Result<Self> {
        let root = folder.map(existing).transpose()?;
        let (ignore, mut lines) = root.as_deref().map(read_ignore).transpose()?.unwrap_or_default();
        let name = format!(".dockerfile.{:016x}", rand::random::<u64>());
        lines.push_str(&format!("\n{name}\n"));
        if root.is_none() {
            lines.push_str(&format!("{IGNORE_FILE}\n"));
        }
        Ok(Self {
            files: Files::Folder(Folder {
                path: root,
                ignore,
                always: BTreeSet::new(),
                made: vec![(name.clone(), text), (IGNORE_FILE.to_owned(), lines.into_bytes())],
            }),
            dockerfile: name,
        })
    }

    /// Standard input holds the whole context, or a Dockerfile that needs none.
    fn from_input(input: &mut impl Read, file: Option<&str>) -> Result<Self> {
        let mut head = Vec::new();
        input
            .by_ref()
            .take(HEAD as u64)
            .read_to_end(&mut head)
            .context("read the context from standard input")?;
        if is_archive(&head) {
            return Ok(Self {
                dockerfile: file.unwrap_or("Dockerfile").to_owned(),
                files: Files::Archive(head),
            });
        }
        if let Some(file) = file {
            bail!("standard input is no archive that the Dockerfile {file} could be in");
        }
        input
            .read_to_end(&mut head)
            .context("read the Dockerfile from standard input")?;
        Self::with_dockerfile(None, head)
    }

    /// The archive, made on a thread of its own while it is sent.
    pub(crate) fn stream(self) -> Parts {
        match self.files {
            Files::Archive(head) => {
                let head = stream::once(async move { Ok(Bytes::from(head)) });
                let rest = ReaderStream::with_capacity(tokio::io::stdin(), 64 * 1024);
                shared(head.chain(rest).boxed())
            }
            Files::Folder(folder) => {
                let (reader, writer) = tokio::io::duplex(256 * 1024);
                let writer = SyncIoBridge::new(writer);
                let written = tokio::task::spawn_blocking(move || folder.pack(writer));
                let end = stream::once(async move {
                    match written.await {
                        Ok(Ok(())) => Ok(Bytes::new()),
                        Ok(Err(error)) => Err(error),
                        Err(error) => Err(io::Error::other(error)),
                    }
                });
                shared(ReaderStream::with_capacity(reader, 64 * 1024).chain(end).boxed())
            }
        }
    }
}

/// A request's body must be shareable between threads, which a stream of futures is not.
fn shared(mut parts: stream::BoxStream<'static, io::Result<Bytes>>) -> Parts {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    tokio::spawn(async move {
        while let Some(part) = parts.next().await {
            if sender.send(part).await.is_err() {
                return;
            }
        }
    });
    Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))
}

impl Folder {
    fn pack(&self, to: impl Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(to);
        tar.follow_symlinks(false);
        for (name, content) in &self.made {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            tar.append_data(&mut header, name, content.as_slice())?;
        }
        if let Some(root) = &self.path {
            self.walk(&mut tar, root, "")?;
        }
        tar.into_inner()?.flush()
    }

    fn walk<W: Write>(&self, tar: &mut tar::Builder<W>, directory: &Path, within: &str) -> io::Result<()> {
        let said =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", directory.display()));
        let mut entries = fs::read_dir(directory)
            .map_err(said)?
            .collect::<io::Result<Vec<_>>>()
            .map_err(said)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                return Err(io::Error::other(format!(
                    "the name {name:?} in {} is not UTF-8",
                    directory.display()
                )));
            };
            let path = if within.is_empty() {
                name.to_owned()
            } else {
                format!("{within}/{name}")
            };
            self.entry(tar, &entry, &path)
                .map_err(|error| io::Error::new(error.kind(), format!("pack {path}: {error}")))?;
        }
        Ok(())
    }

    fn entry<W: Write>(&self, tar: &mut tar::Builder<W>, entry: &fs::DirEntry, path: &str) -> io::Result<()> {
        let kind = entry.file_type()?;
        let left_out = self.ignore.excludes(path) && !self.always.contains(path);
        if self.made.iter().any(|(name, _)| name == path) {
            return Ok(());
        }
        if kind.is_dir() {
            // What is below may be taken back, or be the Dockerfile.
            let holds = self
                .always
                .iter()
                .any(|kept| kept.starts_with(&format!("{path}/")));
            if left_out && self.ignore.is_final() && !holds {
                return Ok(());
            }
            if !left_out {
                tar.append_dir(path, entry.path())?;
            }
            return self.walk(tar, &entry.path(), path);
        }
        // A socket is of no use in an image, and a tar cannot hold one.
        if left_out || kind.is_socket() {
            return Ok(());
        }
        tar.append_path_with_name(entry.path(), path)
    }
}

fn existing(folder: &Path) -> Result<PathBuf> {
    let shown = folder.display();
    let root = folder
        .canonicalize()
        .with_context(|| format!("unable to prepare context: path {shown} not found"))?;
    if !root.is_dir() {
        bail!("unable to prepare context: {shown} is not a folder");
    }
    Ok(root)
}

/// The ignore file of a folder, read and as it is.
fn read_ignore(root: &Path) -> Result<(Ignore, String)> {
    let file = root.join(IGNORE_FILE);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
    };
    let ignore = Ignore::parse(&text).map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
    Ok((ignore, text))
}

/// The Dockerfile's path within the context.
fn dockerfile_in(folder: &Path, root: &Path, file: Option<&str>) -> Result<String> {
    let candidates = match file {
        None => vec![folder.join("Dockerfile")],
        Some(file) => vec![PathBuf::from(file), folder.join(file)],
    };
    let shown = file.map_or_else(|| candidates[0].display().to_string(), str::to_owned);
    let place =
        |path: &PathBuf| Some((path.parent()?, path.file_name()?)).map(|(p, n)| (p.to_owned(), n.to_owned()));
    for candidate in candidates.iter().filter(|path| path.exists()) {
        // The name itself may be a link, which travels as one.
        let Some((parent, name)) = place(candidate) else {
            continue;
        };
        let parent = if parent.as_os_str().is_empty() {
            PathBuf::from(".")
        } else {
            parent
        };
        let full = parent
            .canonicalize()
            .with_context(|| format!("the Dockerfile {shown}"))?
            .join(name);
        let Ok(within) = full.strip_prefix(root) else {
            bail!(
                "the Dockerfile {shown} must be within the context {}",
                folder.display()
            );
        };
        return Ok(within.display().to_string());
    }
    bail!("cannot find the Dockerfile {shown}: name it with -f")
}

/// Whether the first bytes are those of a tar, plain or compressed.
fn is_archive(head: &[u8]) -> bool {
    const MAGIC: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    MAGIC.iter().any(|magic| head.starts_with(magic)) || head.get(257..262) == Some(b"ustar")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(context: Context) -> BTreeSet<String> {
        let Files::Folder(folder) = context.files else {
            panic!("a folder")
        };
        let mut bytes = Vec::new();
        folder.pack(&mut bytes).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries = archive.entries().unwrap();
        entries
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect()
    }

    fn tree(ignore: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in ["Dockerfile", "a/x", "a/keep", "big/y", "deep/Dockerfile"] {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        fs::write(folder.path().join(IGNORE_FILE), ignore).unwrap();
        folder
    }

    #[test]
    fn what_is_ignored_stays_at_home() {
        let folder = tree("*\n!a/keep\n");
        let sent = names(Context::folder(folder.path(), None).unwrap());
        assert_eq!(
            sent,
            [".dockerignore", "Dockerfile", "a/keep"]
                .map(str::to_owned)
                .into()
        );
        let sent = names(Context::folder(folder.path(), Some("deep/Dockerfile")).unwrap());
        assert!(
            sent.contains("deep/Dockerfile") && !sent.contains("Dockerfile"),
            "{sent:?}"
        );
        assert_eq!(names(Context::folder(tree("").path(), None).unwrap()).len(), 9);
    }

    #[test]
    fn a_dockerfile_from_elsewhere_is_not_copied() {
        let folder = tree("big\n");
        let context = Context::with_dockerfile(Some(folder.path()), b"FROM scratch".to_vec()).unwrap();
        let Files::Folder(sent) = &context.files else {
            panic!("a folder")
        };
        let lines = String::from_utf8(sent.made[1].1.clone()).unwrap();
        assert!(
            lines.starts_with("big\n") && lines.contains(&context.dockerfile),
            "{lines}"
        );
        let name = context.dockerfile.clone();
        let sent = names(context);
        assert!(
            sent.contains(&name) && !sent.contains("big") && !sent.contains("big/y"),
            "{sent:?}"
        );
    }

    #[test]
    fn input_is_an_archive_or_a_dockerfile() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        tar.append_data(&mut header, "Dockerfile", &b"x"[..]).unwrap();
        let bytes = tar.into_inner().unwrap();
        let context = Context::from_input(&mut bytes.as_slice(), None).unwrap();
        assert!(matches!(context.files, Files::Archive(head) if head.len() == HEAD));
        let context = Context::from_input(&mut &b"FROM scratch\n"[..], None).unwrap();
        assert_eq!(names(context).len(), 2);
        assert!(Context::from_input(&mut &b"FROM scratch\n"[..], Some("x")).is_err());
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tree("");
        let said = |error: anyhow::Error| format!("{error:#}");
        assert!(said(Context::folder(Path::new("/nope"), None).unwrap_err()).contains("/nope"));
        assert!(said(Context::folder(folder.path(), Some("nope")).unwrap_err()).contains("nope"));
        assert!(said(Context::folder(folder.path(), Some("/etc/passwd")).unwrap_err()).contains("within"));
        assert!(said(Context::folder(tree("!").path(), None).unwrap_err()).contains(IGNORE_FILE));
        assert!(said(Context::open("https://x/y.git", None).unwrap_err()).contains("https://x/y.git"));
    }
}
