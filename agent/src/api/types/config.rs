//! `Config` of a container or image: what runs, independent of the machine it runs on.

use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// The empty object Docker uses as a set's value: `{"80/tcp": {}}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// Docker's `container.Config`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerConfig {
    pub hostname: String,
    pub domainname: String,
    pub user: String,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    pub tty: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
    pub env: Vec<String>,
    #[serde(deserialize_with = "string_or_list")]
    pub cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    pub image: String,
    pub volumes: BTreeMap<String, Empty>,
    pub working_dir: String,
    #[serde(deserialize_with = "string_or_list")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub network_disabled: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac_address: String,
    pub on_build: Option<Vec<String>>,
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Seconds; negative waits for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "string_or_list")]
    pub shell: Option<Vec<String>>,
}

/// Docker's `HealthcheckConfig`; durations in nanoseconds, 0 means inherit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HealthConfig {
    /// Empty: inherit. `["NONE"]`: off. `["CMD", …]`: exec form. `["CMD-SHELL", line]`: by the container's shell.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    #[serde(skip_serializing_if = "zero")]
    pub interval: i64,
    #[serde(skip_serializing_if = "zero")]
    pub timeout: i64,
    #[serde(skip_serializing_if = "zero")]
    pub start_period: i64,
    #[serde(skip_serializing_if = "zero")]
    pub start_interval: i64,
    #[serde(skip_serializing_if = "zero")]
    pub retries: i64,
}

fn zero(value: &i64) -> bool {
    *value == 0
}

/// A list of words, or one string that stands for a list of one (Docker's `strslice`).
pub(crate) fn string_or_list<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::<Words>::deserialize(input)?.map(|words| match words {
        Words::One(word) => vec![word],
        Words::Many(words) => words,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::lenient;

    #[test]
    fn command_as_string_or_list_or_null() {
        let config: ContainerConfig = lenient::from_slice(br#"{"cmd":"ls","Entrypoint":["a","b"]}"#).unwrap();
        assert_eq!(config.cmd, Some(vec!["ls".into()]));
        assert_eq!(config.entrypoint, Some(vec!["a".into(), "b".into()]));
        let config: ContainerConfig = lenient::from_slice(br#"{"Cmd":null}"#).unwrap();
        assert_eq!(config.cmd, None);
    }
}
