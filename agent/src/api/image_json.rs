//! Images in the API's JSON.

use serde_json::{Map, Value, json};
use storage::Image;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// One row of `GET /images/json`.
pub fn summary(image: &Image, with_digests: bool) -> Value {
    let tags = if image.refs.is_empty() && !with_digests {
        Vec::new()
    } else {
        image.refs.iter().map(storage::Reference::familiar).collect()
    };
    json!({
        "Id": image.id.to_string(),
        "ParentId": "",
        "RepoTags": tags,
        "RepoDigests": digests(image),
        "Created": unix(&image.created),
        "Size": image.size,
        "SharedSize": -1,
        "VirtualSize": image.size,
        "Labels": image.config.config.labels,
        "Containers": -1,
    })
}

/// `GET /images/{name}/json`.
pub fn inspect(image: &Image) -> Value {
    let config = &image.config;
    json!({
        "Id": image.id.to_string(),
        "RepoTags": image.refs.iter().map(storage::Reference::familiar).collect::<Vec<_>>(),
        "RepoDigests": digests(image),
        "Parent": "",
        "Comment": config.comment.clone().unwrap_or_default(),
        "Created": if image.created.is_empty() { Value::Null } else { json!(image.created) },
        "DockerVersion": config.docker_version.clone().unwrap_or_default(),
        "Author": config.author.clone().unwrap_or_default(),
        "Config": container_config(image),
        "Architecture": config.architecture,
        "Variant": config.variant.clone().unwrap_or_default(),
        "Os": config.os,
        "Size": image.size,
        "VirtualSize": image.size,
        "GraphDriver": { "Name": "overlay2", "Data": null },
        "RootFS": { "Type": "layers", "Layers": image.layers.iter().map(ToString::to_string).collect::<Vec<_>>() },
        "Metadata": { "LastTagTime": image.last_tagged.clone().unwrap_or_else(|| "0001-01-01T00:00:00Z".into()) },
    })
}

/// The image's configuration with every key that Docker always writes.
fn container_config(image: &Image) -> Value {
    let written = serde_json::to_value(&image.config.config).unwrap_or_default();
    let mut config: Map<String, Value> = written.as_object().cloned().unwrap_or_default();
    let always = [
        ("Hostname", json!("")),
        ("Domainname", json!("")),
        ("User", json!("")),
        ("AttachStdin", json!(false)),
        ("AttachStdout", json!(false)),
        ("AttachStderr", json!(false)),
        ("Tty", json!(false)),
        ("OpenStdin", json!(false)),
        ("StdinOnce", json!(false)),
        ("Env", json!([])),
        ("Cmd", Value::Null),
        ("Image", json!("")),
        ("Volumes", Value::Null),
        ("WorkingDir", json!("")),
        ("Entrypoint", Value::Null),
        ("OnBuild", Value::Null),
        ("Labels", json!({})),
    ];
    for (key, value) in always {
        config.entry(key).or_insert(value);
    }
    Value::Object(config)
}

fn digests(image: &Image) -> Vec<String> {
    image.digests.iter().map(storage::Reference::familiar).collect()
}

fn unix(created: &str) -> i64 {
    OffsetDateTime::parse(created, &Rfc3339).map_or(0, OffsetDateTime::unix_timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_lists_are_unix_seconds() {
        assert_eq!(unix("1970-01-01T00:01:00Z"), 60);
        assert_eq!(unix(""), 0);
    }
}
