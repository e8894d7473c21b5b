//! `secret inspect --pretty`, `config inspect --pretty`: line by line as Docker prints it.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto::Meta;
use proto::object::{Config, Secret};
use proto::spec::Labels;

use super::human;

/// The secret, without a line's end after the last. Nobody is told what it holds.
pub(crate) fn secret(secret: &Secret) -> String {
    let spec = &secret.spec;
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = head(&mut text, secret.id.as_str(), &spec.name, &spec.labels);
    let driver = spec.driver.as_ref().map_or("", |driver| driver.name.as_str());
    let _ = writeln!(text, "Driver:{:12}{driver}", "").and_then(|()| times(&mut text, &secret.meta));
    text.truncate(text.trim_end().len());
    text
}

/// The config, without a line's end after the last.
pub(crate) fn config(config: &Config) -> String {
    let spec = &config.spec;
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = head(&mut text, config.id.as_str(), &spec.name, &spec.labels);
    let data = STANDARD.decode(&spec.data).unwrap_or_default();
    let _ = times(&mut text, &config.meta)
        .and_then(|()| write!(text, "Data:\n{}", String::from_utf8_lossy(&data)));
    text
}

fn head(text: &mut String, id: &str, name: &str, labels: &Labels) -> std::fmt::Result {
    writeln!(text, "ID:\t\t\t{id}\nName:\t\t\t{name}")?;
    super::pretty_node::labels(text, "Labels", labels)
}

fn times(text: &mut String, meta: &Meta) -> std::fmt::Result {
    let moment = |at| human::moment(at).to_lowercase();
    writeln!(text, "Created at:            \t{}", moment(meta.created_at))?;
    writeln!(text, "Updated at:            \t{}", moment(meta.updated_at))
}
