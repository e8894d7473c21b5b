//! Mounts in their short and long forms, their order, and what is refused.

use super::*;
use crate::api::types::config::Empty;
use crate::api::types::host_config::TmpfsOptions;

fn host(binds: &[&str]) -> HostConfig {
    HostConfig {
        binds: binds.iter().map(|b| (*b).to_owned()).collect(),
        ..Default::default()
    }
}

#[test]
fn short_syntax() {
    let plans = plan(
        &ContainerConfig::default(),
        &host(&["/src/../a:/x/y:ro", "data:/x", "/anon"]),
    )
    .unwrap();
    assert_eq!(
        plans.iter().map(|p| p.destination.as_str()).collect::<Vec<_>>(),
        ["/x", "/anon", "/x/y"]
    );
    assert!(
        matches!(&plans[0].source, PlanSource::Volume { name: Some(name), copy: true, .. } if name == "data")
    );
    assert!(matches!(&plans[1].source, PlanSource::Volume { name: None, .. }));
    assert!(matches!(&plans[2].source, PlanSource::Bind { path, create: true, .. } if path == "/a"));
    assert!(plans[2].read_only && !plans[0].read_only);
}

#[test]
fn bad_mounts_are_named() {
    for bad in [
        "a:b",
        "x:/a:oops",
        ":/a",
        "/a:/b:c:d",
        "vol:/a:rshared",
        "/a:/",
        "/a:/proc",
        "/a:/sys/",
    ] {
        assert!(plan(&ContainerConfig::default(), &host(&[bad])).is_err(), "{bad}");
    }
    let error = plan(&ContainerConfig::default(), &host(&["/a:/x", "b:/x/"]))
        .unwrap_err()
        .to_string();
    assert_eq!(error, "Duplicate mount point: /x");
    let mount = Mount {
        kind: "npipe".into(),
        target: "/p".into(),
        ..Default::default()
    };
    let error = from_mount(&mount).unwrap_err().to_string();
    assert!(error.contains("npipe"), "{error}");
}

#[test]
fn image_volumes_become_anonymous_unless_covered() {
    let mut config = ContainerConfig::default();
    config.volumes.insert("/data/".into(), Empty {});
    config.volumes.insert("/cache".into(), Empty {});
    let plans = plan(&config, &host(&["mine:/data"])).unwrap();
    assert_eq!(plans.len(), 2);
    let covered = plans.iter().find(|p| p.destination == "/data").unwrap();
    assert!(matches!(
        &covered.source,
        PlanSource::Volume { name: Some(_), .. }
    ));
}

#[test]
fn tmpfs_defaults_yield_to_the_user() {
    let mount = Mount {
        kind: "tmpfs".into(),
        target: "/t".into(),
        tmpfs_options: Some(TmpfsOptions {
            size_bytes: 4096,
            mode: 0o1777,
            options: vec![vec!["exec".into()]],
        }),
        ..Default::default()
    };
    let PlanSource::Tmpfs { options } = from_mount(&mount).unwrap().source else {
        panic!("not a tmpfs")
    };
    assert_eq!(options, ["nosuid", "nodev", "exec", "size=4096", "mode=1777"]);
}
