//! `include`: models of other files, each loaded in its own folder with its own variables, added to the including one
//! (Compose Specification, section Include).
//!
//! Nothing is merged here: a name that two files give to different things is an error. To change what is included, name
//! the change as a second file in the entry's `path`.

use std::path::PathBuf;

use super::error::ComposeError;
use super::files::{Loader, beside, local};
use super::reader::{At, Context};
use super::yaml::{Node, Value};
use super::{Variables, env_file, folder, transplant};

type Read<T> = Result<T, ComposeError>;

/// What an included file gives, and the word for one of each.
const SECTIONS: [(&str, &str); 5] = [
    ("services", "service"),
    ("networks", "network"),
    ("volumes", "volume"),
    ("secrets", "secret"),
    ("configs", "config"),
];

/// Adds what the tree includes, and takes `include` out of it.
///
/// # Errors
/// A file that is not there, a circle, two things of one name, and whatever is wrong with the files.
pub(super) fn include(loader: &mut Loader, mut tree: Node, project: &Context) -> Read<Node> {
    let Some(node) = tree.remove("include").filter(|node| !node.is_null()) else {
        return Ok(tree);
    };
    for item in At::under(&node, "include", project).list()? {
        let included = load(loader, &item, project)?;
        add(&mut tree, included, &item)?;
    }
    Ok(tree)
}

/// One entry of `include`.
struct Entry {
    files: Vec<PathBuf>,
    directory: PathBuf,
    /// `None`: the file `.env`, if it is there.
    env_files: Option<Vec<PathBuf>>,
}

fn entry(at: &At<'_>) -> Read<Entry> {
    let here = &at.context.directory;
    let (paths, directory, env_files) = if at.is_map() {
        let mut object = at.object()?;
        let paths = object.required("path", At::one_or_more)?;
        let directory = object.read("project_directory", At::text)?;
        let env_files = object.read("env_file", At::one_or_more)?;
        object.finish()?;
        (paths, directory, env_files)
    } else {
        (vec![at.text()?], None, None)
    };
    let files = paths.iter().map(|path| local(at, here, path));
    let files = files.collect::<Read<Vec<_>>>()?;
    let first = files.first().ok_or_else(|| at.wrong("path names no file"))?;
    let directory = directory.map_or_else(|| folder(first).to_path_buf(), |text| beside(here, &text));
    let env_files = env_files.map(|files| files.iter().map(|file| beside(here, file)).collect());
    Ok(Entry {
        files,
        directory,
        env_files,
    })
}

/// The entry's model, with nothing left in it that depends on its folder or its variables.
fn load(loader: &mut Loader, at: &At<'_>, project: &Context) -> Read<Node> {
    let entry = entry(at)?;
    let own = variables(at, &entry, &project.variables)?;
    let mut all = own.clone();
    all.extend(project.variables.clone());
    let inner = Context::new(entry.directory, all);
    let mut tree = loader.included(at, &entry.files, &inner)?;
    check(&At::root(&tree, &inner))?;
    if inner.directory != project.directory {
        transplant::paths(&mut tree, &inner.directory);
    }
    transplant::variables(&mut tree, &own);
    loader.warnings.extend(inner.into_warnings());
    Ok(tree)
}

/// What the entry's files set and the including model does not.
fn variables(at: &At<'_>, entry: &Entry, outer: &Variables) -> Read<Variables> {
    let standard = vec![beside(&entry.directory, ".env")];
    let files = entry.env_files.as_ref().unwrap_or(&standard);
    let mut own = Variables::new();
    for file in files {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && entry.env_files.is_none() => {
                continue;
            }
            Err(error) => {
                return Err(at.wrong(format!("cannot read env file {}: {error}", file.display())));
            }
        };
        let pairs = env_file::parse(&text, outer);
        own.extend(pairs.map_err(|problem| at.wrong(format!("env file {}: {problem}", file.display())))?);
    }
    own.retain(|name, _| !outer.contains_key(name));
    Ok(own)
}

/// Only keys that can be included, or that mean nothing for an included file.
fn check(at: &At<'_>) -> Read<()> {
    if !at.is_map() {
        return Err(at.wrong("a compose file is a mapping with the key services"));
    }
    let mut object = at.object()?;
    for key in ["name", "version"]
        .into_iter()
        .chain(SECTIONS.map(|(key, _)| key))
    {
        if let Some(section) = object.take(key).filter(|_| key != "name" && key != "version") {
            section.map()?;
        }
    }
    if let Some(at) = object.take("x-prepare") {
        at.warn("not acted on in an included file");
    }
    object.ignore(&["models"]);
    object.finish()
}

/// Adds the sections of the included tree to those of the tree.
fn add(tree: &mut Node, mut included: Node, at: &At<'_>) -> Read<()> {
    for (section, what) in SECTIONS {
        let Some(from) = included.remove(section).filter(|node| !node.is_null()) else {
            continue;
        };
        let Some(to) = tree.get_mut(section).filter(|node| !node.is_null()) else {
            tree.remove(section);
            tree.push(section, from);
            continue;
        };
        let Value::Map(from) = from.value else { continue };
        for (key, node) in from {
            match to.get(&key) {
                None => to.push(&key, node),
                // Two files that include the same third one say the same thing.
                Some(known) if known.same(&node) => {}
                Some(known) => return Err(conflict(at, what, &key, [&node, known])),
            }
        }
    }
    Ok(())
}

fn conflict(at: &At<'_>, what: &str, key: &str, [included, known]: [&Node; 2]) -> ComposeError {
    at.wrong(format!(
        "the {what} {key:?} of {} is another one than that of {}: rename one, or name a file with the changes in path",
        included.place, known.place
    ))
}
