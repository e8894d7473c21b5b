//! `shim.json`: what the agent tells a shim beside the OCI configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::container::{OverlayMount, Rootfs};

/// The whole file; unknown keys are errors.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Config {
    /// The container's id, the same as on the command line.
    pub(super) id: String,
    /// Absent: `root.path` of config.json.
    rootfs: Option<RootfsConfig>,
    /// The same as `process.terminal` of config.json.
    #[serde(default)]
    pub(super) terminal: bool,
    /// Rows and columns.
    pub(super) console_size: Option<(u16, u16)>,
    /// Whether the container's stdin is a pipe (or the terminal) rather than /dev/null.
    #[serde(default)]
    pub(super) open_stdin: bool,
    /// Whether the first client that ends its input ends the container's.
    #[serde(default)]
    pub(super) stdin_once: bool,
    pub(super) log: LogConfig,
    /// Absent: the container may run for ever.
    pub(super) lease: Option<LeaseConfig>,
}

/// Until when the container may run, and how it ends then. Times are nanoseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LeaseConfig {
    /// A moment of `CLOCK_BOOTTIME`, which goes on while the machine is suspended.
    pub(super) until: u64,
    /// What the container gets then.
    pub(super) signal: i32,
    /// Between that and SIGKILL.
    pub(super) grace: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
enum RootfsConfig {
    Overlay(OverlayMount),
}

/// Where the container's output is kept.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LogConfig {
    pub(super) driver: LogDriver,
    /// Needed by `json-file`; absolute.
    pub(super) path: Option<PathBuf>,
    /// Bytes after which a file is rotated away; absent: never.
    pub(super) max_size: Option<u64>,
    /// Number of files including the current one, at least 1 (default 1).
    pub(super) max_file: Option<u32>,
    /// Becomes the attribute `tag`.
    pub(super) tag: Option<String>,
    /// Written into every line as `attrs`.
    #[serde(default)]
    pub(super) attrs: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum LogDriver {
    JsonFile,
    None,
}

/// Why shim.json is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    #[error("read {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    #[error("parse {}", .0.display())]
    Parse(PathBuf, #[source] serde_json::Error),
    #[error("shim.json is for container {found:?}, not {wanted:?}")]
    OtherContainer { found: String, wanted: String },
}

impl Config {
    /// Reads `<bundle>/shim.json` of container `id`.
    pub(super) fn load(bundle: &Path, id: &str) -> Result<Self, ConfigError> {
        let path = bundle.join("shim.json");
        let text = std::fs::read(&path).map_err(|error| ConfigError::Read(path.clone(), error))?;
        let config: Self = serde_json::from_slice(&text).map_err(|error| ConfigError::Parse(path, error))?;
        if config.id != id {
            return Err(ConfigError::OtherContainer {
                found: config.id,
                wanted: id.to_owned(),
            });
        }
        Ok(config)
    }

    /// The root filesystem in the words of [`crate::container::create`].
    pub(super) fn rootfs(&self) -> Rootfs {
        match &self.rootfs {
            Some(RootfsConfig::Overlay(overlay)) => Rootfs::Overlay(overlay.clone()),
            None => Rootfs::Bundle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agreed_form_is_read() {
        let config: Config = serde_json::from_value(serde_json::json!({
            "id": "c1", "rootfs": {"overlay": {"lower": ["/l"], "upper": "/u", "work": "/w", "options": ["volatile"]}},
            "terminal": true, "consoleSize": [24, 80], "openStdin": true, "stdinOnce": true,
            "log": {"driver": "json-file", "path": "/x.log", "maxSize": 10, "maxFile": 3, "attrs": {"a": "b"}}}))
        .unwrap();
        assert_eq!(config.console_size, Some((24, 80)));
        assert_eq!(config.log.driver, LogDriver::JsonFile);
        assert!(matches!(config.rootfs(), Rootfs::Overlay(overlay) if overlay.options == ["volatile"]));
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        let error =
            serde_json::from_value::<Config>(serde_json::json!({"id": "c", "log": {"driver": "syslog"}}));
        assert!(error.unwrap_err().to_string().contains("syslog"));
        let error = serde_json::from_value::<Config>(
            serde_json::json!({"id": "c", "log": {"driver": "none"}, "stdinTwice": true}),
        );
        assert!(error.unwrap_err().to_string().contains("stdinTwice"));
    }
}
