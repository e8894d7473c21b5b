//! The flags of `run` and `create` that are needed now and then: resources, name services, namespaces, devices.

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::run::labels;
use crate::compose;

/// Flags of a container that end up in `HostConfig`, mostly.
#[derive(Debug, Args)]
pub(crate) struct MoreFlags {
    /// Container NIS domain name
    #[arg(long)]
    pub(super) domainname: Option<String>,
    /// IPv4 address (e.g., 172.30.100.104)
    #[arg(long)]
    pub(super) ip: Option<String>,
    /// IPv6 address (e.g., 2001:db8::33)
    #[arg(long)]
    pub(super) ip6: Option<String>,
    /// Container MAC address (e.g., 92:d0:c6:0a:29:33)
    #[arg(long)]
    pub(super) mac_address: Option<String>,
    /// Expose a port or a range of ports
    #[arg(long)]
    pub(super) expose: Vec<String>,
    /// Publish all exposed ports to random ports
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Write the container ID to the file
    #[arg(long)]
    pub(super) cidfile: Option<String>,
    /// Set platform if server is multi-platform capable
    #[arg(long)]
    pub(super) platform: Option<String>,
    /// Ulimit options
    #[arg(long)]
    ulimit: Vec<String>,
    /// Add a host device to the container
    #[arg(long)]
    device: Vec<String>,
    /// Add a rule to the cgroup allowed devices list
    #[arg(long)]
    device_cgroup_rule: Vec<String>,
    /// Set custom DNS search domains
    #[arg(long)]
    dns_search: Vec<String>,
    /// Set DNS options
    #[arg(long, visible_alias = "dns-opt")]
    dns_option: Vec<String>,
    /// Add additional groups to join
    #[arg(long)]
    group_add: Vec<String>,
    /// Size of /dev/shm
    #[arg(long)]
    shm_size: Option<String>,
    /// Swap limit equal to memory plus swap: '-1' to enable unlimited swap
    #[arg(long, allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Memory soft limit
    #[arg(long)]
    memory_reservation: Option<String>,
    /// Tune container memory swappiness (0 to 100)
    #[arg(long, allow_negative_numbers = true)]
    memory_swappiness: Option<i64>,
    /// Disable OOM Killer
    #[arg(long)]
    oom_kill_disable: bool,
    /// Tune host's OOM preferences (-1000 to 1000)
    #[arg(long, allow_negative_numbers = true)]
    oom_score_adj: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(short = 'c', long)]
    cpu_shares: Option<i64>,
    /// Limit CPU CFS (Completely Fair Scheduler) period
    #[arg(long)]
    cpu_period: Option<i64>,
    /// Limit CPU CFS (Completely Fair Scheduler) quota
    #[arg(long)]
    cpu_quota: Option<i64>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long)]
    cpuset_cpus: Option<String>,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long)]
    cpuset_mems: Option<String>,
    /// Block IO (relative weight), between 10 and 1000, or 0 to disable
    #[arg(long)]
    blkio_weight: Option<u16>,
    /// PID namespace to use
    #[arg(long)]
    pid: Option<String>,
    /// IPC mode to use
    #[arg(long)]
    ipc: Option<String>,
    /// UTS namespace to use
    #[arg(long)]
    uts: Option<String>,
    /// Cgroup namespace to use (host|private)
    #[arg(long)]
    cgroupns: Option<String>,
    /// Optional parent cgroup for the container
    #[arg(long)]
    cgroup_parent: Option<String>,
    /// Add an annotation to the container (passed through to the OCI runtime)
    #[arg(long)]
    annotation: Vec<String>,
    /// Optional volume driver for the container
    #[arg(long)]
    volume_driver: Option<String>,
}

impl MoreFlags {
    /// Writes what was said into a `HostConfig`; what was not said stays out of it.
    pub(super) fn add_to(&self, host: &mut Value) -> Result<()> {
        let size = |word: &Option<String>| -> Result<Value> {
            let read = |word: &str| match word {
                "-1" => Ok(-1),
                word => compose::bytes(word).map_err(anyhow::Error::msg),
            };
            word.as_deref()
                .map_or(Ok(Value::Null), |word| read(word).map(Value::from))
        };
        let list = |words: &[String]| {
            if words.is_empty() {
                Value::Null
            } else {
                json!(words)
            }
        };
        let ulimits = self
            .ulimit
            .iter()
            .map(|word| ulimit(word))
            .collect::<Result<Vec<_>>>()?;
        let devices = self
            .device
            .iter()
            .map(|word| device(word))
            .collect::<Result<Vec<_>>>()?;
        let fields = [
            ("PublishAllPorts", json!(self.publish_all)),
            ("Ulimits", json!(ulimits)),
            ("Devices", json!(devices)),
            ("DeviceCgroupRules", list(&self.device_cgroup_rule)),
            ("DnsSearch", list(&self.dns_search)),
            ("DnsOptions", list(&self.dns_option)),
            ("GroupAdd", list(&self.group_add)),
            ("ShmSize", size(&self.shm_size)?),
            ("MemorySwap", size(&self.memory_swap)?),
            ("MemoryReservation", size(&self.memory_reservation)?),
            ("MemorySwappiness", json!(self.memory_swappiness)),
            ("OomKillDisable", json!(self.oom_kill_disable.then_some(true))),
            ("OomScoreAdj", json!(self.oom_score_adj)),
            ("CpuShares", json!(self.cpu_shares)),
            ("CpuPeriod", json!(self.cpu_period)),
            ("CpuQuota", json!(self.cpu_quota)),
            ("CpusetCpus", json!(self.cpuset_cpus)),
            ("CpusetMems", json!(self.cpuset_mems)),
            ("BlkioWeight", json!(self.blkio_weight)),
            ("PidMode", json!(self.pid)),
            ("IpcMode", json!(self.ipc)),
            ("UTSMode", json!(self.uts)),
            ("CgroupnsMode", json!(self.cgroupns)),
            ("CgroupParent", json!(self.cgroup_parent)),
            ("Annotations", json!(labels(&self.annotation))),
            ("VolumeDriver", json!(self.volume_driver)),
        ];
        for (field, value) in fields {
            if !value.is_null() {
                host[field] = value;
            }
        }
        Ok(())
    }
}

/// `nofile=1024:2048`; one number is both limits.
fn ulimit(word: &str) -> Result<Value> {
    let (name, limits) = word
        .split_once('=')
        .with_context(|| format!("invalid ulimit argument: {word}: use name=soft[:hard]"))?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| -> Result<i64> {
        text.parse()
            .with_context(|| format!("invalid ulimit argument: {word}: {text:?} is no number"))
    };
    Ok(json!({"Name": name, "Soft": number(soft)?, "Hard": number(hard)?}))
}

/// `/dev/sda:/dev/xvda:rwm`, the last two optional.
fn device(word: &str) -> Result<Value> {
    let parts: Vec<&str> = word.split(':').collect();
    let rights = |text: &str| !text.is_empty() && text.chars().all(|c| "rwm".contains(c));
    let (from, to, how) = match parts[..] {
        [path] => (path, path, "rwm"),
        [path, how] if rights(how) => (path, path, how),
        [from, to] => (from, to, "rwm"),
        [from, to, how] if rights(how) => (from, to, how),
        _ => bail!("invalid device specification: {word}"),
    };
    Ok(json!({"PathOnHost": from, "PathInContainer": to, "CgroupPermissions": how}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_devices_in_words() {
        assert_eq!(
            ulimit("nofile=1:2").unwrap(),
            json!({"Name": "nofile", "Soft": 1, "Hard": 2})
        );
        assert_eq!(ulimit("core=-1").unwrap()["Hard"], -1);
        assert!(ulimit("nofile").is_err() && ulimit("nofile=x").is_err());
        assert_eq!(device("/dev/a:r").unwrap()["PathInContainer"], "/dev/a");
        assert_eq!(device("/dev/a:/dev/b").unwrap()["CgroupPermissions"], "rwm");
        assert!(device("/dev/a:/dev/b:x").is_err());
    }
}
