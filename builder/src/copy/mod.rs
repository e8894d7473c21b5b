//! `COPY` and `ADD`: from arguments to the entries of a layer.
//!
//! Rules of the Dockerfile reference, "COPY" and "ADD": a directory gives its contents, a file goes into a directory
//! or becomes the target, several sources need a target that ends in `/`, everything belongs to root unless said.

mod digest;
mod source;
mod target;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use storage::{FileKind, LayerData, LayerEntry, RootFd, Storage, Unpacked};

pub(crate) use self::digest::content_digest;
pub(crate) use self::source::{Selected, Source};
pub(crate) use self::target::Target;
use crate::error::StepError;

/// An instruction with its variables replaced.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// `COPY` or `ADD`.
    pub(crate) word: &'a str,
    pub(crate) source: &'a Source,
    pub(crate) arguments: &'a [String],
    /// Absolute.
    pub(crate) target: &'a str,
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) mode: Option<u32>,
    /// `ADD` unpacks local archives.
    pub(crate) unpack: Option<&'a Storage>,
}

/// The entries of the layer.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) entries: Vec<LayerEntry>,
    /// `file`, `dir` or `multi`: Docker's word for the history.
    pub(crate) word: &'static str,
    /// Unpacked archives that the entries read from.
    _unpacked: Vec<Unpacked>,
}

/// Collects what the instruction copies over the file system `base`.
pub(crate) fn gather(request: &Request<'_>, base: &RootFd) -> Result<Gathered, StepError> {
    let mut selected = Vec::new();
    for argument in request.arguments {
        selected.extend(request.source.select(argument)?);
    }
    let into_dir = request.target.ends_with('/') || request.target.ends_with("/.");
    if selected.len() > 1 && !into_dir {
        let word = request.word;
        return Err(StepError::Invalid(format!(
            "When using {word} with more than one source file, the destination must be a directory and end with a /"
        )));
    }
    let word = match selected.as_slice() {
        [one] if one.is_dir => "dir",
        [_] => "file",
        _ => "multi",
    };
    let mut target = Target::new(base, request.owner.unwrap_or_default());
    let (place, exists) = target.locate(Path::new(request.target))?;
    let mut unpacked = Vec::new();
    for one in &selected {
        if one.is_dir {
            copy_dir(request, request.source, &one.path, &place, false, &mut target)?;
        } else if let Some(archive) = unpack(request, one)? {
            let source = Source {
                root: archive.root(),
                ignore: Default::default(),
            };
            copy_dir(request, &source, Path::new(""), &place, true, &mut target)?;
            unpacked.push(archive);
        } else {
            copy_file(request, one, &place, into_dir || exists, &mut target)?;
        }
    }
    Ok(Gathered {
        entries: target.finish(),
        word,
        _unpacked: unpacked,
    })
}

fn copy_dir(
    request: &Request<'_>,
    source: &Source,
    from: &Path,
    place: &Path,
    keep_owner: bool,
    target: &mut Target<'_>,
) -> Result<(), StepError> {
    target.directory(place)?;
    for node in source.tree(from)? {
        if node.relative.as_os_str().is_empty() {
            continue;
        }
        let owner = request
            .owner
            .or(keep_owner.then_some((node.stat.uid, node.stat.gid)));
        let entry = entry(
            source,
            &from.join(&node.relative),
            &place.join(&node.relative),
            owner,
            request.mode,
        )?;
        target.put(entry)?;
    }
    Ok(())
}

fn copy_file(
    request: &Request<'_>,
    one: &Selected,
    place: &Path,
    into_dir: bool,
    target: &mut Target<'_>,
) -> Result<(), StepError> {
    let to = if into_dir {
        target.directory(place)?;
        // The directory may hold a link of that name, which is followed as everywhere in the target.
        place.join(&one.name)
    } else {
        target.directory(place.parent().unwrap_or(Path::new("")))?;
        place.to_owned()
    };
    target.put(entry(
        request.source,
        &one.path,
        &to,
        request.owner,
        request.mode,
    )?)
}

/// One file of the source as a member of the layer.
fn entry(
    source: &Source,
    from: &Path,
    to: &Path,
    owner: Option<(u32, u32)>,
    mode: Option<u32>,
) -> Result<LayerEntry, StepError> {
    let at = Path::new("/").join(from);
    let stat = source.root.lstat(&at)?;
    let device = (rdev_major(stat.rdev), rdev_minor(stat.rdev));
    let data = match stat.kind {
        FileKind::Directory => LayerData::Directory,
        FileKind::Symlink => LayerData::Symlink(source.root.read_link(&at)?.as_os_str().as_bytes().to_vec()),
        FileKind::CharDevice => LayerData::CharDevice(device.0, device.1),
        FileKind::BlockDevice => LayerData::BlockDevice(device.0, device.1),
        FileKind::Fifo => LayerData::Fifo,
        FileKind::File => LayerData::File {
            root: Arc::clone(&source.root),
            path: at.clone(),
            size: stat.size,
        },
        FileKind::Socket | FileKind::Unknown => {
            return Err(StepError::Invalid(format!(
                "{} is a socket and cannot be copied",
                from.display()
            )));
        }
    };
    let (uid, gid) = owner.unwrap_or_default();
    let mode = mode
        .filter(|_| stat.kind != FileKind::Symlink)
        .unwrap_or(stat.mode);
    let mut xattrs = source.root.xattrs(&at)?;
    xattrs.retain(|(name, _)| name == b"security.capability" || name.starts_with(b"user."));
    Ok(LayerEntry {
        path: to.as_os_str().as_bytes().to_vec(),
        data,
        mode,
        uid,
        gid,
        mtime: stat.mtime,
        xattrs,
    })
}

/// Unpacks a local archive for `ADD`; `None` for what is copied as it is.
fn unpack(request: &Request<'_>, one: &Selected) -> Result<Option<Unpacked>, StepError> {
    let Some(storage) = request.unpack else {
        return Ok(None);
    };
    let at = PathBuf::from("/").join(&one.path);
    let root = &request.source.root;
    if root.lstat(&at)?.kind != FileKind::File || !storage::layer::looks_like_tar(&mut root.open(&at)?)? {
        return Ok(None);
    }
    Ok(Some(storage.layers().unpack(&mut root.open(&at)?)?))
}

/// Linux' encoding of device numbers (makedev(3)).
fn rdev_major(rdev: u64) -> u32 {
    (((rdev >> 32) & 0xffff_f000) | ((rdev >> 8) & 0xfff)) as u32
}

fn rdev_minor(rdev: u64) -> u32 {
    (((rdev >> 12) & 0xffff_ff00) | (rdev & 0xff)) as u32
}
