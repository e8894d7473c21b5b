//! Compose files: from YAML to the specs that the API takes.
//!
//! ```text
//! text ─[yaml]→ nodes with positions ─[interpolate]→ nodes ─[extends]→ nodes ─[merge]→ one tree ─[include]→ one tree
//!      ─[service, mounts, process, deploy, resource]→ Stack (typed) ─[plan]→ NetworkSpec, SecretSpec, ConfigSpec, ServiceSpec
//! ```
//! The current Compose Specification, as far as a stack can use it. A key that is not acted on is named in a warning;
//! an unknown key or a wrong type is an error with file, line and the key's path. Nothing here talks to a daemon.

mod attachments;
mod deploy;
mod env_file;
mod error;
mod extends;
mod files;
mod include;
mod interpolate;
mod merge;
mod mounts;
mod node;
mod placement;
mod plan;
mod process;
mod reader;
mod resource;
mod service;
mod short;
mod transplant;
mod units;
mod upkeep;
mod write;
mod yaml;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proto::spec::{ConfigSpec, NetworkSpec, SecretSpec, ServiceSpec};

pub(crate) use error::ComposeError;
pub(crate) use plan::{NAMESPACE, plan};
pub(crate) use service::Condition;

/// Variables that files may use: usually the environment of the process.
pub(crate) type Variables = BTreeMap<String, String>;

/// What the files say, typed, not yet bound to a stack's name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stack {
    /// The file's own word for the stack's name.
    pub(crate) name: Option<String>,
    /// Services that are not switched off by a profile.
    pub(crate) services: Vec<service::Service>,
    /// Networks by key.
    pub(crate) networks: BTreeMap<String, resource::Network>,
    /// Volumes by key.
    pub(crate) volumes: BTreeMap<String, resource::Volume>,
    /// Secrets by key.
    pub(crate) secrets: BTreeMap<String, resource::Content>,
    /// Configs by key.
    pub(crate) configs: BTreeMap<String, resource::Content>,
    /// `x-prepare`: the program that makes what images are built from, with its arguments.
    pub(crate) prepare: Vec<String>,
    /// The folder of the first file; relative paths start here.
    pub(crate) directory: PathBuf,
}

/// What there is to do for a stack of a given name.
#[derive(Debug, Clone, Default)]
pub(crate) struct StackPlan {
    /// Networks to make if they are missing.
    pub(crate) networks: Vec<NetworkSpec>,
    /// Networks that must be there already.
    pub(crate) external_networks: Vec<String>,
    /// Secrets to make if they are missing.
    pub(crate) secrets: Vec<SecretSpec>,
    /// Secrets that must be there already.
    pub(crate) external_secrets: Vec<String>,
    /// Configs to make if they are missing.
    pub(crate) configs: Vec<ConfigSpec>,
    /// Configs that must be there already.
    pub(crate) external_configs: Vec<String>,
    /// Services, those that others depend on first. References to secrets and configs have names and no identifiers.
    pub(crate) services: Vec<ServiceSpec>,
}

/// What was loaded, and what a user should know about it.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    /// What the files say.
    pub(crate) stack: Stack,
    /// Keys that are not acted on, variables that are not set: a line each.
    pub(crate) warnings: Vec<String>,
    /// The files as one, after merges and interpolation.
    tree: yaml::Node,
}

impl Loaded {
    /// The files as one, as YAML.
    pub(crate) fn to_yaml(&self) -> String {
        write::write(&self.tree)
    }
}

/// Loads files, later ones over earlier ones.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub(crate) fn load(files: &[PathBuf], variables: &Variables) -> Result<Loaded, ComposeError> {
    let texts = files
        .iter()
        .map(|file| read(file))
        .collect::<Result<Vec<_>, _>>()?;
    let sources: Vec<_> = files
        .iter()
        .zip(&texts)
        .map(|(file, text)| (file.as_path(), text.as_str()))
        .collect();
    load_texts(&sources, variables)
}

/// As [`load`], of texts that have been read; paths in them are relative to the first file's folder.
pub(crate) fn load_texts(sources: &[(&Path, &str)], variables: &Variables) -> Result<Loaded, ComposeError> {
    let (first, _) = sources.first().ok_or(ComposeError::NoFile)?;
    let context = reader::Context::new(folder(first).to_path_buf(), variables.clone());
    let mut loader = files::Loader::default();
    let tree = loader.tree(sources, &context)?;
    let stack = resource::stack(&reader::At::root(&tree, &context))?;
    let mut warnings = loader.warnings;
    warnings.extend(context.into_warnings());
    Ok(Loaded {
        stack,
        warnings,
        tree,
    })
}

/// The folder that a file lies in.
fn folder(file: &Path) -> &Path {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

fn read(file: &Path) -> Result<String, ComposeError> {
    let read = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    read.map_err(|source| ComposeError::Read {
        file: file.to_path_buf(),
        source,
    })
}

/// Nanoseconds of a duration such as `1m30s`.
pub(crate) fn duration(text: &str) -> Result<i64, String> {
    units::duration(text)
}

/// Bytes of a size such as `64m`.
pub(crate) fn bytes(text: &str) -> Result<i64, String> {
    units::bytes(text)
}

/// Billionths of a processor of a number such as `0.5`.
pub(crate) fn nano_cpus(text: &str) -> Result<i64, String> {
    units::nano_cpus(text)
}

/// A path of the host, relative ones starting in the folder.
pub(crate) fn host_path(source: &str, directory: &Path) -> Result<String, String> {
    short::host_path(source, directory)
}

/// The pairs of a file of `NAME=value` lines; a name alone takes its value from the environment.
pub(crate) fn env_file(text: &str) -> Result<Vec<(String, String)>, String> {
    env_file::parse(text, &std::env::vars().collect())
}

/// Ports of the short form `8080:80/tcp`.
pub(crate) fn ports(text: &str) -> Result<Vec<proto::spec::PortConfig>, String> {
    short::ports(text)
}

/// Words of a line, split as a shell splits it.
pub(crate) fn split_words(line: &str) -> Result<Vec<String>, String> {
    short::split_words(line)
}
