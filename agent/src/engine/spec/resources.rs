//! `linux.resources`: cgroup limits and device access.

use serde_json::{Value, json};

use super::devices::HostDevice;
use super::object;
use crate::api::types::host_config::{HostConfig, ThrottleDevice, WeightDevice};
use crate::engine::error::{EngineError, Result};

/// µs; what `--cpus` is expressed in.
const CPU_PERIOD: i64 = 100_000;
/// Processes per container unless asked otherwise; Docker sets none, which lets one fork bomb take the node.
const DEFAULT_PIDS: i64 = 4096;

/// Checks device rules and the devices of I/O limits.
///
/// # Errors
/// A malformed rule, or a path that is no device, quoted.
pub fn check_devices(host: &HostConfig) -> Result<()> {
    if let Some(rule) = host
        .device_cgroup_rules
        .iter()
        .find(|rule| parse_rule(rule).is_none())
    {
        return Err(EngineError::Invalid(format!(
            "invalid device cgroup format: '{rule}'"
        )));
    }
    let throttled = [
        &host.blkio_device_read_bps,
        &host.blkio_device_write_bps,
        &host.blkio_device_read_iops,
        &host.blkio_device_write_iops,
    ];
    let mut paths = throttled
        .into_iter()
        .flatten()
        .map(|d| &d.path)
        .chain(host.blkio_weight_device.iter().map(|d| &d.path));
    match paths.find(|path| numbers(path).is_none()) {
        Some(path) => Err(EngineError::Invalid(format!("{path} is not a device node"))),
        None => Ok(()),
    }
}

pub(super) fn resources(host: &HostConfig, devices: &[HostDevice]) -> Value {
    json!(object([
        ("devices", Some(json!(device_rules(host, devices)))),
        ("memory", group(memory(host))),
        ("cpu", group(cpu(host))),
        ("pids", pids(host)),
        ("blockIO", group(block_io(host))),
    ]))
}

fn group(map: serde_json::Map<String, Value>) -> Option<Value> {
    (!map.is_empty()).then(|| json!(map))
}

fn memory(host: &HostConfig) -> serde_json::Map<String, Value> {
    object([
        ("limit", set(host.memory)),
        ("reservation", set(host.memory_reservation)),
        ("swap", set(host.memory_swap).filter(|_| host.memory > 0)),
        (
            "swappiness",
            host.memory_swappiness.filter(|s| *s >= 0).map(|s| json!(s)),
        ),
        (
            "disableOOMKiller",
            host.oom_kill_disable.filter(|on| *on).map(|on| json!(on)),
        ),
    ])
}

fn cpu(host: &HostConfig) -> serde_json::Map<String, Value> {
    let (period, quota) = match host.nano_cpus {
        0 => (set(host.cpu_period), set(host.cpu_quota)),
        nano => (Some(json!(CPU_PERIOD)), Some(json!(quota(nano)))),
    };
    object([
        ("shares", set(host.cpu_shares)),
        ("period", period),
        ("quota", quota),
        ("cpus", text(&host.cpuset_cpus)),
        ("mems", text(&host.cpuset_mems)),
    ])
}

/// µs per period for so many 10⁻⁹ CPUs.
fn quota(nano_cpus: i64) -> i64 {
    i64::try_from(i128::from(nano_cpus) * i128::from(CPU_PERIOD) / 1_000_000_000).unwrap_or(i64::MAX)
}

fn pids(host: &HostConfig) -> Option<Value> {
    match host.pids_limit {
        // Docker's command line sends 0 when nothing was said.
        None | Some(0) => Some(json!({ "limit": DEFAULT_PIDS })),
        Some(limit) if limit > 0 => Some(json!({ "limit": limit })),
        Some(_) => Some(json!({ "limit": -1 })),
    }
}

fn block_io(host: &HostConfig) -> serde_json::Map<String, Value> {
    object([
        (
            "weight",
            (host.blkio_weight != 0).then(|| json!(host.blkio_weight)),
        ),
        ("weightDevice", list(&host.blkio_weight_device, weight)),
        ("throttleReadBpsDevice", list(&host.blkio_device_read_bps, rate)),
        ("throttleWriteBpsDevice", list(&host.blkio_device_write_bps, rate)),
        ("throttleReadIOPSDevice", list(&host.blkio_device_read_iops, rate)),
        (
            "throttleWriteIOPSDevice",
            list(&host.blkio_device_write_iops, rate),
        ),
    ])
}

fn weight(device: &WeightDevice) -> Option<Value> {
    let (major, minor) = numbers(&device.path)?;
    Some(json!({ "major": major, "minor": minor, "weight": device.weight }))
}

fn rate(device: &ThrottleDevice) -> Option<Value> {
    let (major, minor) = numbers(&device.path)?;
    Some(json!({ "major": major, "minor": minor, "rate": device.rate }))
}

/// Numbers of a device by path; absence was refused at creation.
fn numbers(path: &str) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let device = std::fs::metadata(path).ok()?.rdev();
    (device != 0).then(|| (nix::sys::stat::major(device), nix::sys::stat::minor(device)))
}

fn list<T>(items: &[T], entry: impl Fn(&T) -> Option<Value>) -> Option<Value> {
    let entries: Vec<Value> = items.iter().filter_map(entry).collect();
    (!entries.is_empty()).then(|| json!(entries))
}

fn set(value: i64) -> Option<Value> {
    (value != 0).then(|| json!(value))
}

fn text(value: &str) -> Option<Value> {
    (!value.is_empty()).then(|| json!(value))
}

/// Everything denied, then: making any node, Docker's harmless devices, terminals, FUSE denied by name, and what was asked.
fn device_rules(host: &HostConfig, devices: &[HostDevice]) -> Vec<Value> {
    if host.privileged {
        return vec![json!({ "allow": true, "access": "rwm" })];
    }
    let mut rules = vec![json!({ "allow": false, "access": "rwm" })];
    rules.extend(["c", "b"].map(|kind| json!({ "allow": true, "type": kind, "access": "m" })));
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm" }));
    }
    rules.push(json!({ "allow": true, "type": "c", "major": 136, "access": "rwm" }));
    rules.push(json!({ "allow": false, "type": "c", "major": 10, "minor": 229, "access": "rwm" }));
    rules.extend(devices.iter().map(HostDevice::rule));
    rules.extend(
        host.device_cgroup_rules
            .iter()
            .filter_map(|rule| parse_rule(rule)),
    );
    rules
}

/// `c 1:3 rwm`, `a *:* rwm`, `b 8:* r`.
fn parse_rule(rule: &str) -> Option<Value> {
    let mut words = rule.split_ascii_whitespace();
    let (kind, numbers, access) = (words.next()?, words.next()?, words.next()?);
    let (major, minor) = numbers.split_once(':')?;
    let number = |text: &str| {
        if text == "*" {
            Some(None)
        } else {
            text.parse::<u32>().ok().map(Some)
        }
    };
    let good = matches!(kind, "a" | "b" | "c")
        && access.chars().all(|c| "rwm".contains(c))
        && words.next().is_none();
    let (major, minor) = (number(major)?, number(minor)?);
    good.then(|| {
        json!(object([
            ("allow", Some(json!(true))),
            ("type", Some(json!(kind))),
            ("major", major.map(|n| json!(n))),
            ("minor", minor.map(|n| json!(n))),
            ("access", Some(json!(access))),
        ]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_become_a_quota() {
        let host = HostConfig {
            nano_cpus: 1_500_000_000,
            ..Default::default()
        };
        assert_eq!(json!(cpu(&host)), json!({ "period": 100_000, "quota": 150_000 }));
    }

    #[test]
    fn pids_are_limited_unless_told_otherwise() {
        let limit = |pids_limit| {
            pids(&HostConfig {
                pids_limit,
                ..Default::default()
            })
            .unwrap()["limit"]
                .clone()
        };
        assert_eq!(
            [limit(None), limit(Some(10)), limit(Some(0)), limit(Some(-1))],
            [4096, 10, 4096, -1]
        );
    }

    #[test]
    fn memory_with_swap() {
        let host = HostConfig {
            memory: 64 << 20,
            memory_swap: -1,
            memory_swappiness: Some(-1),
            ..Default::default()
        };
        assert_eq!(json!(memory(&host)), json!({ "limit": 64 << 20, "swap": -1 }));
    }

    #[test]
    fn device_rules_of_the_command_line() {
        assert_eq!(
            parse_rule("c 10:* rw").unwrap(),
            json!({ "allow": true, "type": "c", "major": 10, "access": "rw" })
        );
        for bad in [
            "",
            "c 1:3",
            "d 1:3 r",
            "c 1 r",
            "c 1:x r",
            "c 1:3 rx",
            "c 1:3 r w",
        ] {
            assert_eq!(parse_rule(bad), None, "{bad}");
        }
    }
}
