//! The words behind the flags of services, read.

use anyhow::{Context, Result, bail};
use proto::spec::{
    NetworkAttachmentConfig, PlacementPreference, PortConfig, PublishMode, ServiceMode, SpreadOver,
};
use serde_json::Value;

use crate::cli::client::{Client, escape};
use crate::cli::container::text;
use crate::cli::run;
use crate::compose;

/// Writes what was said; what was not stays.
pub(crate) fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// A duration such as `1m30s`, in nanoseconds.
pub(crate) fn nanoseconds(word: Option<&str>) -> Result<Option<i64>> {
    word.map(compose::duration)
        .transpose()
        .map_err(anyhow::Error::msg)
}

pub(super) fn change_map(map: &mut proto::spec::Labels, add: &[String], remove: &[String]) {
    map.retain(|key, _| !remove.contains(key));
    map.extend(run::labels(add));
}

/// `NAME=value` as it is, `NAME` with the value that it has here; files before words.
pub(crate) fn environment(words: &[String], files: &[String]) -> Result<Vec<String>> {
    let mut variables = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).with_context(|| format!("read the env file {file}"))?;
        let pairs =
            compose::env_file(&text).map_err(|problem| anyhow::anyhow!("env file {file}: {problem}"))?;
        variables.extend(pairs.into_iter().map(|(name, value)| format!("{name}={value}")));
    }
    for word in words {
        match std::env::var(word) {
            _ if word.contains('=') => variables.push(word.clone()),
            Ok(value) => variables.push(format!("{word}={value}")),
            Err(_) => {}
        }
    }
    Ok(variables)
}

pub(super) fn mode(word: &str, replicas: Option<u64>, concurrent: Option<u64>) -> Result<ServiceMode> {
    if concurrent.is_some() && word != "replicated-job" {
        bail!("--max-concurrent can only be used with mode replicated-job");
    }
    match (word, replicas) {
        ("replicated", replicas) => Ok(ServiceMode::replicated(replicas.unwrap_or(1))),
        ("global", None) => Ok(ServiceMode::global()),
        ("replicated-job", replicas) => {
            let count = replicas.or(Some(1));
            let job = proto::spec::JobMode {
                max_concurrent: concurrent.or(count),
                total_completions: count,
            };
            Ok(ServiceMode {
                replicated_job: Some(job),
                ..ServiceMode::default()
            })
        }
        ("global-job", None) => Ok(ServiceMode {
            global_job: Some(proto::spec::Empty {}),
            ..ServiceMode::default()
        }),
        ("global" | "global-job", Some(_)) => {
            bail!("replicas can only be used with replicated or replicated-job mode")
        }
        _ => bail!(
            "unknown mode {word:?}: only replicated, global, replicated-job and global-job are supported"
        ),
    }
}

pub(super) fn mount(word: &str) -> Result<proto::spec::Mount> {
    Ok(serde_json::from_value(run::long_mount(word)?)?)
}

/// `name`, or `name=…,alias=…,ip=…`.
pub(super) fn network(word: &str) -> Result<NetworkAttachmentConfig> {
    let mut attachment = NetworkAttachmentConfig::default();
    for part in word.split(',') {
        match part.split_once('=') {
            Some(("name", name)) => name.clone_into(&mut attachment.target),
            Some(("alias", alias)) => attachment.aliases.push(alias.to_owned()),
            Some(("ip", address)) => attachment.addresses.push(address.to_owned()),
            Some((key, _)) => {
                bail!("network {word:?}: the field {key:?} is not built; there are name, alias and ip")
            }
            None => part.clone_into(&mut attachment.target),
        }
    }
    Ok(attachment)
}

/// `8080:80/tcp`, or `published=8080,target=80,protocol=tcp,mode=host`.
pub(super) fn publish(word: &str) -> Result<Vec<PortConfig>> {
    if !word.contains('=') {
        return compose::ports(word).map_err(anyhow::Error::msg);
    }
    let mut port = PortConfig::default();
    for part in word.split(',') {
        let (key, value) = part
            .split_once('=')
            .with_context(|| format!("{part:?} is not key=value"))?;
        match key {
            "published" => port.published_port = value.parse().with_context(|| format!("port {value:?}"))?,
            "target" => port.target_port = value.parse().with_context(|| format!("port {value:?}"))?,
            "protocol" => port.protocol = value.parse()?,
            "mode" => port.publish_mode = value.parse::<PublishMode>()?,
            _ => bail!("{word:?}: the field {key:?} is not known"),
        }
    }
    if port.target_port == 0 {
        bail!("{word:?}: target is required");
    }
    Ok(vec![port])
}

pub(super) fn preference(word: &str) -> Result<PlacementPreference> {
    let descriptor = word
        .strip_prefix("spread=")
        .with_context(|| format!("{word:?} is not spread=…"))?;
    Ok(PlacementPreference {
        spread: Some(SpreadOver {
            spread_descriptor: descriptor.to_owned(),
        }),
    })
}

/// `name`, or `source=name,target=…,uid=…,gid=…,mode=…`, as the name and where it lies.
pub(super) fn reference(word: &str) -> Result<(String, proto::spec::FileTarget)> {
    let mut name = String::new();
    let mut file = proto::spec::FileTarget {
        uid: "0".to_owned(),
        gid: "0".to_owned(),
        mode: 0o444,
        ..Default::default()
    };
    for part in word.split(',') {
        match part.split_once('=') {
            None => part.clone_into(&mut name),
            Some(("source" | "src", value)) => value.clone_into(&mut name),
            Some(("target", value)) => value.clone_into(&mut file.name),
            Some(("uid", value)) => value.clone_into(&mut file.uid),
            Some(("gid", value)) => value.clone_into(&mut file.gid),
            Some(("mode", value)) => {
                file.mode = u32::from_str_radix(value, 8).with_context(|| format!("mode {value:?}"))?
            }
            Some((key, _)) => bail!("{word:?}: the field {key:?} is not known"),
        }
    }
    if file.name.is_empty() {
        file.name.clone_from(&name);
    }
    Ok((name, file))
}

pub(super) async fn secret(client: &Client, word: &str) -> Result<proto::spec::SecretReference> {
    let (name, file) = reference(word)?;
    let id = identifier(client, "secrets", &name).await?;
    Ok(proto::spec::SecretReference {
        file: Some(file),
        secret_id: id.into(),
        secret_name: name,
    })
}

pub(super) async fn config(client: &Client, word: &str) -> Result<proto::spec::ConfigReference> {
    let (name, file) = reference(word)?;
    let id = identifier(client, "configs", &name).await?;
    Ok(proto::spec::ConfigReference {
        file: Some(file),
        runtime: None,
        config_id: id.into(),
        config_name: name,
    })
}

pub(super) async fn identifier(client: &Client, kind: &str, name: &str) -> Result<String> {
    let object: Value = client.get(&format!("/{kind}/{}", escape(name))).await?;
    Ok(text(&object["ID"]))
}
