//! `node inspect --pretty`: a node for reading, line by line as Docker prints it.

use std::collections::BTreeMap;
use std::fmt::Write;

use proto::object::{Node, Reachability};

use super::service::capitalised;
use super::{human, pretty};

/// The node, without a line's end after the last.
pub(crate) fn node(node: &Node) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = head(&mut text, node).and_then(|()| description(&mut text, node));
    text.truncate(text.trim_end().len());
    text
}

fn head(text: &mut String, node: &Node) -> std::fmt::Result {
    writeln!(text, "ID:\t\t\t{}", node.id)?;
    labels(text, "Labels", &node.spec.labels)?;
    writeln!(text, "Hostname:              \t{}", node.description.hostname)?;
    let joined = human::moment(node.meta.created_at).to_lowercase();
    writeln!(text, "Joined at:             \t{joined}")?;
    let status = &node.status;
    writeln!(
        text,
        "Status:\n State:\t\t\t{}",
        capitalised(status.state.as_str())
    )?;
    if !status.message.is_empty() {
        writeln!(text, " Message:              \t{}", capitalised(&status.message))?;
    }
    let availability = capitalised(node.spec.availability.as_str());
    writeln!(text, " Availability:         \t{availability}")?;
    if !status.addr.is_empty() {
        writeln!(text, " Address:\t\t{}", status.addr)?;
    }
    let Some(manager) = &node.manager_status else {
        return Ok(());
    };
    let reached = match manager.reachability {
        Reachability::Reachable => "Reachable",
        Reachability::Unreachable => "Unreachable",
        Reachability::Unknown => "Unknown",
    };
    writeln!(text, "Manager Status:\n Address:\t\t{}", manager.addr)?;
    let leader = if manager.leader { "Yes" } else { "No" };
    writeln!(text, " Raft Status:\t\t{reached}\n Leader:\t\t{leader}")
}

fn description(text: &mut String, node: &Node) -> std::fmt::Result {
    let known = &node.description;
    writeln!(text, "Platform:\n Operating System:\t{}", known.platform.os)?;
    writeln!(text, " Architecture:\t\t{}", known.platform.architecture)?;
    let cpus = known.resources.nano_cpus / 1_000_000_000;
    let memory = pretty::bytes(known.resources.memory_bytes);
    writeln!(text, "Resources:\n CPUs:\t\t\t{cpus}\n Memory:\t\t{memory}")?;
    let mut plugins = BTreeMap::<&str, Vec<&str>>::new();
    for plugin in &known.engine.plugins {
        plugins.entry(&plugin.kind).or_default().push(&plugin.name);
    }
    if !plugins.is_empty() {
        writeln!(text, "Plugins:")?;
    }
    for (kind, names) in plugins {
        writeln!(text, " {kind}:\t\t{}", names.join(", "))?;
    }
    writeln!(text, "Engine Version:\t\t{}", known.engine.engine_version)?;
    labels(text, "Engine Labels", &known.engine.labels)?;
    let tls = &known.tls_info;
    if tls.trust_root.is_empty() {
        return Ok(());
    }
    writeln!(text, "TLS Info:\n TrustRoot:\n{}", tls.trust_root)?;
    writeln!(text, " Issuer Subject:\t{}", tls.cert_issuer_subject)?;
    writeln!(text, " Issuer Public Key:\t{}", tls.cert_issuer_public_key)
}

/// Labels below their title; nothing if there are none.
pub(super) fn labels(text: &mut String, title: &str, labels: &proto::spec::Labels) -> std::fmt::Result {
    if !labels.is_empty() {
        writeln!(text, "{title}:")?;
    }
    for (key, value) in labels {
        let equals = if value.is_empty() { "" } else { "=" };
        writeln!(text, " - {key}{equals}{value}")?;
    }
    Ok(())
}
