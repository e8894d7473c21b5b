//! config.json: loading it, and refusing what this runtime does not do.
//!
//! Input: the bundle directory. Output: a [`Spec`] of which every field is either acted on or known to be unset.

mod sysctl;
mod unsupported;

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Process, Spec};

pub(crate) use sysctl::{Sysctl, sysctls};

/// Why a bundle is no container that can be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// config.json cannot be opened.
    #[error("open {path:?}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// config.json is not what the runtime specification describes.
    #[error("parse {path:?}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A field is set that this runtime does not act on.
    #[error("config.json: {0} is not implemented")]
    Unsupported(String),
    /// A field that the specification requires is missing.
    #[error("config.json: {0} is required")]
    Missing(&'static str),
    /// A field has a value that cannot be.
    #[error("config.json: {field}: {reason}")]
    Invalid {
        /// The field's path.
        field: String,
        /// What is wrong with its value.
        reason: String,
    },
}

impl Error {
    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

/// Reads and checks `<bundle>/config.json`.
pub(crate) fn load(bundle: &Path) -> Result<Spec, Error> {
    let path = bundle.join("config.json");
    let spec = parse(&path)?;
    check(&spec)?;
    Ok(spec)
}

/// Reads a process as `exec --process` takes it, and checks it.
pub(crate) fn load_process(path: &Path) -> Result<Process, Error> {
    let process = parse(path)?;
    check_process(&process)?;
    Ok(process)
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let file = File::open(path).map_err(|source| Error::Open {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_reader(BufReader::new(file)).map_err(|source| Error::Parse {
        path: path.to_owned(),
        source,
    })
}

/// Refuses what is missing, contradictory or not implemented.
fn check(spec: &Spec) -> Result<(), Error> {
    unsupported::refuse(spec)?;
    check_process(spec.process().as_ref().ok_or(Error::Missing("process"))?)?;
    let namespaces = namespaces(spec);
    for (index, namespace) in namespaces.iter().enumerate() {
        let again = namespaces[..index]
            .iter()
            .any(|other| other.typ() == namespace.typ());
        if again {
            return Err(Error::invalid(
                "linux.namespaces",
                format!("{} is listed twice", namespace.typ()),
            ));
        }
    }
    if !has_new(spec, LinuxNamespaceType::Mount) {
        return Err(Error::Unsupported(
            "linux.namespaces without a new mount namespace".to_owned(),
        ));
    }
    let separate_uts = has(spec, LinuxNamespaceType::Uts);
    for (field, value) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        if value.as_ref().is_some_and(|text| !text.is_empty()) && !separate_uts {
            return Err(Error::invalid(field, "needs a uts namespace"));
        }
    }
    Ok(())
}

/// Checks a process by itself.
pub(crate) fn check_process(process: &Process) -> Result<(), Error> {
    unsupported::refuse_process(process)?;
    if !process.cwd().is_absolute() {
        return Err(Error::invalid("process.cwd", "must be an absolute path"));
    }
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::Missing("process.args"));
    }
    Ok(())
}

/// The namespaces that the configuration lists.
pub(crate) fn namespaces(spec: &Spec) -> &[LinuxNamespace] {
    spec.linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_deref())
        .unwrap_or_default()
}

/// Whether the container has a namespace of this type apart from the caller's, new or joined.
pub(crate) fn has(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    namespaces(spec).iter().any(|namespace| namespace.typ() == kind)
}

/// Whether the container gets a new namespace of this type.
pub(crate) fn has_new(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    namespaces(spec)
        .iter()
        .any(|namespace| namespace.typ() == kind && namespace.path().is_none())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A small valid configuration with `change` merged over its top level.
    pub(crate) fn spec_with(change: Value) -> Result<Spec, Error> {
        let mut base = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {"cwd": "/", "args": ["/bin/true"], "user": {"uid": 0, "gid": 0}},
            "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
        });
        merge(&mut base, change);
        let spec: Spec = serde_json::from_value(base).unwrap();
        check(&spec).map(|()| spec)
    }

    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }

    fn refusal(change: Value) -> String {
        spec_with(change).unwrap_err().to_string()
    }

    #[test]
    fn the_small_configuration_is_accepted() {
        assert!(spec_with(json!({})).is_ok());
    }

    #[test]
    fn every_field_that_is_not_built_is_refused_by_name() {
        for (change, name) in [
            (json!({"hooks": {"prestart": [{"path": "/x"}]}}), "hooks.prestart"),
            (json!({"linux": {"intelRdt": {"closID": "x"}}}), "linux.intelRdt"),
            (json!({"linux": {"mountLabel": "x"}}), "linux.mountLabel"),
            (
                json!({"process": {"apparmorProfile": "x"}}),
                "process.apparmorProfile",
            ),
            (
                json!({"process": {"scheduler": {"policy": "SCHED_OTHER"}}}),
                "process.scheduler",
            ),
            (
                json!({"linux": {"resources": {"rdma": {"mlx": {"hcaHandles": 1}}}}}),
                "linux.resources.rdma",
            ),
            (
                json!({"mounts": [{"destination": "/x", "uidMappings": [{"hostID": 0, "containerID": 0, "size": 1}]}]}),
                "mounts[0].uidMappings",
            ),
        ] {
            let text = refusal(change);
            assert!(text.contains(name), "{text} does not name {name}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(refusal(json!({"hostname": "a"})).contains("uts namespace"));
        assert!(
            refusal(json!({"linux": {"namespaces": [{"type": "mount"}, {"type": "mount"}]}}))
                .contains("twice")
        );
        assert!(refusal(json!({"linux": {"namespaces": [{"type": "pid"}]}})).contains("mount namespace"));
        assert!(refusal(json!({"process": {"cwd": "x"}})).contains("process.cwd"));
        assert!(refusal(json!({"process": {"args": []}})).contains("process.args"));
    }
}
