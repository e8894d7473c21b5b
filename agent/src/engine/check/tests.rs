//! What is refused at creation, by which words, and which defaults are filled in.

use super::*;
use crate::api::types::host_config::LogConfig;

fn refused(change: impl FnOnce(&mut HostConfig)) -> String {
    let mut host = HostConfig::default();
    change(&mut host);
    check(&ContainerConfig::default(), &with_defaults(host))
        .unwrap_err()
        .to_string()
}

#[test]
fn defaults_pass() {
    let host = with_defaults(HostConfig::default());
    check(&ContainerConfig::default(), &host).unwrap();
    assert_eq!((host.network_mode.as_str(), host.shm_size), ("bridge", 64 << 20));
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    assert!(refused(|h| h.init = Some(true)).contains("HostConfig.Init"));
    assert!(refused(|h| h.links.push("a:b".into())).contains("HostConfig.Links"));
    assert!(refused(|h| h.volumes_from.push("a".into())).contains("HostConfig.VolumesFrom"));
    assert!(refused(|h| h.userns_mode = "keep-id".into()).contains("UsernsMode"));
    assert!(refused(|h| h.ipc_mode = "container:x".into()).contains("IpcMode"));
    assert!(refused(|h| h.security_opt.push("seccomp={}".into())).contains("seccomp={}"));
    assert!(refused(|h| h.log_config.driver = "syslog".into()).contains("syslog"));
}

#[test]
fn limits_are_checked() {
    assert!(refused(|h| h.memory = 1024).contains("6MB"));
    assert!(refused(|h| (h.memory, h.memory_swap) = (64 << 20, 1)).contains("memoryswap"));
    assert!(refused(|h| (h.nano_cpus, h.cpu_quota) = (1, 5000)).contains("Nano CPUs"));
    assert!(refused(|h| h.oom_score_adj = 1001).contains("oom score"));
    assert!(refused(|h| h.cgroup_parent = "/a/../b".into()).contains("cgroup parent"));
    assert!(
        refused(|h| h.ulimits.push(Ulimit {
            name: "nofiles".into(),
            hard: 1,
            soft: 1
        }))
        .contains("nofiles")
    );
}

#[test]
fn log_options() {
    let with = |pairs: &[(&str, &str)]| HostConfig {
        log_config: LogConfig {
            driver: "json-file".into(),
            config: pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        },
        ..Default::default()
    };
    assert_eq!(
        log_limits(&with(&[("max-size", "10m"), ("max-file", "3")])).unwrap(),
        (Some(10 << 20), Some(3))
    );
    for bad in [
        &[("max-size", "x")][..],
        &[("max-size", "1m"), ("max-file", "0")],
        &[("max-file", "2")],
    ] {
        assert!(log_limits(&with(bad)).is_err(), "{bad:?}");
    }
    assert!(
        check_logging(&with(&[("colour", "red")]))
            .unwrap_err()
            .to_string()
            .contains("colour")
    );
    assert_eq!(parse_size("1.5kb"), Some(1536));
}

#[test]
fn health_and_env_are_checked() {
    let health = HealthConfig {
        test: vec!["CURL".into()],
        ..Default::default()
    };
    assert!(check_health(&health).unwrap_err().to_string().contains("CURL"));
    let health = HealthConfig {
        interval: 5,
        ..Default::default()
    };
    assert!(
        check_health(&health)
            .unwrap_err()
            .to_string()
            .contains("Interval")
    );
    let config = ContainerConfig {
        env: vec!["=x".into()],
        ..Default::default()
    };
    assert!(check_config(&config).is_err());
}
