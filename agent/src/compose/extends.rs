//! `extends`: a service on top of another, of the same file or of another one (Compose Specification, section extends).
//!
//! In: a file's tree, interpolated. Out: the same tree, no service of which extends anything. What the service below
//! names – volumes, networks, services it depends on – is not brought along: the author declares it, or reading fails.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::error::ComposeError;
use super::files::{identity, local};
use super::interpolate::interpolate;
use super::merge::merge;
use super::reader::{At, Context};
use super::transplant;
use super::yaml::{MOST_NODES, Node, Value, parse, size};

type Read<T> = Result<T, ComposeError>;

/// How many services may lie under one.
const MOST_STEPS: usize = 64;

/// Puts every service of the file on top of what it extends.
///
/// # Errors
/// A file or service that is not there, a circle, and whatever is wrong with the files.
pub(super) fn extend(
    file: &Path,
    mut tree: Node,
    project: &Context,
    warnings: &mut Vec<String>,
) -> Read<Node> {
    let extends = |(_, node): &(String, Node)| node.get("extends").is_some();
    if !tree
        .get("services")
        .is_some_and(|node| node.entries().iter().any(extends))
    {
        return Ok(tree);
    }
    let home = Rc::new(Home {
        shown: file.to_path_buf(),
        file: identity(file),
        directory: project.directory.clone(),
        tree: tree.clone(),
        interpolated: true,
    });
    let mut resolver = Resolver {
        project,
        warnings,
        homes: vec![Rc::clone(&home)],
        chain: Vec::new(),
        nodes: 0,
    };
    if let Some(Value::Map(services)) = tree.get_mut("services").map(|node| &mut node.value) {
        for (key, node) in services {
            *node = resolver.resolve(&home, key, node.clone())?;
        }
    }
    Ok(tree)
}

/// A file that services are taken from.
struct Home {
    /// As messages name it.
    shown: PathBuf,
    file: PathBuf,
    /// Where its relative paths start.
    directory: PathBuf,
    tree: Node,
    interpolated: bool,
}

impl Home {
    fn step(&self, key: &str) -> String {
        format!("{key} of {}", self.shown.display())
    }
}

struct Resolver<'p> {
    project: &'p Context,
    warnings: &'p mut Vec<String>,
    homes: Vec<Rc<Home>>,
    /// The services that are being put together, each on top of the next.
    chain: Vec<(PathBuf, String)>,
    /// How many nodes were copied: many services may extend one large one.
    nodes: usize,
}

impl Resolver<'_> {
    fn resolve(&mut self, home: &Rc<Home>, key: &str, mut node: Node) -> Read<Node> {
        let project = self.project;
        let Some(extends) = node.remove("extends").filter(|node| !node.is_null()) else {
            return Ok(node);
        };
        let at = At::under(&extends, &format!("services.{key}.extends"), project);
        let (below, file) = target(&at)?;
        let below_home = match &file {
            Some(file) => self.open(&at, &home.directory, file)?,
            None => Rc::clone(home),
        };
        self.chain.push((home.file.clone(), home.step(key)));
        self.refuse_circle(&at, &below_home, &below)?;
        let base = self.take(&at, &below_home, &below)?;
        let mut base = self.resolve(&below_home, &below, base)?;
        self.chain.pop();
        if below_home.directory != home.directory {
            transplant::paths_of_service(&mut base, &below_home.directory);
        }
        check_health(key, &base, &node, project)?;
        Ok(merge(base, node))
    }

    /// The file, read once.
    fn open(&mut self, at: &At<'_>, directory: &Path, text: &str) -> Read<Rc<Home>> {
        let shown = local(at, directory, text)?;
        let file = identity(&shown);
        if let Some(home) = self.homes.iter().find(|home| home.file == file) {
            return Ok(Rc::clone(home));
        }
        let text = std::fs::read_to_string(&shown)
            .map_err(|error| at.wrong(format!("cannot read {}: {error}", shown.display())))?;
        let home = Rc::new(Home {
            tree: parse(&shown, &text)?,
            directory: super::folder(&shown).to_path_buf(),
            file,
            shown,
            interpolated: false,
        });
        self.homes.push(Rc::clone(&home));
        Ok(home)
    }

    /// A service as its file has it. Variables of its neighbours in another file are none of our business.
    fn take(&mut self, at: &At<'_>, home: &Home, key: &str) -> Read<Node> {
        let found = home.tree.get("services").and_then(|services| services.get(key));
        let mut node = found.cloned().ok_or_else(|| {
            let file = home.shown.display();
            at.wrong(format!("the service {key:?} is not among the services of {file}"))
        })?;
        self.nodes += size(&node);
        if self.nodes > MOST_NODES {
            return Err(at.wrong("too much: what is extended adds up without end"));
        }
        if !home.interpolated {
            let path = format!("services.{key}");
            interpolate(&mut node, &path, &self.project.variables, self.warnings)?;
        }
        Ok(node)
    }

    fn refuse_circle(&self, at: &At<'_>, home: &Home, key: &str) -> Read<()> {
        let next = (home.file.clone(), home.step(key));
        if let Some(start) = self.chain.iter().position(|step| *step == next) {
            let mut steps: Vec<&str> = self.chain[start..].iter().map(|(_, step)| &**step).collect();
            steps.push(&next.1);
            return Err(at.wrong(format!("extends goes in a circle: {}", steps.join(" → "))));
        }
        if self.chain.len() > MOST_STEPS {
            return Err(at.wrong(format!("more than {MOST_STEPS} services extend one another")));
        }
        Ok(())
    }
}

/// Service and file of `extends: {service: x, file: y}`, or of `extends: x`.
fn target(at: &At<'_>) -> Read<(String, Option<String>)> {
    if !at.is_map() {
        return Ok((at.text()?, None));
    }
    let mut object = at.object()?;
    let target = (
        object.required("service", At::text)?,
        object.read("file", At::text)?,
    );
    object.finish()?;
    Ok(target)
}

/// The specification wants an error where a check that is there would be switched off by `disable`.
fn check_health(key: &str, base: &Node, over: &Node, project: &Context) -> Read<()> {
    let off = |node: &Node| {
        let disable = node.get("healthcheck").and_then(|check| check.get("disable"));
        disable.filter(|node| node.text() == Some("true")).cloned()
    };
    match off(over) {
        Some(node) if base.get("healthcheck").is_some() && off(base).is_none() => {
            let path = format!("services.{key}.healthcheck.disable");
            Err(At::under(&node, &path, project).wrong(
                "the extended service has a healthcheck, which disable cannot take away: write `test: [NONE]`",
            ))
        }
        _ => Ok(()),
    }
}
