//! What a create request asks of this machine: defaults filled in, limits checked, and whatever is not built refused by the
//! name of its field. Pure.

use super::error::{EngineError, Result};
use super::restart::RestartPolicy;
use super::{caps, etc_files, signals, spec, sysctls};
use crate::api::types::config::{ContainerConfig, HealthConfig};
use crate::api::types::host_config::{HostConfig, Ulimit};

/// Docker's smallest memory limit, bytes.
const SMALLEST_MEMORY: i64 = 6 << 20;
/// What `info` calls the one runtime there is, and `--runtime` may say.
pub const RUNTIME: &str = "shoal";
const DEFAULT_SHM: i64 = 64 << 20;

/// Log options that the json-file driver knows here.
const LOG_OPTIONS: [&str; 2] = ["max-size", "max-file"];

/// Fills in what Docker fills in, so that `inspect` shows the effective settings.
pub fn with_defaults(mut host: HostConfig) -> HostConfig {
    default_to(&mut host.network_mode, "bridge");
    if host.network_mode == "default" {
        host.network_mode = "bridge".into();
    }
    default_to(&mut host.ipc_mode, "private");
    default_to(&mut host.cgroupns_mode, "private");
    default_to(&mut host.log_config.driver, "json-file");
    default_to(&mut host.restart_policy.name, "no");
    default_to(&mut host.runtime, RUNTIME);
    if host.shm_size == 0 {
        host.shm_size = DEFAULT_SHM;
    }
    if host.memory > 0 && host.memory_swap == 0 {
        host.memory_swap = host.memory.saturating_mul(2);
    }
    host
}

fn default_to(value: &mut String, default: &str) {
    if value.is_empty() {
        value.push_str(default);
    }
}

/// Checks a request whose defaults are filled in.
///
/// # Errors
/// [`EngineError::Invalid`] for nonsense, [`EngineError::Unsupported`] for what is not built; both name the field.
pub fn check(config: &ContainerConfig, host: &HostConfig) -> Result<()> {
    refuse_unbuilt(host)?;
    check_modes(host)?;
    check_security(host)?;
    check_resources(host)?;
    check_logging(host)?;
    check_config(config)?;
    sysctls::check(host)?;
    etc_files::check(host)?;
    spec::check_devices(host)?;
    host.ulimits.iter().try_for_each(check_ulimit)?;
    caps::resolve(host.privileged, &host.cap_add, &host.cap_drop)?;
    let policy = RestartPolicy::parse(&host.restart_policy)?;
    if host.auto_remove && policy != RestartPolicy::No {
        return Err(EngineError::Invalid(
            "can't create 'AutoRemove' container with restart policy".into(),
        ));
    }
    Ok(())
}

/// What is granted otherwise than it was asked, in Docker's words.
pub fn warnings(host: &HostConfig) -> Vec<String> {
    let published =
        host.publish_all_ports || host.port_bindings.values().flatten().flatten().next().is_some();
    let mut warnings = Vec::new();
    if host.network_mode == "host" && published {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    if host.oom_kill_disable == Some(true) && host.memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running \
             out of resources."
                .to_owned(),
        );
    }
    warnings
}

fn refuse_unbuilt(host: &HostConfig) -> Result<()> {
    let asked: [(&str, bool); 18] = [
        ("VolumesFrom", !host.volumes_from.is_empty()),
        ("Links", !host.links.is_empty()),
        ("DeviceRequests", !host.device_requests.is_empty()),
        ("Cgroup", !host.cgroup.is_empty()),
        ("StorageOpt", !host.storage_opt.is_empty()),
        (
            "VolumeDriver",
            !matches!(host.volume_driver.as_str(), "" | "local"),
        ),
        (
            "Runtime",
            !matches!(host.runtime.as_str(), RUNTIME | "runc" | "io.containerd.runc.v2"),
        ),
        ("Isolation", !matches!(host.isolation.as_str(), "" | "default")),
        ("Init", host.init == Some(true)),
        ("CpuRealtimePeriod", host.cpu_realtime_period != 0),
        ("CpuRealtimeRuntime", host.cpu_realtime_runtime != 0),
        ("CpuCount", host.cpu_count != 0),
        ("CpuPercent", host.cpu_percent != 0),
        ("IOMaximumIOps", host.io_maximum_iops != 0),
        ("IOMaximumBandwidth", host.io_maximum_bandwidth != 0),
        ("KernelMemory", host.kernel_memory > 0),
        ("KernelMemoryTCP", host.kernel_memory_tcp > 0),
        ("UsernsMode", !matches!(host.userns_mode.as_str(), "" | "host")),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(unbuilt(field)),
        None => Ok(()),
    }
}

fn unbuilt(field: &str) -> EngineError {
    EngineError::Unsupported(format!("HostConfig.{field} is not supported by this engine"))
}

fn check_modes(host: &HostConfig) -> Result<()> {
    let known = |field: &str, value: &str, words: &[&str]| match words.contains(&value) {
        true => Ok(()),
        false => Err(EngineError::Unsupported(format!(
            "HostConfig.{field} {value:?} is not supported by this engine"
        ))),
    };
    known(
        "IpcMode",
        &host.ipc_mode,
        &["private", "shareable", "none", "host"],
    )?;
    known("CgroupnsMode", &host.cgroupns_mode, &["private", "host"])?;
    known("UTSMode", &host.uts_mode, &["", "host"])?;
    let pid = host
        .pid_mode
        .strip_prefix("container:")
        .map_or(host.pid_mode.as_str(), |_| "");
    known("PidMode", pid, &["", "private", "host"])?;
    if host.network_mode == "host" || host.network_mode.starts_with("container:") {
        let published = host.port_bindings.values().flatten().flatten().next().is_some();
        if published && host.network_mode != "host" {
            return Err(EngineError::Invalid(
                "conflicting options: port publishing and the container type network mode".into(),
            ));
        }
    }
    Ok(())
}

/// Seccomp and privilege options of `--security-opt`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SecurityOptions {
    pub no_new_privileges: bool,
    pub seccomp_unconfined: bool,
}

/// Reads `--security-opt`.
///
/// # Errors
/// An option that is not built, named.
pub fn security_options(options: &[String]) -> Result<SecurityOptions> {
    let mut read = SecurityOptions::default();
    for option in options {
        let (key, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
        match (key, value) {
            ("no-new-privileges", "" | "true") => read.no_new_privileges = true,
            ("no-new-privileges", "false") => read.no_new_privileges = false,
            ("seccomp", "unconfined") => read.seccomp_unconfined = true,
            ("seccomp", "builtin") => read.seccomp_unconfined = false,
            // Neither AppArmor nor SELinux labels are applied, so asking for none is granted.
            ("apparmor", "unconfined") | ("label", "disable") => {}
            _ => {
                let shown: String = option.chars().take(40).collect();
                return Err(EngineError::Unsupported(format!(
                    "HostConfig.SecurityOpt {shown:?} is not supported by this engine"
                )));
            }
        }
    }
    Ok(read)
}

fn check_security(host: &HostConfig) -> Result<()> {
    security_options(&host.security_opt)?;
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(EngineError::Invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    let parent = &host.cgroup_parent;
    if parent.split('/').any(|part| part == "..") || parent.contains('\0') {
        return Err(EngineError::Invalid(format!("invalid cgroup parent {parent:?}")));
    }
    Ok(())
}

fn check_resources(host: &HostConfig) -> Result<()> {
    let invalid = |text: String| Err(EngineError::Invalid(text));
    if host.memory != 0 && host.memory < SMALLEST_MEMORY {
        return invalid("Minimum memory limit allowed is 6MB".into());
    }
    if host.memory > 0 && host.memory_swap != -1 && host.memory_swap < host.memory {
        return invalid("Minimum memoryswap limit should be larger than memory limit, see usage".into());
    }
    if host.memory == 0 && host.memory_swap > 0 {
        return invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage".into(),
        );
    }
    if host.memory > 0 && host.memory_reservation > host.memory {
        return invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage".into(),
        );
    }
    if host.memory_swappiness.is_some_and(|s| !(-1..=100).contains(&s)) {
        return invalid("Invalid memory swappiness, valid range is 0-100".into());
    }
    if host.nano_cpus < 0 || host.nano_cpus > 0 && (host.cpu_period > 0 || host.cpu_quota > 0) {
        return invalid("Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set".into());
    }
    if host.cpu_period != 0 && !(1_000..=1_000_000).contains(&host.cpu_period) {
        return invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)".into(),
        );
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1_000 {
        return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)".into());
    }
    if host.cpu_shares < 0 || host.shm_size < 0 {
        return invalid("CpuShares and ShmSize can not be negative".into());
    }
    if host.blkio_weight != 0 && !(10..=1000).contains(&host.blkio_weight) {
        return invalid("Range of blkio weight is from 10 to 1000".into());
    }
    Ok(())
}

fn check_logging(host: &HostConfig) -> Result<()> {
    match host.log_config.driver.as_str() {
        "json-file" => {}
        "none" if host.log_config.config.is_empty() => {}
        "none" => return Err(EngineError::Invalid("log driver none takes no options".into())),
        other => {
            return Err(EngineError::Unsupported(format!(
                "logger: no log driver named '{other}' is registered; use json-file or none"
            )));
        }
    }
    if let Some(option) = host
        .log_config
        .config
        .keys()
        .find(|key| !LOG_OPTIONS.contains(&key.as_str()))
    {
        return Err(EngineError::Invalid(format!(
            "unknown log opt '{option}' for json-file log driver"
        )));
    }
    log_limits(host).map(drop)
}

/// `max-size` in bytes and `max-file` of the json-file driver.
///
/// # Errors
/// A malformed option, named.
pub fn log_limits(host: &HostConfig) -> Result<(Option<u64>, Option<u32>)> {
    let options = &host.log_config.config;
    let size = match options.get("max-size").map(String::as_str) {
        None | Some("-1") => None,
        Some(text) => Some(parse_size(text).ok_or_else(|| invalid_option("max-size", text))?),
    };
    let files = match options.get("max-file") {
        None => None,
        Some(text) => Some(
            text.parse()
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| invalid_option("max-file", text))?,
        ),
    };
    if files.is_some_and(|n| n > 1) && size.is_none() {
        return Err(EngineError::Invalid(
            "log opt max-file needs max-size to be set too".into(),
        ));
    }
    Ok((size, files))
}

fn invalid_option(name: &str, text: &str) -> EngineError {
    EngineError::Invalid(format!("invalid value {text:?} for log opt {name}"))
}

/// `10m`, `1.5g`, `512k`, `100`: powers of 1024, as Docker reads sizes.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower
        .trim_end_matches(|c: char| c.is_ascii_alphabetic())
        .trim_end();
    let factor: u64 = match lower[digits.len()..]
        .trim()
        .trim_end_matches('b')
        .trim_end_matches('i')
    {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return None,
    };
    let number: f64 = digits.parse().ok().filter(|n: &f64| n.is_finite() && *n > 0.0)?;
    Some((number * factor as f64) as u64)
}

fn check_config(config: &ContainerConfig) -> Result<()> {
    signals::parse_or(&config.stop_signal, signals::SIGTERM)?;
    if let Some(entry) = config
        .env
        .iter()
        .find(|e| e.is_empty() || e.starts_with('=') || e.contains('\0'))
    {
        return Err(EngineError::Invalid(format!(
            "invalid environment variable: {entry:?}"
        )));
    }
    if !config.working_dir.is_empty() && super::mounts::clean_path(&config.working_dir).is_none() {
        return Err(EngineError::Invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    for (field, name) in [("hostname", &config.hostname), ("domainname", &config.domainname)] {
        if name.len() > 64 || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(EngineError::Invalid(format!("invalid {field} {name:?}")));
        }
    }
    config.healthcheck.as_ref().map_or(Ok(()), check_health)
}

fn check_health(health: &HealthConfig) -> Result<()> {
    for (name, value) in [
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ] {
        if value != 0 && value < 1_000_000 {
            return Err(EngineError::Invalid(format!(
                "{name} in Healthcheck cannot be less than 1ms"
            )));
        }
    }
    if health.retries < 0 {
        return Err(EngineError::Invalid(
            "Retries in Healthcheck cannot be negative".into(),
        ));
    }
    match health.test.first().map(String::as_str) {
        None | Some("" | "NONE" | "CMD" | "CMD-SHELL") => Ok(()),
        Some(other) => Err(EngineError::Invalid(format!(
            "unknown healthcheck type {other:?}: use NONE, CMD or CMD-SHELL"
        ))),
    }
}

fn check_ulimit(limit: &Ulimit) -> Result<()> {
    if spec::rlimit_name(&limit.name).is_none() {
        return Err(EngineError::Invalid(format!(
            "invalid ulimit type: {}",
            limit.name
        )));
    }
    if limit.hard != -1 && (limit.soft == -1 || limit.soft > limit.hard) {
        return Err(EngineError::Invalid(format!(
            "ulimit soft limit must be less than or equal to hard limit: {} > {}",
            limit.soft, limit.hard
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
