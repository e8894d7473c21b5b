//! How two specs of a service differ, field by field, in the words of a compose file where it has one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use proto::ServiceSpec;
use serde_json::Value;

use crate::transfer::resolve;

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    field: String,
    before: Option<String>,
    after: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = &self.field;
        if is_confidential(field) {
            let what = match (&self.before, &self.after) {
                (None, _) => "added",
                (_, None) => "removed",
                _ => "changed",
            };
            return write!(out, "{field}: {what} (the value is not shown)");
        }
        let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".to_owned());
        write!(out, "{field}: {} -> {}", word(&self.before), word(&self.after))
    }
}

/// The spec with the image that the service runs, if that is what the spec's image meant when it was resolved last.
pub(super) fn with_pin_of(before: &ServiceSpec, after: &ServiceSpec) -> ServiceSpec {
    let mut after = after.clone();
    let running = before.task_template.container_spec.as_ref();
    if let (Some(wanted), Some(running)) = (&mut after.task_template.container_spec, running)
        && let Some(reference) = resolve::to_pin(&wanted.image)
        && let Some((name, _)) = running.image.split_once('@')
        && reference.familiar() == name
    {
        wanted.image.clone_from(&running.image);
    }
    after
}

/// How `after` differs from `before`, in the order of the fields' names. `networks`: names by identifier.
pub(super) fn differences(
    before: &ServiceSpec,
    after: &ServiceSpec,
    networks: &BTreeMap<String, String>,
) -> Vec<Difference> {
    let (before, after) = (fields(before, networks), fields(after, networks));
    let all: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let pair = |field: &String| Difference {
        field: field.clone(),
        before: before.get(field).cloned(),
        after: after.get(field).cloned(),
    };
    let mut found: Vec<Difference> = all
        .into_iter()
        .map(pair)
        .filter(|difference| difference.before != difference.after)
        .collect();
    // An identifier says something only where the name does not.
    let fields: BTreeSet<String> = found.iter().map(|difference| difference.field.clone()).collect();
    let named = |field: &str| {
        let name = field.strip_suffix("ID").map(|kind| format!("{kind}Name"));
        name.is_some_and(|name| fields.contains(&name))
    };
    found.retain(|difference| !named(&difference.field));
    found
}

/// Where the API's fields are in a compose file; the first that fits counts.
const WORDS: &[(&str, &str)] = &[
    ("TaskTemplate.ContainerSpec.Image", "image"),
    ("TaskTemplate.ContainerSpec.Command", "entrypoint"),
    ("TaskTemplate.ContainerSpec.Args", "command"),
    ("TaskTemplate.ContainerSpec.Env", "environment"),
    ("TaskTemplate.ContainerSpec.Labels", "labels"),
    ("TaskTemplate.ContainerSpec.Mounts", "volumes"),
    ("TaskTemplate.ContainerSpec.Secrets", "secrets"),
    ("TaskTemplate.ContainerSpec.Configs", "configs"),
    ("TaskTemplate.ContainerSpec.Healthcheck", "healthcheck"),
    ("TaskTemplate.Networks", "networks"),
    ("TaskTemplate.LogDriver", "logging"),
    ("TaskTemplate.Resources", "resources"),
    ("TaskTemplate.RestartPolicy", "restart_policy"),
    ("TaskTemplate.Placement", "placement"),
    ("TaskTemplate.ContainerSpec", ""),
    ("Mode.Replicated.Replicas", "replicas"),
    ("UpdateConfig", "update_config"),
    ("RollbackConfig", "rollback_config"),
    ("EndpointSpec.Ports", "ports"),
    ("EndpointSpec.Mode", "endpoint_mode"),
    ("Labels", "deploy.labels"),
];

/// It changes with the image, beside which it would say nothing.
const IMAGE_LABEL: &str = "deploy.labels.com.docker.stack.image";

fn fields(spec: &ServiceSpec, networks: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut spec = spec.clone();
    for network in &mut spec.task_template.networks {
        if let Some(name) = networks.get(&network.target) {
            network.target.clone_from(name);
        }
    }
    let mut fields = BTreeMap::new();
    flatten("", &serde_json::json!(spec), &mut fields);
    fields.remove(IMAGE_LABEL);
    fields
}

fn flatten(path: &str, value: &Value, fields: &mut BTreeMap<String, String>) {
    match value {
        Value::Null => {}
        Value::Object(map) => {
            for (key, value) in map {
                flatten(&join(path, key), value, fields);
            }
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            for (number, value) in list.iter().enumerate() {
                flatten(&join(path, &key_of(value, number)), value, fields);
            }
        }
        Value::Array(list) if path.ends_with("ContainerSpec.Env") => {
            for pair in list.iter().filter_map(Value::as_str) {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                fields.insert(word(&join(path, name)), value.to_owned());
            }
        }
        Value::Array(list) if list.is_empty() => {}
        Value::Array(list) => {
            let words: Vec<String> = list.iter().map(scalar).collect();
            fields.insert(word(path), words.join(" "));
        }
        value => {
            fields.insert(word(path), scalar(value));
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// What tells an entry of a list from the others: where it is in the container.
fn key_of(value: &Value, number: usize) -> String {
    let port = value["TargetPort"].as_u64();
    let port = port.map(|port| format!("{port}/{}", scalar(&value["Protocol"])));
    let name = value["Target"].as_str().or(value["File"]["Name"].as_str());
    port.or(name.map(str::to_owned))
        .unwrap_or_else(|| number.to_string())
}

fn word(path: &str) -> String {
    let known = WORDS.iter().find_map(|(api, word)| {
        let rest = path.strip_prefix(api)?;
        let whole = rest.is_empty() || rest.starts_with('.');
        whole.then(|| format!("{word}{rest}"))
    });
    known.map_or_else(|| path.to_owned(), |word| word.trim_start_matches('.').to_owned())
}

fn scalar(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether a variable's name says that its value is not for logs.
fn is_confidential(field: &str) -> bool {
    const SIGNS: [&str; 6] = ["PASS", "SECRET", "TOKEN", "KEY", "CREDENTIAL", "AUTH"];
    field
        .strip_prefix("environment.")
        .is_some_and(|name| SIGNS.iter().any(|sign| name.to_ascii_uppercase().contains(sign)))
}

#[cfg(test)]
mod tests {
    use proto::spec::{ConfigReference, ContainerSpec, FileTarget, NetworkAttachmentConfig, ServiceMode};

    use super::*;

    fn spec(change: impl FnOnce(&mut ServiceSpec, &mut ContainerSpec)) -> ServiceSpec {
        let mut spec = ServiceSpec {
            mode: ServiceMode::replicated(2),
            ..ServiceSpec::default()
        };
        let mut container = ContainerSpec {
            image: "web:1".into(),
            env: vec!["A=1".into(), "DB_PASSWORD=old".into()],
            args: vec!["sleep".into(), "1".into()],
            configs: vec![config("st_c")],
            ..ContainerSpec::default()
        };
        spec.task_template.networks = vec![NetworkAttachmentConfig {
            target: "n1".into(),
            ..NetworkAttachmentConfig::default()
        }];
        change(&mut spec, &mut container);
        spec.task_template.container_spec = Some(container);
        spec
    }

    fn config(name: &str) -> ConfigReference {
        ConfigReference {
            config_name: name.into(),
            file: Some(FileTarget {
                name: "c".into(),
                ..FileTarget::default()
            }),
            ..ConfigReference::default()
        }
    }

    fn lines(after: &ServiceSpec) -> Vec<String> {
        let networks = BTreeMap::from([("n1".to_owned(), "st_default".to_owned())]);
        let found = differences(&spec(|_, _| {}), after, &networks);
        found.iter().map(Difference::to_string).collect()
    }

    #[test]
    fn each_field_that_differs_has_a_line() {
        let after = spec(|spec, container| {
            spec.mode = ServiceMode::replicated(3);
            spec.labels
                .insert("com.docker.stack.image".into(), "web:2".into());
            spec.task_template.networks[0].target = "st_default".into();
            container.image = "web:2".into();
            container.args = vec!["sleep".into(), "2".into()];
            container.env = vec!["A=2".into(), "DB_PASSWORD=new".into(), "B=".into()];
            container.configs = vec![config("st_c-2")];
            container.configs[0].config_id = "another".into();
            container.hostname = "h".into();
        });
        assert_eq!(
            lines(&after),
            [
                "Hostname: (none) -> h",
                "command: sleep 1 -> sleep 2",
                "configs.c.ConfigName: st_c -> st_c-2",
                "environment.A: 1 -> 2",
                "environment.B: (none) -> ",
                "environment.DB_PASSWORD: changed (the value is not shown)",
                "image: web:1 -> web:2",
                "replicas: 2 -> 3",
            ]
        );
    }

    #[test]
    fn what_is_the_same_has_none() {
        assert!(lines(&spec(|_, _| {})).is_empty());
    }
}
