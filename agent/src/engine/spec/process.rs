//! `process`: who runs, what, and with which environment and limits.

use serde_json::{Value, json};

use super::{SpecInput, object};
use crate::api::types::exec::ExecConfig;
use crate::api::types::host_config::Ulimit;
use crate::engine::caps::{self, CapabilitySet};
use crate::engine::check::{self, SecurityOptions};
use crate::engine::error::Result;
use crate::engine::mounts::clean_path;
use crate::engine::record::ContainerRecord;
use crate::engine::users::Identity;
use crate::open_files;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The first process of a container.
pub(super) fn init_process(input: &SpecInput<'_>, caps: &CapabilitySet, security: &SecurityOptions) -> Value {
    let record = input.record;
    let config = &record.config;
    let args: Vec<&String> = std::iter::once(&record.path).chain(&record.args).collect();
    let env = environment(&config.env, &[], input.hostname, config.tty, &input.identity.home);
    let [rows, cols] = record.host_config.console_size;
    json!(object([
        ("terminal", Some(json!(config.tty))),
        (
            "consoleSize",
            (config.tty && rows > 0 && cols > 0).then(|| json!({ "height": rows, "width": cols }))
        ),
        ("user", Some(user(input.identity))),
        ("args", Some(json!(args))),
        ("env", Some(json!(env))),
        ("cwd", Some(json!(working_dir(&config.working_dir)))),
        ("capabilities", Some(capabilities(caps))),
        ("rlimits", rlimits(&record.host_config.ulimits)),
        ("noNewPrivileges", Some(json!(security.no_new_privileges))),
        // Always written, so that the daemon's own value is never inherited.
        ("oomScoreAdj", Some(json!(record.host_config.oom_score_adj))),
    ]))
}

/// A further process in a running container.
///
/// # Errors
/// A setting of the container that the checks of creation would have refused too.
pub fn exec_process(
    record: &ContainerRecord,
    exec: &ExecConfig,
    identity: &Identity,
    hostname: &str,
) -> Result<Value> {
    let host = &record.host_config;
    let caps = caps::resolve(host.privileged || exec.privileged, &host.cap_add, &host.cap_drop)?;
    let security = check::security_options(&host.security_opt)?;
    let cwd = if exec.working_dir.is_empty() {
        &record.config.working_dir
    } else {
        &exec.working_dir
    };
    let [rows, cols] = exec.console_size.unwrap_or_default();
    Ok(json!(object([
        ("terminal", Some(json!(exec.tty))),
        (
            "consoleSize",
            (exec.tty && rows > 0 && cols > 0).then(|| json!({ "height": rows, "width": cols }))
        ),
        ("user", Some(user(identity))),
        ("args", Some(json!(exec.cmd))),
        (
            "env",
            Some(json!(environment(
                &record.config.env,
                &exec.env,
                hostname,
                exec.tty,
                &identity.home
            )))
        ),
        ("cwd", Some(json!(working_dir(cwd)))),
        ("capabilities", Some(capabilities(&caps))),
        ("rlimits", rlimits(&host.ulimits)),
        ("noNewPrivileges", Some(json!(security.no_new_privileges))),
        ("oomScoreAdj", Some(json!(host.oom_score_adj))),
    ])))
}

fn user(identity: &Identity) -> Value {
    json!({ "uid": identity.uid, "gid": identity.gid, "additionalGids": identity.additional })
}

fn working_dir(path: &str) -> String {
    clean_path(path).unwrap_or_else(|| "/".to_owned())
}

/// Docker's order: its own variables, then the container's, then the exec's; a later one replaces an earlier.
fn environment(config: &[String], exec: &[String], hostname: &str, tty: bool, home: &str) -> Vec<String> {
    let mut env: Vec<String> = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if tty {
        env.push("TERM=xterm".to_owned());
    }
    for entry in config.iter().chain(exec) {
        let Some((name, _)) = entry.split_once('=') else {
            continue;
        };
        match env
            .iter_mut()
            .find(|known| known.split_once('=').is_some_and(|(n, _)| n == name))
        {
            Some(known) => known.clone_from(entry),
            None => env.push(entry.clone()),
        }
    }
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={home}"));
    }
    env
}

/// Inheritable and ambient stay empty (CVE-2022-29162).
fn capabilities(caps: &CapabilitySet) -> Value {
    let names: Vec<String> = caps.iter().map(|name| format!("CAP_{name}")).collect();
    json!({ "bounding": names, "effective": names, "permitted": names })
}

fn rlimits(ulimits: &[Ulimit]) -> Option<Value> {
    let mut limits: Vec<Value> = ulimits
        .iter()
        .filter_map(|limit| {
            let kind = rlimit_name(&limit.name)?;
            Some(json!({ "type": kind, "hard": unlimited(limit.hard), "soft": unlimited(limit.soft) }))
        })
        .collect();
    if let (Some((soft, hard)), false) = (open_files::started_with(), has_open_files(ulimits)) {
        limits.push(json!({ "type": "RLIMIT_NOFILE", "hard": hard, "soft": soft }));
    }
    (!limits.is_empty()).then(|| json!(limits))
}

fn has_open_files(ulimits: &[Ulimit]) -> bool {
    ulimits.iter().any(|limit| limit.name == "nofile")
}

/// -1 is RLIM_INFINITY, all bits set (getrlimit(2)).
fn unlimited(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// The OCI name of a `--ulimit`.
pub fn rlimit_name(name: &str) -> Option<&'static str> {
    Some(match name {
        "core" => "RLIMIT_CORE",
        "cpu" => "RLIMIT_CPU",
        "data" => "RLIMIT_DATA",
        "fsize" => "RLIMIT_FSIZE",
        "locks" => "RLIMIT_LOCKS",
        "memlock" => "RLIMIT_MEMLOCK",
        "msgqueue" => "RLIMIT_MSGQUEUE",
        "nice" => "RLIMIT_NICE",
        "nofile" => "RLIMIT_NOFILE",
        "nproc" => "RLIMIT_NPROC",
        "rss" => "RLIMIT_RSS",
        "rtprio" => "RLIMIT_RTPRIO",
        "rttime" => "RLIMIT_RTTIME",
        "sigpending" => "RLIMIT_SIGPENDING",
        "stack" => "RLIMIT_STACK",
        _ => return None,
    })
}

/// The effective hostname of a container: as configured, else its short id; the host's with `--uts host`.
pub fn hostname(record: &ContainerRecord, of_host: &str) -> String {
    if record.host_config.uts_mode == "host" {
        of_host.to_owned()
    } else if record.config.hostname.is_empty() {
        record.id.short().to_owned()
    } else {
        record.config.hostname.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_in_dockers_order() {
        let config = ["A=1".to_owned(), "PATH=/x".into(), "HOSTNAME=me".into()];
        let env = environment(&config, &["A=2".into()], "box", true, "/root");
        assert_eq!(env, ["PATH=/x", "HOSTNAME=me", "TERM=xterm", "A=2", "HOME=/root"]);
    }

    #[test]
    fn a_working_directory_is_absolute_and_clean() {
        for (given, cwd) in [("", "/"), ("/a/../b/", "/b"), ("relative", "/")] {
            assert_eq!(working_dir(given), cwd);
        }
    }
}
