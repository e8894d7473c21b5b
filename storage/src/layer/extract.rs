//! Layer tar → directory in overlay form, with its recipe, in one pass.
//!
//! OCI whiteouts become overlay's: `.wh.x` a character device 0:0 named `x`, `.wh..wh..opq` the opaque attribute of
//! its directory (OCI image specification, layer.md; kernel overlayfs documentation, "whiteouts and opaque directories").

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use rustix::io::Errno;

use super::LayerError;
use super::path::{InRoot, link_climbs_out};
use super::recipe::{self, RecipeWriter};
use super::tree::{Replaced, Tree};
use crate::digest::DiffId;
use crate::tar::{Entry, EntryKind, SparseMap, TarReader, show};

/// Directories inside each other; what replaces a tree holds a descriptor for each.
const MAX_DEPTH: usize = 400;
const WHITEOUT: &[u8] = b".wh.";
/// AUFS bookkeeping, and the opaque mark among it.
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";

/// What an extraction found.
#[derive(Debug)]
pub(super) struct Extracted {
    pub(super) diff_id: DiffId,
    pub(super) tar_size: u64,
    pub(super) size: u64,
    pub(super) entries: u64,
    pub(super) names_root: bool,
}

/// What the archive is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A layer: whiteouts are translated and a recipe is kept.
    Layer,
    /// Plain files, as in a build context: `.wh.x` is a file like any other.
    Files,
    /// A volume: plain files, of which nothing is refused or left out, for they are copied from a volume.
    Volume,
}

/// Unpacks the plain tar into `dir/fs`, with `dir/recipe` for a layer. `dir` must be empty.
pub(super) fn extract(tar: impl Read, dir: &Path, purpose: Purpose) -> Result<Extracted, LayerError> {
    let io = |operation| move |source| LayerError::Io { operation, source };
    fs::create_dir(dir.join("fs")).map_err(io("create layer directory"))?;
    set_root_mode(&dir.join("fs")).map_err(io("create layer directory"))?;
    let recipe = (purpose == Purpose::Layer)
        .then(|| RecipeWriter::create(&dir.join("recipe")))
        .transpose();
    let mut tree = Tree::open(&dir.join("fs")).map_err(io("open layer directory"))?;
    if purpose == Purpose::Volume {
        tree = tree.exact();
    }
    let mut extraction = Extraction {
        dir,
        tree,
        purpose,
        recipe: recipe.map_err(io(WRITE_RECIPE))?,
        numbers: HashMap::new(),
        size: 0,
        names_root: false,
    };
    let mut reader = TarReader::new(tar, purpose == Purpose::Layer);
    while let Some(entry) = reader.next_entry()? {
        extraction.frame(&reader.take_frame())?;
        extraction.entry(&entry, &mut reader)?;
    }
    let (digest, tar_size) = reader.finish(&mut |rest| extraction.frame(rest))?;
    extraction.finish(DiffId(digest), tar_size)
}

const WRITE_RECIPE: &str = "write layer recipe";

struct Extraction<'a> {
    dir: &'a Path,
    tree: Tree,
    purpose: Purpose,
    recipe: Option<RecipeWriter>,
    /// Inode of each plain file → its number in the recipe.
    numbers: HashMap<u64, u32>,
    size: u64,
    names_root: bool,
}

impl Extraction<'_> {
    fn frame(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        let written = self.recipe.as_mut().map_or(Ok(()), |recipe| recipe.raw(bytes));
        written.map_err(|source| LayerError::Io {
            operation: WRITE_RECIPE,
            source,
        })
    }

    /// The number under which the recipe knows the data that follows.
    fn number(&mut self, at: &InRoot, size: u64) -> Result<Option<u32>, LayerError> {
        let number = self
            .recipe
            .as_mut()
            .map(|recipe| recipe.file(at, size))
            .transpose();
        number.map_err(|source| LayerError::Io {
            operation: WRITE_RECIPE,
            source,
        })
    }

    fn finish(self, diff_id: DiffId, tar_size: u64) -> Result<Extracted, LayerError> {
        let written = self.recipe.map_or(Ok(()), RecipeWriter::finish);
        written.map_err(|source| LayerError::Io {
            operation: WRITE_RECIPE,
            source,
        })?;
        let entries = self.tree.finish().map_err(|source| LayerError::Apply {
            operation: "set times of directories in",
            entry: "layer".into(),
            source: source.into(),
        })?;
        Ok(Extracted {
            diff_id,
            tar_size,
            size: self.size,
            entries,
            names_root: self.names_root,
        })
    }

    fn entry<R: Read>(&mut self, entry: &Entry, data: &mut TarReader<R>) -> Result<(), LayerError> {
        let at = InRoot::parse(&entry.path).ok_or_else(|| climbs(entry, &entry.path))?;
        if at.depth() > MAX_DEPTH {
            return Err(LayerError::TooDeep {
                entry: show(&entry.path),
            });
        }
        let whiteout = at
            .split()
            .filter(|(_, name)| self.recipe.is_some() && name.starts_with(WHITEOUT));
        if let Some((parent, name)) = whiteout {
            return self.whiteout(entry, &parent, name, data);
        }
        let done = match entry.kind {
            EntryKind::File => return self.file(&at, entry, data),
            EntryKind::Directory => {
                self.names_root |= at.is_root();
                self.tree
                    .directory(&at, entry, &mut keep(self.dir, &self.numbers))
            }
            EntryKind::Symlink => {
                if self.purpose != Purpose::Volume && link_climbs_out(&at, &entry.link) {
                    return Err(climbs(entry, &entry.link));
                }
                self.tree.symlink(&at, entry, &mut keep(self.dir, &self.numbers))
            }
            EntryKind::HardLink => {
                let target = InRoot::parse(&entry.link).ok_or_else(|| climbs(entry, &entry.link))?;
                self.tree
                    .hard_link(&at, &target, &mut keep(self.dir, &self.numbers))
            }
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                self.tree.node(&at, entry, &mut keep(self.dir, &self.numbers))
            }
        };
        done.map_err(|errno| applying(entry, errno))
    }

    fn whiteout<R: Read>(
        &mut self,
        entry: &Entry,
        parent: &InRoot,
        name: &[u8],
        data: &mut TarReader<R>,
    ) -> Result<(), LayerError> {
        if entry.stored > 0
            && let Some(number) = self.number(&InRoot::nowhere(), entry.stored)?
        {
            // Its data is part of the layer's identity but of no file.
            self.shadow_data(number, entry, data)?;
        }
        self.hide(entry, parent, name)
    }

    fn hide(&mut self, entry: &Entry, parent: &InRoot, name: &[u8]) -> Result<(), LayerError> {
        let done = if name == OPAQUE_MARK {
            self.tree.opaque(parent)
        } else if name.starts_with(WHITEOUT_META) {
            Ok(())
        } else {
            match &name[WHITEOUT.len()..] {
                b"" | b"." | b".." => return Err(climbs(entry, &entry.path)),
                hidden => {
                    let at = InRoot::parse(&[parent.as_bytes(), b"/", hidden].concat());
                    self.tree.whiteout(&at.ok_or_else(|| climbs(entry, &entry.path))?)
                }
            }
        };
        done.map_err(|errno| applying(entry, errno))
    }

    fn shadow_data<R: Read>(
        &mut self,
        number: u32,
        entry: &Entry,
        data: &mut TarReader<R>,
    ) -> Result<(), LayerError> {
        let path = recipe::shadow(self.dir, number);
        let created = fs::create_dir_all(self.dir.join("shadow")).and_then(|()| File::create_new(&path));
        let mut file = created.map_err(|source| LayerError::Io {
            operation: WRITE_RECIPE,
            source,
        })?;
        copy(data, &mut file, entry)
    }

    /// Writes the pieces of a sparse file; their bytes are kept in the recipe, for the file has lost its map.
    fn sparse_data<R: Read>(
        &mut self,
        map: &SparseMap,
        entry: &Entry,
        data: &mut TarReader<R>,
        file: &mut File,
    ) -> Result<(), LayerError> {
        let writing = |source| LayerError::Apply {
            operation: "write",
            entry: show(&entry.path),
            source,
        };
        let mut buffer = vec![0u8; 128 << 10];
        for (offset, length) in &map.pieces {
            file.seek(SeekFrom::Start(*offset)).map_err(writing)?;
            let mut left = *length;
            while left > 0 {
                let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
                let n = data
                    .read(&mut buffer[..most])
                    .map_err(|source| data.failed(source))?;
                file.write_all(&buffer[..n]).map_err(writing)?;
                self.frame(&data.take_frame())?;
                left -= n as u64;
            }
        }
        file.set_len(map.size).map_err(writing)
    }

    fn file<R: Read>(
        &mut self,
        at: &InRoot,
        entry: &Entry,
        data: &mut TarReader<R>,
    ) -> Result<(), LayerError> {
        let created = self.tree.file(at, &mut keep(self.dir, &self.numbers));
        let mut file = created.map_err(|errno| applying(entry, errno))?;
        if let Some(map) = &entry.sparse {
            self.sparse_data(map, entry, data, &mut file)?;
            self.size += map.size;
        } else if entry.stored > 0 {
            if let Some(number) = self.number(at, entry.stored)? {
                let stat = rustix::fs::fstat(&file).map_err(|errno| applying(entry, errno))?;
                self.numbers.insert(stat.st_ino, number);
            }
            copy(data, &mut file, entry)?;
            self.size += entry.stored;
        }
        self.tree
            .finish_file(&file, entry)
            .map_err(|errno| applying(entry, errno))
    }
}

/// Keeps the data of a replaced file for the recipe: it moves to `shadow/<number>`.
fn keep<'a>(
    dir: &'a Path,
    numbers: &'a HashMap<u64, u32>,
) -> impl FnMut(Replaced<'_>) -> Result<(), Errno> + 'a {
    move |replaced| {
        let Some(number) = numbers.get(&replaced.inode) else {
            return Ok(());
        };
        let path = recipe::shadow(dir, *number);
        let made = fs::create_dir_all(dir.join("shadow"));
        made.map_err(|e| e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))?;
        rustix::fs::renameat(replaced.parent, replaced.name, rustix::fs::CWD, &path)
    }
}

fn copy<R: Read>(data: &mut TarReader<R>, file: &mut File, entry: &Entry) -> Result<(), LayerError> {
    let mut buffer = [0u8; 128 << 10];
    loop {
        let n = match data.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(source) => return Err(data.failed(source).into()),
        };
        file.write_all(&buffer[..n]).map_err(|source| LayerError::Apply {
            operation: "write",
            entry: show(&entry.path),
            source,
        })?;
    }
}

fn climbs(entry: &Entry, path: &[u8]) -> LayerError {
    LayerError::ClimbsOut {
        entry: show(&entry.path),
        path: show(path),
    }
}

fn applying(entry: &Entry, errno: Errno) -> LayerError {
    LayerError::Apply {
        operation: "create",
        entry: show(&entry.path),
        source: errno.into(),
    }
}

/// A layer's root is readable by all unless its tar says otherwise.
fn set_root_mode(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}
