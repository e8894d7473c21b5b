//! What a tree needs to mean the same in another file's place: relative paths become absolute, and what is passed on
//! from the shell is written out where only the tree's own variables have it.

use std::path::Path;

use super::Variables;
use super::short;
use super::yaml::{Node, Value};

/// Makes the relative paths of services, secrets and configs absolute.
pub(super) fn paths(tree: &mut Node, directory: &Path) {
    for_each(tree, "services", |service| paths_of_service(service, directory));
    for section in ["secrets", "configs"] {
        for_each(tree, section, |content| {
            if let Some(file) = content.get_mut("file") {
                settle(file, directory);
            }
        });
    }
}

/// As [`paths`], of one service.
pub(super) fn paths_of_service(service: &mut Node, directory: &Path) {
    if let Some(build) = service.get_mut("build") {
        if build.get("context").is_none() {
            // It is the default that stands for this folder, and `push` leaves the short form alone.
            build.push("context", Node::quoted(build.place.clone(), "."));
        }
        settle_field(build, "context", directory);
    }
    if let Some(files) = service.get_mut("env_file") {
        for file in files.items_mut() {
            settle_field(file, "path", directory);
        }
    }
    if let Some(volumes) = service.get_mut("volumes") {
        for volume in volumes.items_mut() {
            settle_volume(volume, directory);
        }
    }
}

/// Writes out values that only these variables give: names alone in `environment`, secrets and configs of a variable.
pub(super) fn variables(tree: &mut Node, own: &Variables) {
    for_each(tree, "services", |service| {
        if let Some(environment) = service.get_mut("environment") {
            pass_on(environment, own);
        }
    });
    for section in ["secrets", "configs"] {
        for_each(tree, section, |content| {
            let named = content.get("environment");
            let value = named.and_then(|node| Some(Node::quoted(node.place.clone(), own.get(node.text()?)?)));
            if let Some(value) = value {
                content.remove("environment");
                content.push("content", value);
            }
        });
    }
}

fn pass_on(environment: &mut Node, own: &Variables) {
    match &mut environment.value {
        Value::Map(entries) => {
            for (name, node) in entries.iter_mut().filter(|(_, node)| node.is_null()) {
                if let Some(value) = own.get(name) {
                    *node = Node::quoted(node.place.clone(), value);
                }
            }
        }
        Value::List(items) => {
            for item in items {
                let known = item.text().and_then(|name| Some((name, own.get(name)?)));
                if let Some((name, value)) = known {
                    *item = Node::quoted(item.place.clone(), &format!("{name}={value}"));
                }
            }
        }
        Value::Scalar { .. } => {}
    }
}

fn for_each(tree: &mut Node, section: &str, mut change: impl FnMut(&mut Node)) {
    if let Some(Value::Map(entries)) = tree.get_mut(section).map(|node| &mut node.value) {
        for (_, node) in entries {
            change(node);
        }
    }
}

/// The path in a mapping's field, or that which the node is itself.
fn settle_field(node: &mut Node, key: &str, directory: &Path) {
    match node.get_mut(key) {
        Some(node) => settle(node, directory),
        None => settle(node, directory),
    }
}

fn settle_volume(volume: &mut Node, directory: &Path) {
    if volume.get("type").and_then(Node::text) == Some("bind") {
        if let Some(source) = volume.get_mut("source") {
            settle(source, directory);
        }
        return;
    }
    let Value::Scalar { text, .. } = &mut volume.value else {
        return;
    };
    if let Some((source, rest)) = text.split_once(':')
        && short::is_path(source)
        && let Ok(source) = short::host_path(source, directory)
    {
        *text = format!("{source}:{rest}");
    }
}

/// What is not a path, or cannot be made absolute, stays: whoever reads it says what is wrong.
fn settle(node: &mut Node, directory: &Path) {
    if node.is_null() {
        return;
    }
    let Value::Scalar { text, .. } = &mut node.value else {
        return;
    };
    if !text.contains("://")
        && let Ok(absolute) = short::host_path(text, directory)
    {
        *text = absolute;
    }
}
