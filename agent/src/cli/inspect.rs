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
            for object in &found {
                println!("{}", template::expand(format, object)?);
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
