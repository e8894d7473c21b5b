//! Files as one tree: each is parsed, interpolated and freed of `extends`; then the later ones lie over the earlier ones,
//! and what they include is added to the whole, in the order that the Compose Specification asks for.

use std::path::{Path, PathBuf};

use super::error::ComposeError;
use super::reader::{At, Context};
use super::yaml::{self, Node};
use super::{extends, include, interpolate, merge};

type Read<T> = Result<T, ComposeError>;

/// How many files may be included: files that include each other twice at every level would never end.
const MOST_FILES: usize = 1000;

/// Loads trees, and knows what is being loaded.
#[derive(Default)]
pub(super) struct Loader {
    pub(super) warnings: Vec<String>,
    /// The files of the models that are being loaded, the outermost first.
    open: Vec<Vec<PathBuf>>,
    /// The files whose `include` is followed at present, one for each model but the last.
    path: Vec<PathBuf>,
    included: usize,
}

impl Loader {
    /// The texts as one tree without `extends` and `include`.
    pub(super) fn tree(&mut self, sources: &[(&Path, &str)], project: &Context) -> Read<Node> {
        let mut tree: Option<Node> = None;
        for &(file, text) in sources {
            let mut node = yaml::parse(file, text)?;
            interpolate::interpolate(&mut node, "", &project.variables, &mut self.warnings)?;
            let node = extends::extend(file, node, project, &mut self.warnings)?;
            tree = Some(match tree {
                None => node,
                Some(base) => merge::merge(base, node),
            });
        }
        let tree = tree.ok_or(ComposeError::NoFile)?;
        self.open
            .push(sources.iter().map(|(file, _)| identity(file)).collect());
        let tree = include::include(self, tree, project);
        self.open.pop();
        tree
    }

    /// As [`Loader::tree`], of the files that `include` names at the place.
    pub(super) fn included(&mut self, at: &At<'_>, files: &[PathBuf], project: &Context) -> Read<Node> {
        let mut texts = Vec::new();
        self.path.push(at.file().to_path_buf());
        for file in files {
            self.admit(at, file)?;
            let text = std::fs::read_to_string(file);
            texts.push(text.map_err(|error| at.wrong(format!("cannot read {}: {error}", file.display())))?);
        }
        let sources = files.iter().zip(&texts);
        let sources: Vec<_> = sources
            .map(|(file, text)| (file.as_path(), text.as_str()))
            .collect();
        let tree = self.tree(&sources, project)?;
        self.path.pop();
        Ok(tree)
    }

    /// Refuses a file that is being loaded already, and one too many.
    fn admit(&mut self, at: &At<'_>, file: &Path) -> Read<()> {
        let known = identity(file);
        if let Some(start) = self.open.iter().position(|files| files.contains(&known)) {
            let between = self.path.iter().skip(start + 1).map(|file| identity(file));
            let ends = std::iter::once(known.clone());
            let steps = ends.clone().chain(between).chain(ends);
            let steps: Vec<String> = steps.map(|file| file.display().to_string()).collect();
            return Err(at.wrong(format!("include goes in a circle: {}", steps.join(" → "))));
        }
        self.included += 1;
        if self.included > MOST_FILES {
            return Err(at.wrong(format!("more than {MOST_FILES} files are included")));
        }
        Ok(())
    }
}

/// What tells a file from another one, however it is named.
pub(super) fn identity(file: &Path) -> PathBuf {
    let absolute = || std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
    file.canonicalize().unwrap_or_else(|_| absolute())
}

/// The file that the text at the place names, relative to the folder.
///
/// # Errors
/// It is not on this machine.
pub(super) fn local(at: &At<'_>, folder: &Path, text: &str) -> Read<PathBuf> {
    if text.is_empty() || text.contains("://") || text.starts_with("git@") {
        return Err(at.wrong(format!(
            "{text:?} is not a file of this machine: fetch it, and name the copy"
        )));
    }
    Ok(beside(folder, text))
}

/// A path relative to the folder, without a needless `./`.
pub(super) fn beside(folder: &Path, text: &str) -> PathBuf {
    if folder == Path::new(".") {
        PathBuf::from(text)
    } else {
        folder.join(text)
    }
}
