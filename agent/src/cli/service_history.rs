//! `service history` and `service rollback`: the specs that a service had, and the way back to one of them.

use std::collections::BTreeSet;

use anyhow::Result;
use clap::Args;
use proto::object::Service;
use proto::{ServiceSpec, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use super::client::{Client, escape};
use super::converge::{self, Goal, Target, WaitFlags};
use super::format::Listing;
use super::human;

/// How many changed fields are named.
const MOST_CHANGES: usize = 4;

/// `service history`
#[derive(Debug, Args)]
pub(crate) struct History {
    /// Format output: "table", "table TEMPLATE", "json" or a template
    #[arg(long)]
    format: Option<String>,
    name: String,
}

/// A version of a service, as the API tells it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Kept {
    version: u64,
    current: bool,
    updated_at: Timestamp,
    spec: ServiceSpec,
}

impl History {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let path = format!("/services/{}/history", escape(&self.name));
        let versions: Vec<Kept> = client.fetch(&path).await?;
        let mut listing = Listing::new(&[
            ("Version", "VERSION"),
            ("Updated", "UPDATED"),
            ("Image", "IMAGE"),
            ("Changes", "CHANGES"),
        ])
        .more(&[("Current", "CURRENT")]);
        for (index, one) in versions.iter().enumerate() {
            let mark = if one.current { " *" } else { "" };
            let container = one.spec.task_template.container_spec.as_ref();
            listing.row([
                format!("{}{mark}", one.version),
                human::ago(one.updated_at),
                container.map(|spec| spec.image.clone()).unwrap_or_default(),
                changes(versions.get(index + 1).map(|before| &before.spec), &one.spec),
                one.current.to_string(),
            ]);
        }
        listing.print_as(self.format.as_deref())
    }
}

/// `service rollback`
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    #[command(flatten)]
    wait: WaitFlags,
    /// Suppress progress output
    #[arg(short, long)]
    quiet: bool,
    /// Go back to this version of `service history` instead of the previous specification
    #[arg(long, value_name = "VERSION")]
    to: Option<u64>,
    name: String,
}

impl Rollback {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let service: Service = client.fetch(&format!("/services/{}", escape(&self.name))).await?;
        let way = match self.to {
            Some(version) => format!("rollbackTo={version}"),
            None => "rollback=previous".to_owned(),
        };
        let (id, version) = (service.id.to_string(), service.meta.version.index);
        let path = format!("/services/{id}/update?version={version}&{way}");
        client.post(&path, &service.spec).await?;
        println!("{}", self.name);
        let target = Target::new(id, Goal::Rollback);
        converge::reach(client, &[target], &self.wait, self.quiet).await
    }
}

/// The names of the fields in which a spec differs from the one before it.
fn changes(before: Option<&ServiceSpec>, spec: &ServiceSpec) -> String {
    let Some(before) = before else {
        return String::new();
    };
    let json = |spec| serde_json::to_value(spec).unwrap_or_default();
    let mut names = BTreeSet::new();
    differ("", &json(before), &json(spec), &mut names);
    let more = names.len().saturating_sub(MOST_CHANGES);
    let mut shown: Vec<String> = names.into_iter().take(MOST_CHANGES).collect();
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    shown.join(", ")
}

/// Collects the keys under which two values differ; labels and the like count as one field.
fn differ(key: &str, one: &Value, other: &Value, names: &mut BTreeSet<String>) {
    match (one, other) {
        _ if one == other => {}
        (Value::Object(_) | Value::Null, Value::Object(_) | Value::Null)
            if !matches!(key, "Labels" | "Sysctls") =>
        {
            let empty = serde_json::Map::new();
            let (one, other) = (
                one.as_object().unwrap_or(&empty),
                other.as_object().unwrap_or(&empty),
            );
            let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for key in keys {
                let value = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                differ(key, &value(one), &value(other), names);
            }
        }
        _ => drop(names.insert(key.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use proto::spec::{ContainerSpec, RestartPolicy, ServiceMode};

    use super::*;

    #[test]
    fn changes_are_named_by_their_fields() {
        let mut one = ServiceSpec::default();
        one.task_template.container_spec = Some(ContainerSpec::default());
        let mut other = one.clone();
        assert_eq!(changes(Some(&one), &other), "");
        assert_eq!(changes(None, &other), "", "nothing is before the first");
        let container = other.task_template.container_spec.as_mut().unwrap();
        container.image = "web:2".into();
        container.env = vec!["A=1".into()];
        assert_eq!(changes(Some(&one), &other), "Env, Image");
        other.labels.insert("a".into(), "b".into());
        other.mode = ServiceMode::replicated(3);
        other.task_template.force_update = 1;
        assert_eq!(
            changes(Some(&one), &other),
            "Env, ForceUpdate, Image, Labels, 1 more"
        );
        other = one.clone();
        other.task_template.restart_policy = Some(RestartPolicy::default());
        assert_eq!(changes(Some(&one), &other), "Condition", "{other:?}");
    }
}
