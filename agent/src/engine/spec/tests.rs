//! The OCI configuration of a container, read back through the specification's types.

use super::*;
use crate::api::types::host_config::HostConfig;
use crate::engine::check::with_defaults;
use crate::engine::mounts::{MountSource, ResolvedMount};
use crate::engine::record::tests::sample;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

fn spec_of(change: impl FnOnce(&mut ContainerRecord)) -> Value {
    let mut record = sample();
    record.host_config = with_defaults(HostConfig::default());
    change(&mut record);
    let identity = Identity {
        uid: 1000,
        gid: 1001,
        additional: vec![10],
        home: "/home/app".into(),
    };
    let input = SpecInput {
        record: &record,
        identity: &identity,
        hostname: "box",
        cgroup: "/shoal/abc".into(),
        network: NetworkNamespace::Path("/run/netns/abc".into()),
        pid_namespace: None,
        etc_files: vec![("/state/hosts".into(), "/etc/hosts")],
        injected: vec![("/run/files/0".into(), "/run/secrets/key".into())],
        devices: Vec::new(),
    };
    build(&input).unwrap()
}

fn typed(value: Value) -> Spec {
    serde_json::from_value(value).expect("a specification that the OCI types can read")
}

#[test]
fn the_default_container_is_dockers() {
    let spec = typed(spec_of(|_| {}));
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.args().as_deref().unwrap(), ["/bin/sh", "-c", "true"]);
    assert_eq!((process.user().uid(), process.user().gid()), (1000, 1001));
    assert_eq!(process.user().additional_gids().as_deref().unwrap(), [10]);
    assert_eq!(process.no_new_privileges(), Some(false));
    assert_eq!(process.oom_score_adj(), Some(0));
    let caps = process.capabilities().as_ref().unwrap();
    assert_eq!(caps.bounding().as_ref().unwrap().len(), 14);
    assert!(caps.inheritable().as_ref().is_none_or(|set| set.is_empty()));
    assert!(caps.ambient().as_ref().is_none_or(|set| set.is_empty()));
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.masked_paths().as_ref().unwrap().len(), 12);
    assert_eq!(linux.readonly_paths().as_ref().unwrap().len(), 5);
    assert!(linux.seccomp().is_some());
    assert_eq!(spec.hostname().as_deref(), Some("box"));
    let mut kinds: Vec<String> = linux
        .namespaces()
        .iter()
        .flatten()
        .map(|ns| ns.typ().to_string())
        .collect();
    kinds.sort();
    assert_eq!(kinds, ["cgroup", "ipc", "mnt", "net", "pid", "uts"]);
}

#[test]
fn mounts_come_in_order_with_files_and_secrets() {
    let spec = spec_of(|record| {
        record.mounts = vec![ResolvedMount {
            destination: "/data".into(),
            read_only: true,
            source: MountSource::Volume {
                name: "v".into(),
                driver: "local".into(),
                path: "/vol/v/_data".into(),
                anonymous: false,
            },
            mode: String::new(),
        }];
    });
    let destinations: Vec<&str> = spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["destination"].as_str().unwrap())
        .collect();
    assert_eq!(
        destinations,
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/sys",
            "/sys/fs/cgroup",
            "/dev/mqueue",
            "/dev/shm",
            "/etc/hosts",
            "/data",
            "/run/secrets/key"
        ]
    );
    assert_eq!(spec["mounts"][8]["options"], json!(["rbind", "rprivate", "ro"]));
    assert_eq!(spec["mounts"][9]["options"], json!(["bind", "rprivate", "ro"]));
    typed(spec);
}

#[test]
fn a_user_mount_replaces_a_default_one() {
    let spec = spec_of(|record| {
        record.mounts = vec![ResolvedMount {
            destination: "/dev/shm".into(),
            read_only: false,
            source: MountSource::Tmpfs {
                options: vec!["size=1m".into()],
            },
            mode: String::new(),
        }];
    });
    let count = spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|m| m["destination"] == "/dev/shm")
        .count();
    assert_eq!(count, 1);
}

#[test]
fn privileged_opens_everything() {
    let spec = spec_of(|record| record.host_config.privileged = true);
    assert_eq!(spec["linux"]["maskedPaths"], json!([]));
    assert_eq!(spec["linux"]["readonlyPaths"], json!([]));
    assert!(spec["linux"].get("seccomp").is_none());
    assert_eq!(
        spec["linux"]["resources"]["devices"],
        json!([{ "allow": true, "access": "rwm" }])
    );
    let caps = typed(spec)
        .process()
        .as_ref()
        .unwrap()
        .capabilities()
        .clone()
        .unwrap();
    // All that this process holds itself, which depends on the machine.
    let effective = caps.effective().as_ref().unwrap();
    assert_eq!(
        effective.len(),
        crate::engine::caps::resolve(true, &[], &[]).unwrap().len()
    );
    assert!(effective.contains(&oci_spec::runtime::Capability::SysAdmin));
}

#[test]
fn devices_are_denied_by_default() {
    let spec = spec_of(|_| {});
    let rules = spec["linux"]["resources"]["devices"].as_array().unwrap();
    assert_eq!(rules[0], json!({ "allow": false, "access": "rwm" }));
    let granted = rules
        .iter()
        .any(|r| r["allow"] == true && r["major"] == 1 && r["minor"] == 11);
    assert!(!granted, "/dev/kmsg");
}

#[test]
fn shared_namespaces_are_not_made() {
    let spec = typed(spec_of(|record| {
        record.host_config.pid_mode = "host".into();
        record.host_config.ipc_mode = "host".into();
        record.host_config.uts_mode = "host".into();
        record.host_config.cgroupns_mode = "host".into();
    }));
    let kinds: Vec<LinuxNamespaceType> = spec
        .linux()
        .as_ref()
        .unwrap()
        .namespaces()
        .iter()
        .flatten()
        .map(|ns| ns.typ())
        .collect();
    assert_eq!(kinds, [LinuxNamespaceType::Mount, LinuxNamespaceType::Network]);
    assert_eq!(spec.hostname(), &None);
}

#[test]
fn propagation_of_binds_reaches_the_root() {
    let with = |propagation: &str| {
        let spec = spec_of(|record| {
            record.mounts = vec![ResolvedMount {
                destination: "/m".into(),
                read_only: false,
                source: MountSource::Bind {
                    path: "/m".into(),
                    propagation: propagation.into(),
                    recursive: true,
                },
                mode: String::new(),
            }];
        });
        spec["linux"]["rootfsPropagation"].clone()
    };
    assert_eq!(
        [with("rprivate"), with("rslave"), with("shared")],
        [Value::Null, json!("rslave"), json!("shared")]
    );
}
