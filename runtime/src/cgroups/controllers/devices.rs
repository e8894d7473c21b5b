//! devices: which device nodes may be made and opened. Everything is denied first, whatever the configuration says; then
//! come its rules, then those devices without which no program works.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::super::Error;
use super::super::plan::{Builder, unavailable};
use super::device_program;

/// One rule; the last that matches decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    /// `a`, `b` or `c`.
    pub(super) kind: char,
    /// `None` for any.
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    /// Some of `rwm`, in this order.
    pub(super) access: String,
}

/// Allowed in every container, as runc does: making any node, the default devices, terminals.
const DEFAULTS: [(char, Option<u32>, Option<u32>, &str); 10] = [
    ('c', None, None, "m"),
    ('b', None, None, "m"),
    ('c', Some(1), Some(3), "rwm"),
    ('c', Some(1), Some(5), "rwm"),
    ('c', Some(1), Some(7), "rwm"),
    ('c', Some(1), Some(8), "rwm"),
    ('c', Some(1), Some(9), "rwm"),
    ('c', Some(5), Some(0), "rwm"),
    ('c', Some(5), Some(2), "rwm"),
    ('c', Some(136), None, "rwm"),
];

/// Plans the rules: writes on v1, a program on v2.
pub(crate) fn plan(builder: &mut Builder<'_>, configured: &[LinuxDeviceCgroup]) -> Result<(), Error> {
    let rules = rules(configured)?;
    let place = builder.place("devices", "devices")?;
    if place.unified {
        builder.plan.device_program = Some(device_program::generate(&rules));
        return Ok(());
    }
    // v1: a new group inherits its parent's rules, so that "deny all" has to be said.
    builder.write(place, "devices.deny", "a");
    for rule in rules {
        let file = if rule.allow {
            "devices.allow"
        } else {
            "devices.deny"
        };
        builder.write(place, file, line(&rule));
    }
    Ok(())
}

fn line(rule: &Rule) -> String {
    let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
    format!(
        "{} {}:{} {}",
        rule.kind,
        number(rule.major),
        number(rule.minor),
        rule.access
    )
}

/// Configured rules and then the defaults, without those that change nothing: what precedes a rule for all devices, and
/// repetitions of an allowance that no denial came between.
fn rules(configured: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, Error> {
    let mut rules: Vec<Rule> = Vec::new();
    for rule in configured {
        let rule = convert(rule)?;
        if rule.kind == 'a' && rule.access == "rwm" {
            rules.clear();
            if rule.allow {
                rules.push(rule);
            }
        } else if !rules.contains(&rule) || !rule.allow {
            rules.push(rule);
        }
    }
    let everything = |rule: &Rule| rule.kind == 'a' && rule.allow;
    if !rules.iter().any(everything) {
        for (kind, major, minor, access) in DEFAULTS {
            let access = access.to_owned();
            let rule = Rule {
                allow: true,
                kind,
                major,
                minor,
                access,
            };
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
    }
    Ok(rules)
}

fn convert(rule: &LinuxDeviceCgroup) -> Result<Rule, Error> {
    let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
        LinuxDeviceType::A => 'a',
        LinuxDeviceType::B => 'b',
        LinuxDeviceType::C | LinuxDeviceType::U => 'c',
        LinuxDeviceType::P => return Err(unavailable("devices", "type \"p\" is no device")),
    };
    let number = |value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(value) => u32::try_from(value)
            .map(Some)
            .map_err(|_| unavailable("devices", format!("{value} is no device number"))),
    };
    let wanted = rule
        .access()
        .as_deref()
        .filter(|access| !access.is_empty())
        .unwrap_or("rwm");
    if let Some(other) = wanted.chars().find(|c| !"rwm".contains(*c)) {
        return Err(unavailable("devices", format!("{other:?} is no kind of access")));
    }
    let access = "rwm".chars().filter(|c| wanted.contains(*c)).collect();
    let (major, minor) = (number(rule.major())?, number(rule.minor())?);
    if kind == 'a' && (major.is_some() || minor.is_some()) {
        return Err(unavailable(
            "devices",
            "a rule of type \"a\" has no device number",
        ));
    }
    Ok(Rule {
        allow: rule.allow(),
        kind,
        major,
        minor,
        access,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn lines(configured: Value) -> Vec<String> {
        let configured: Vec<LinuxDeviceCgroup> = serde_json::from_value(configured).unwrap();
        rules(&configured)
            .unwrap()
            .iter()
            .map(|rule| format!("{}{}", if rule.allow { '+' } else { '-' }, line(rule)))
            .collect()
    }

    #[test]
    fn nothing_configured_leaves_the_defaults() {
        assert_eq!(lines(json!([])).len(), DEFAULTS.len());
    }

    #[test]
    fn a_denial_of_everything_needs_no_rule_of_its_own() {
        let docker = json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"}]);
        let lines = lines(docker);
        assert_eq!(lines[0], "+c 1:5 rwm");
        assert_eq!(lines.len(), DEFAULTS.len(), "the repeated default is left out");
    }

    #[test]
    fn a_privileged_container_is_allowed_everything() {
        assert_eq!(
            lines(json!([{"allow": false}, {"allow": true, "access": "mrw"}])),
            ["+a *:* rwm"]
        );
    }

    #[test]
    fn access_is_one_of_three_letters() {
        let rule: LinuxDeviceCgroup = serde_json::from_value(json!({"allow": true, "access": "rx"})).unwrap();
        assert!(convert(&rule).is_err());
    }
}
