//! `inspect` of anything, and of one kind.

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::client::{Client, escape, is_not_found};
use super::template;

/// Names or IDs
#[derive(Debug, Args)]
pub(crate) struct Names {
    /// Format output using a template, or "json"
    #[arg(short, long)]
    format: Option<String>,
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Names {
    /// What was asked for.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Prints `GET /kind/name<suffix>` of each as one JSON list; errors after it.
    pub(crate) async fn run(self, client: &Client, kind: &str, suffix: &str) -> Result<()> {
        let mut found = Vec::new();
        let mut errors = Vec::new();
        for name in &self.names {
            match client.get(&format!("/{kind}/{}{suffix}", escape(name))).await {
                Ok(object) => found.push(object),
                // Docker's command line has words of its own for services alone.
                Err(error) if kind == "services" && is_not_found(&error) => {
                    errors.push(format!("no such service: {name}"));
                }
                Err(error) => errors.push(format!("{error:#}")),
            }
        }
        print(found, &errors, self.format.as_deref())
    }

    /// Prints whatever has each name: containers first, as Docker looks.
    pub(crate) async fn run_any(self, client: &Client) -> Result<()> {
        let mut found = Vec::new();
        let mut errors = Vec::new();
        for name in &self.names {
            match any(client, name).await? {
                Some(object) => found.push(object),
                None => errors.push(format!("No such object: {name}")),
            }
        }
        print(found, &errors, self.format.as_deref())
    }
}

async fn any(client: &Client, name: &str) -> Result<Option<Value>> {
    const KINDS: [(&str, &str); 9] = [
        ("containers", "/json"),
        ("images", "/json"),
        ("networks", ""),
        ("volumes", ""),
        ("services", ""),
        ("tasks", ""),
        ("nodes", ""),
        ("secrets", ""),
        ("configs", ""),
    ];
    for (kind, suffix) in KINDS {
        match client.get(&format!("/{kind}/{}{suffix}", escape(name))).await {
            Ok(object) => return Ok(Some(object)),
            // 503: the kinds of a swarm, where there is none.
            Err(error) if is_not_found(&error) || status(&error) == Some(503) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn status(error: &anyhow::Error) -> Option<u16> {
    error
        .downcast_ref::<super::client::ApiError>()
        .map(|error| error.status)
}

/// What an object of the kind may have and this one has not is nothing to a template, and no mistake in it.
fn complete(mut object: Value) -> Value {
    let optional: &[&str] = match &object["Spec"] {
        spec if spec["TaskTemplate"].is_object() => &["PreviousSpec", "UpdateStatus", "JobStatus"],
        spec if spec["Availability"].is_string() => &["ManagerStatus"],
        _ => &[],
    };
    if let Value::Object(fields) = &mut object {
        for name in optional {
            fields.entry(*name).or_insert(Value::Null);
        }
    }
    object
}

fn print(found: Vec<Value>, errors: &[String], format: Option<&str>) -> Result<()> {
    match format {
        None | Some("") => {
            // Docker indents by four.
            let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
            let mut serializer = serde_json::Serializer::with_formatter(std::io::stdout().lock(), formatter);
            serde::Serialize::serialize(&Value::Array(found), &mut serializer)?;
            println!();
        }
        Some("json") => found.iter().for_each(|object| println!("{object}")),
        Some(format) => {
            for object in found {
                println!("{}", template::expand(format, &complete(object))?);
            }
        }
    }
    for error in errors {
        eprintln!("Error: {error}");
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(super::Silent(1).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_there_is_nothing_and_what_cannot_be_a_mistake() {
        let service = serde_json::json!({ "ID": "s", "Spec": { "TaskTemplate": {} } });
        let worker = serde_json::json!({ "ID": "n", "Spec": { "Availability": "active" } });
        for (object, field) in [(&service, "UpdateStatus"), (&worker, "ManagerStatus")] {
            let shown = template::expand(&format!("{{{{json .{field}}}}}"), &complete(object.clone()));
            assert_eq!(shown.unwrap(), "null");
        }
        assert!(template::expand("{{.ManagerStatus}}", &complete(service)).is_err());
    }
}
