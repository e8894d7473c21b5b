//! Checks of a spec alone, without a look at other objects. The rules are SwarmKit's, and so are the words where users
//! may know them.

mod service;
mod settings;

use proto::spec::{ClusterSpec, ConfigSpec, NetworkDriver, NetworkSpec, RaftConfig, SecretSpec};

use super::{ControlError, Result};

pub(super) use service::service;

/// A secret's content is smaller than this, in bytes.
const SECRET_LIMIT: usize = 500 * 1024;
/// A config's content is smaller than this, in bytes.
const CONFIG_LIMIT: usize = 1000 * 1024;

/// Names of secrets and configs: they become file names and parts of URLs.
fn material_name(kind: &str, name: &str) -> Result<()> {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let inner = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if name.len() <= 64 && inner && edge(name.bytes().next()) && edge(name.bytes().last()) {
        return Ok(());
    }
    Err(ControlError::invalid(format!(
        "invalid {kind} name {name:?}, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character \
         must be [a-zA-Z0-9]"
    )))
}

pub(super) fn secret(spec: &SecretSpec) -> Result<()> {
    material_name("secret", &spec.name)?;
    if spec.driver.is_some() {
        return Err(ControlError::invalid("secret drivers are not built yet"));
    }
    if spec.templating.is_some() {
        return Err(ControlError::invalid(
            "template drivers of secrets are not built yet",
        ));
    }
    content("secret", &spec.data, SECRET_LIMIT)
}

pub(super) fn config(spec: &ConfigSpec) -> Result<()> {
    material_name("config", &spec.name)?;
    if spec.templating.is_some() {
        return Err(ControlError::invalid(
            "template drivers of configs are not built yet",
        ));
    }
    content("config", &spec.data, CONFIG_LIMIT)
}

/// Content travels as base64 with padding.
fn content(kind: &str, base64: &str, limit: usize) -> Result<()> {
    let Some(size) = decoded_size(base64) else {
        return Err(ControlError::invalid(format!("{kind} data is not valid base64")));
    };
    if size == 0 || size >= limit {
        let limit = limit / 1024;
        return Err(ControlError::invalid(format!(
            "{kind} data must be larger than 0 and less than {limit} KiB"
        )));
    }
    Ok(())
}

/// Bytes that standard base64 (RFC 4648, section 4, padded) stands for; `None` if it is none.
fn decoded_size(text: &str) -> Option<usize> {
    let body = text.trim_end_matches('=');
    let padding = text.len() - body.len();
    let digits = body
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/');
    (digits && text.len().is_multiple_of(4) && padding <= 2).then(|| text.len() / 4 * 3 - padding)
}

/// Checks a network's spec; fills in the driver, and gives back options that mean the default.
pub(super) fn network(spec: &mut NetworkSpec) -> Result<()> {
    network_name(&spec.name)?;
    let driver = spec.driver_configuration.get_or_insert_default();
    if driver.name.is_empty() {
        "overlay".clone_into(&mut driver.name);
    }
    network_driver(&spec.name, driver)?;
    let ipam = spec.ipam_options.as_ref().and_then(|ipam| ipam.driver.as_ref());
    if let Some(driver) = ipam.filter(|driver| !["", "default"].contains(&driver.name.as_str())) {
        return Err(ControlError::invalid(format!(
            "network {}: unknown IPAM driver {:?}",
            spec.name, driver.name
        )));
    }
    if spec.ingress && (spec.attachable || spec.internal) {
        return Err(ControlError::invalid(
            "the ingress network can be neither attachable nor internal",
        ));
    }
    Ok(())
}

fn network_name(name: &str) -> Result<()> {
    let inner = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !inner
        || !name
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric())
        || name.len() > 128
    {
        return Err(ControlError::invalid(format!(
            "invalid network name {name:?}: at most 128 characters of [a-zA-Z0-9_.-], the first one [a-zA-Z0-9]"
        )));
    }
    if ["host", "bridge", "none"].contains(&name) {
        return Err(ControlError::invalid(format!(
            "the network name {name} is reserved"
        )));
    }
    Ok(())
}

fn network_driver(network: &str, driver: &NetworkDriver) -> Result<()> {
    if driver.name != "overlay" {
        let name = &driver.name;
        return Err(ControlError::invalid(format!(
            "network {network}: driver {name:?} is unknown; use overlay"
        )));
    }
    for (option, value) in &driver.options {
        match option.as_str() {
            // A word that is not understood is not taken for "no": see CVE-2023-28840.
            NetworkSpec::ENCRYPTED if !["", "true", "1", "false", "0"].contains(&value.as_str()) => {
                return Err(ControlError::invalid(format!(
                    "network {network}: driver option encrypted={value:?} is neither true nor false"
                )));
            }
            NetworkSpec::ENCRYPTED => {}
            NetworkSpec::MODE if !["auto", "vxlan"].contains(&value.as_str()) => {
                return Err(ControlError::invalid(format!(
                    "network {network}: driver option {option}={value:?} is neither auto nor vxlan"
                )));
            }
            NetworkSpec::MODE => {}
            "com.docker.network.driver.mtu" => {}
            other => {
                return Err(ControlError::invalid(format!(
                    "network {network}: unknown driver option {other:?}"
                )));
            }
        }
    }
    Ok(())
}

pub(super) fn cluster(spec: &ClusterSpec) -> Result<()> {
    if !["", "default"].contains(&spec.name.as_str()) {
        return Err(ControlError::invalid("swarm spec must be named \"default\""));
    }
    if spec
        .dispatcher
        .as_ref()
        .is_some_and(|dispatcher| dispatcher.heartbeat_period < 0)
    {
        return Err(ControlError::invalid(
            "heartbeat time period cannot be a negative duration",
        ));
    }
    raft(spec.raft.as_ref())?;
    if spec
        .orchestration
        .as_ref()
        .and_then(|orchestration| orchestration.task_history_retention_limit)
        .is_some_and(|limit| limit < 0)
    {
        return Err(ControlError::invalid("the task history limit cannot be negative"));
    }
    if let Some(ca_config) = &spec.ca_config {
        const HOUR: i64 = 3_600_000_000_000;
        if ca_config.node_cert_expiry != 0 && ca_config.node_cert_expiry < HOUR {
            return Err(ControlError::invalid("minimum certificate expiry time is 1h0m0s"));
        }
        if !ca_config.external_cas.is_empty() {
            return Err(ControlError::invalid(
                "external certificate authorities (--external-ca) are not supported: the managers sign the nodes' certificates \
                 themselves. To have them signed under a root of your own, bring it with its key: `swarm ca --rotate \
                 --ca-cert FILE --ca-key FILE`",
            ));
        }
    }
    Ok(())
}

/// When snapshots are made can be set; of the rest only what consensus does anyway may be asked for.
fn raft(raft: Option<&RaftConfig>) -> Result<()> {
    let Some(raft) = raft else { return Ok(()) };
    let asked = [
        (
            "log entries for slow followers",
            raft.log_entries_for_slow_followers,
            500,
        ),
        ("election tick", raft.election_tick.unsigned_abs(), 10),
        ("heartbeat tick", raft.heartbeat_tick.unsigned_abs(), 1),
    ];
    match asked
        .into_iter()
        .find(|&(_, value, fixed)| value != 0 && value != fixed)
    {
        None => Ok(()),
        Some((what, value, fixed)) => Err(ControlError::invalid(format!(
            "raft: the {what} cannot be set to {value} yet: it is {fixed}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_base64_are_those_of_the_content() {
        assert_eq!(decoded_size(""), Some(0));
        assert_eq!(decoded_size("Zg=="), Some(1));
        assert_eq!(decoded_size("Zm9v"), Some(3));
        assert_eq!(decoded_size("Zm9"), None);
        assert_eq!(decoded_size("Z==="), None);
        assert_eq!(decoded_size("Zm-v"), None);
    }

    #[test]
    fn names_that_could_be_paths_are_refused() {
        for bad in ["", ".", "..", "a/b", "-a", "a-", "a b", &"a".repeat(65)] {
            assert!(material_name("secret", bad).is_err(), "{bad:?}");
        }
        assert!(material_name("secret", "stack_key.pem").is_ok());
    }

    #[test]
    fn content_has_its_limits() {
        let spec = |data: String| SecretSpec {
            name: "s".into(),
            data: data.into(),
            ..SecretSpec::default()
        };
        assert!(secret(&spec(String::new())).is_err());
        assert!(secret(&spec("Zg==".into())).is_ok());
        assert!(secret(&spec("AAAA".repeat(500 * 1024 / 3 + 1))).is_err());
        let spec = ConfigSpec {
            name: "c".into(),
            data: "AAAA".repeat(500 * 1024 / 3 + 1),
            ..ConfigSpec::default()
        };
        assert!(config(&spec).is_ok());
    }

    #[test]
    fn whether_a_network_is_encrypted_is_never_guessed() {
        let mut spec = NetworkSpec {
            name: "n".into(),
            ..NetworkSpec::default()
        };
        assert!(network(&mut spec).is_ok());
        assert_eq!(spec.driver_configuration.as_ref().unwrap().name, "overlay");
        for (value, encrypted) in [
            ("", true),
            ("true", true),
            ("1", true),
            ("false", false),
            ("0", false),
        ] {
            let options = &mut spec.driver_configuration.as_mut().unwrap().options;
            options.insert("encrypted".into(), value.into());
            assert!(network(&mut spec).is_ok());
            assert_eq!(spec.is_encrypted(), encrypted, "{value}");
        }
        let options = &mut spec.driver_configuration.as_mut().unwrap().options;
        options.insert("encrypted".into(), "perhaps".into());
        assert!(network(&mut spec).unwrap_err().to_string().contains("perhaps"));
    }

    /// As the stock command line sends `swarm update --external-ca`.
    #[test]
    fn an_external_authority_is_refused_with_what_to_do_instead() {
        let json = r#"{"Name": "default", "CAConfig": {"ExternalCAs": [{"Protocol": "cfssl", "URL": "https://x"}]}}"#;
        let refused = cluster(&serde_json::from_str(json).unwrap())
            .unwrap_err()
            .to_string();
        assert!(refused.contains("swarm ca --rotate --ca-cert"), "{refused}");
        let none = r#"{"Name": "default", "CAConfig": {"ExternalCAs": null}}"#;
        assert!(cluster(&serde_json::from_str(none).unwrap()).is_ok());
    }
}
