//! The mounts of a container: `-v`, `--mount`, `--tmpfs` and the image's VOLUMEs become one list, sorted so that a parent
//! comes before its child. Pure; volumes are made by [`super::create`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::{EngineError, Result};
use crate::api::types::config::ContainerConfig;
use crate::api::types::host_config::{BindOptions, HostConfig, Mount, VolumeOptions};
use crate::api::types::inspect::MountPoint;

/// Mounts over these would let an image or volume fake what the runtime relies on (CVE-2019-19921 and its kin).
const FORBIDDEN: [&str; 2] = ["/proc", "/sys"];

/// A mount as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPlan {
    /// Absolute and clean: no `.`, `..`, doubled or trailing slash.
    pub destination: String,
    pub read_only: bool,
    pub source: PlanSource,
    /// The options as written, for `inspect`.
    pub mode: String,
}

/// Where a mount's content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanSource {
    /// A path of the host. `create`: make a directory if it is absent (`-v` does, `--mount` does not).
    Bind {
        path: String,
        create: bool,
        propagation: String,
        recursive: bool,
    },
    /// A volume; without a name, an anonymous one.
    Volume {
        name: Option<String>,
        driver: String,
        options: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
        copy: bool,
    },
    /// Memory; options of mount(8) and tmpfs(5).
    Tmpfs { options: Vec<String> },
}

/// A mount as it is, in the container's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedMount {
    pub destination: String,
    pub read_only: bool,
    pub source: MountSource,
    pub mode: String,
}

/// Where a resolved mount's content is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountSource {
    /// A path of the host.
    Bind {
        path: String,
        propagation: String,
        recursive: bool,
    },
    /// A volume and its directory.
    Volume {
        name: String,
        driver: String,
        path: String,
        anonymous: bool,
    },
    /// Memory.
    Tmpfs { options: Vec<String> },
}

impl ResolvedMount {
    /// The volume it mounts, if it is one.
    pub fn volume(&self) -> Option<&str> {
        match &self.source {
            MountSource::Volume { name, .. } => Some(name),
            _ => None,
        }
    }

    /// As `inspect` shows it.
    pub fn describe(&self) -> MountPoint {
        let mut point = MountPoint {
            destination: self.destination.clone(),
            rw: !self.read_only,
            mode: self.mode.clone(),
            ..Default::default()
        };
        match &self.source {
            MountSource::Bind {
                path, propagation, ..
            } => {
                point.kind = "bind".into();
                point.source.clone_from(path);
                point.propagation.clone_from(propagation);
            }
            MountSource::Volume {
                name, driver, path, ..
            } => {
                point.kind = "volume".into();
                point.name.clone_from(name);
                point.driver.clone_from(driver);
                point.source.clone_from(path);
            }
            MountSource::Tmpfs { .. } => point.kind = "tmpfs".into(),
        }
        point
    }
}

/// All mounts of a container, parents first.
///
/// # Errors
/// A malformed mount, an option that is not built, or two mounts at one place; each named.
pub fn plan(config: &ContainerConfig, host: &HostConfig) -> Result<Vec<MountPlan>> {
    let mut plans = Vec::new();
    for bind in &host.binds {
        plans.push(from_bind(bind, &host.volume_driver)?);
    }
    for mount in &host.mounts {
        plans.push(from_mount(mount)?);
    }
    for (target, options) in &host.tmpfs {
        let options = options
            .split(',')
            .filter(|o| !o.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>();
        plans.push(tmpfs(target, options)?);
    }
    refuse_duplicates(&plans)?;
    for target in config.volumes.keys() {
        let destination = clean(target)?;
        if !plans.iter().any(|plan| plan.destination == destination) {
            plans.push(MountPlan {
                destination,
                read_only: false,
                source: volume(None, &host.volume_driver, true),
                mode: String::new(),
            });
        }
    }
    plans.sort_by_key(|plan| plan.destination.matches('/').count());
    Ok(plans)
}

fn refuse_duplicates(plans: &[MountPlan]) -> Result<()> {
    for (index, plan) in plans.iter().enumerate() {
        if plans[..index]
            .iter()
            .any(|other| other.destination == plan.destination)
        {
            return Err(EngineError::Invalid(format!(
                "Duplicate mount point: {}",
                plan.destination
            )));
        }
    }
    Ok(())
}

/// `[source:]destination[:options]`
fn from_bind(bind: &str, driver: &str) -> Result<MountPlan> {
    let invalid = |why: &str| EngineError::Invalid(format!("invalid volume specification: '{bind}': {why}"));
    let parts: Vec<&str> = bind.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, mode] => (Some(source), target, mode),
        _ => return Err(invalid("expected source:destination[:options]")),
    };
    let words = BindWords::parse(mode).map_err(|why| invalid(&why))?;
    let destination = clean(target)?;
    let source = match source {
        Some("") => return Err(invalid("empty source")),
        Some(path) if path.starts_with('/') => PlanSource::Bind {
            path: clean_host(path)?,
            create: true,
            propagation: words.propagation.unwrap_or("rprivate").to_owned(),
            recursive: true,
        },
        Some(name) if words.propagation.is_none() => volume(Some(name.to_owned()), driver, words.copy),
        Some(_) => return Err(invalid("propagation is for bind mounts only")),
        None => volume(None, driver, words.copy),
    };
    Ok(MountPlan {
        destination,
        read_only: words.read_only,
        source,
        mode: mode.to_owned(),
    })
}

struct BindWords<'a> {
    read_only: bool,
    copy: bool,
    propagation: Option<&'a str>,
}

impl<'a> BindWords<'a> {
    fn parse(mode: &'a str) -> Result<Self, String> {
        let mut words = Self {
            read_only: false,
            copy: true,
            propagation: None,
        };
        for word in mode.split(',').filter(|w| !w.is_empty()) {
            match word {
                "rw" => words.read_only = false,
                "ro" => words.read_only = true,
                "nocopy" => words.copy = false,
                "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                    words.propagation = Some(word)
                }
                // SELinux labels and file sharing consistency mean nothing on a Linux host without SELinux, as in Docker.
                "z" | "Z" | "consistent" | "cached" | "delegated" | "default" => {}
                other => return Err(format!("unknown option {other:?}")),
            }
        }
        Ok(words)
    }
}

fn volume(name: Option<String>, driver: &str, copy: bool) -> PlanSource {
    PlanSource::Volume {
        name,
        driver: driver.to_owned(),
        options: BTreeMap::new(),
        labels: BTreeMap::new(),
        copy,
    }
}

fn from_mount(mount: &Mount) -> Result<MountPlan> {
    refuse_foreign_options(mount)?;
    let source = match mount.kind.as_str() {
        "bind" => bind_source(mount)?,
        "volume" => volume_source(mount)?,
        "tmpfs" => return tmpfs_mount(mount),
        other => {
            return Err(EngineError::Unsupported(format!(
                "mount {}: type {other:?} is not built; use bind, volume or tmpfs",
                mount.target
            )));
        }
    };
    Ok(MountPlan {
        destination: clean(&mount.target)?,
        read_only: mount.read_only,
        source,
        mode: String::new(),
    })
}

/// Options of another type than the mount's would be read by nobody.
fn refuse_foreign_options(mount: &Mount) -> Result<()> {
    let given = [
        ("bind", "BindOptions", mount.bind_options.is_some()),
        ("volume", "VolumeOptions", mount.volume_options.is_some()),
        ("tmpfs", "TmpfsOptions", mount.tmpfs_options.is_some()),
        ("image", "ImageOptions", mount.image_options.is_some()),
        ("cluster", "ClusterOptions", mount.cluster_options.is_some()),
    ];
    match given
        .iter()
        .find(|(kind, _, given)| *given && *kind != mount.kind)
    {
        Some((_, field, _)) => Err(EngineError::Invalid(format!(
            "invalid mount config for type {:?}: field {field} must not be specified",
            mount.kind
        ))),
        None => Ok(()),
    }
}

fn bind_source(mount: &Mount) -> Result<PlanSource> {
    if !mount.source.starts_with('/') {
        return Err(EngineError::Invalid(format!(
            "invalid mount config for type \"bind\": invalid mount path: '{}' mount path must be absolute",
            mount.source
        )));
    }
    let options = mount.bind_options.clone().unwrap_or_default();
    let BindOptions {
        propagation,
        non_recursive,
        create_mountpoint,
        read_only_force_recursive,
        read_only_non_recursive,
    } = options;
    if read_only_force_recursive || read_only_non_recursive {
        return Err(EngineError::Unsupported(format!(
            "mount {}: recursive read-only options are not built yet",
            mount.target
        )));
    }
    let known = ["", "private", "rprivate", "shared", "rshared", "slave", "rslave"];
    if !known.contains(&propagation.as_str()) {
        return Err(EngineError::Invalid(format!(
            "mount {}: invalid propagation mode: {propagation}",
            mount.target
        )));
    }
    Ok(PlanSource::Bind {
        path: clean_host(&mount.source)?,
        create: create_mountpoint,
        propagation: if propagation.is_empty() {
            "rprivate".into()
        } else {
            propagation
        },
        recursive: !non_recursive,
    })
}

fn volume_source(mount: &Mount) -> Result<PlanSource> {
    let VolumeOptions {
        no_copy,
        labels,
        subpath,
        driver_config,
    } = mount.volume_options.clone().unwrap_or_default();
    if !subpath.is_empty() {
        return Err(EngineError::Unsupported(format!(
            "mount {}: volume subpath is not built yet",
            mount.target
        )));
    }
    let driver = driver_config.unwrap_or_default();
    Ok(PlanSource::Volume {
        name: (!mount.source.is_empty()).then(|| mount.source.clone()),
        driver: driver.name,
        options: driver.options,
        labels,
        copy: !no_copy,
    })
}

fn tmpfs_mount(mount: &Mount) -> Result<MountPlan> {
    if !mount.source.is_empty() {
        return Err(EngineError::Invalid(
            "invalid mount config for type \"tmpfs\": field Source must not be specified".into(),
        ));
    }
    let given = mount.tmpfs_options.clone().unwrap_or_default();
    let mut options: Vec<String> = given.options.iter().map(|pair| pair.join("=")).collect();
    if given.size_bytes != 0 {
        options.push(format!("size={}", given.size_bytes));
    }
    if given.mode != 0 {
        options.push(format!("mode={:o}", given.mode));
    }
    if mount.read_only {
        options.push("ro".into());
    }
    tmpfs(&mount.target, options)
}

/// Docker's defaults first, so that what the user says wins.
fn tmpfs(target: &str, given: Vec<String>) -> Result<MountPlan> {
    let read_only = given.iter().any(|o| o == "ro");
    let mode = given.join(",");
    let mut options: Vec<String> = ["noexec", "nosuid", "nodev"]
        .iter()
        .filter(|default| !given.iter().any(|o| *o == default[2..]))
        .map(|o| (*o).to_owned())
        .collect();
    options.extend(
        given
            .into_iter()
            .filter(|o| !options.contains(o))
            .collect::<Vec<_>>(),
    );
    Ok(MountPlan {
        destination: clean(target)?,
        read_only,
        source: PlanSource::Tmpfs { options },
        mode,
    })
}

/// A destination as a clean absolute path of the container.
fn clean(target: &str) -> Result<String> {
    let invalid = |why: &str| EngineError::Invalid(format!("invalid mount path: '{target}' {why}"));
    let path = clean_path(target).ok_or_else(|| invalid("mount path must be absolute"))?;
    if path == "/" {
        return Err(EngineError::Invalid(
            "invalid specification: destination can't be '/'".into(),
        ));
    }
    if FORBIDDEN.iter().any(|top| path == *top) {
        return Err(invalid("may not be covered"));
    }
    Ok(path)
}

fn clean_host(source: &str) -> Result<String> {
    clean_path(source).ok_or_else(|| EngineError::Invalid(format!("invalid bind source: '{source}'")))
}

/// Lexical cleaning as Go's `filepath.Clean`; `None` unless absolute and free of NUL.
pub(crate) fn clean_path(path: &str) -> Option<String> {
    if !path.starts_with('/') || path.contains('\0') {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Some(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests;
