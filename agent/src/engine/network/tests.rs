//! What a container asks of netd, and how the answer looks in Docker's words.

use super::*;
use crate::api::types::network_settings::EndpointIpamConfig;
use crate::engine::record::tests::sample;
use std::path::PathBuf;

fn known() -> Vec<NetworkConfig> {
    [
        ("aaaa1111", "bridge"),
        ("aaaa2222", "back"),
        ("bbbb3333", "front"),
    ]
    .map(|(id, name)| NetworkConfig {
        id: id.into(),
        name: name.into(),
        ..Default::default()
    })
    .into()
}

fn host(mode: &str) -> HostConfig {
    HostConfig {
        network_mode: mode.into(),
        ..Default::default()
    }
}

fn networking(names: &[&str]) -> NetworkingConfig {
    NetworkingConfig {
        endpoints_config: names.iter().map(|n| ((*n).to_owned(), None)).collect(),
    }
}

#[test]
fn a_network_is_found_by_id_name_or_prefix() {
    assert_eq!(find(&known(), "back").unwrap().id, "aaaa2222");
    assert_eq!(find(&known(), "bbbb").unwrap().name, "front");
    for text in ["aaaa", "", "nope"] {
        assert!(
            matches!(find(&known(), text), Err(EngineError::NoSuchNetwork(_))),
            "{text}"
        );
    }
}

#[test]
fn the_modes_network_comes_first() {
    let mut record = sample();
    record.host_config = host("front");
    record.networks = wanted(&record.config, &record.host_config, networking(&["back"])).unwrap();
    record.networks.get_mut("back").unwrap().aliases = vec!["db".into(), "web".into()];
    let request = request(&record, "box", &known(), &Places::new()).unwrap();
    assert_eq!(request.endpoints[0].network, "bbbb3333");
    assert_eq!(request.endpoints[1].network, "aaaa2222");
    assert_eq!(request.endpoints[1].aliases, ["web", "db", record.id.short()]);
}

#[test]
fn modes_without_endpoints() {
    let config = ContainerConfig::default();
    for mode in ["none", "host", "container:x"] {
        assert!(
            wanted(&config, &host(mode), networking(&[mode]))
                .unwrap()
                .is_empty(),
            "{mode}"
        );
        assert!(
            wanted(&config, &host(mode), networking(&["back"])).is_err(),
            "{mode}"
        );
    }
    let off = ContainerConfig {
        network_disabled: true,
        ..Default::default()
    };
    assert_eq!(NetworkMode::of(&off, &host("bridge")), NetworkMode::None);
    assert_eq!(
        wanted(&config, &host("default"), networking(&[]))
            .unwrap()
            .keys()
            .collect::<Vec<_>>(),
        ["bridge"]
    );
}

#[test]
fn bad_endpoints_are_refused() {
    let with = |endpoint: EndpointSettings| {
        let networking = NetworkingConfig {
            endpoints_config: [("back".to_owned(), Some(endpoint))].into(),
        };
        wanted(&ContainerConfig::default(), &host("back"), networking)
    };
    let ipam = |v4: &str, v6: &str| EndpointSettings {
        ipam_config: Some(EndpointIpamConfig {
            ipv4_address: v4.into(),
            ipv6_address: v6.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert!(with(ipam("10.0.0.9", "")).is_ok());
    assert!(with(ipam("10.0.0", "")).is_err());
    assert!(with(ipam("", "fd00::9")).is_ok());
    assert!(with(ipam("", "fd00::9::1")).is_err());
    assert!(
        with(EndpointSettings {
            mac_address: "nonsense".into(),
            ..Default::default()
        })
        .is_err()
    );
}

#[test]
fn what_netd_did_in_dockers_words() {
    let mut record = sample();
    record.networks = [("back".to_owned(), EndpointSettings::default())].into();
    let sandbox = Sandbox {
        netns: PathBuf::from("/run/netns/x"),
        endpoints: vec![Endpoint {
            network: "aaaa2222".into(),
            interface: "eth0".into(),
            mac: Mac::from_ipv4([10, 0, 0, 2].into()),
            ipv4: [10, 0, 0, 2].into(),
            prefix_len: 24,
            gateway: [10, 0, 0, 1].into(),
            ipv6: Some(netd::Ipv6Endpoint {
                address: "fd00::2".parse().unwrap(),
                prefix_len: 64,
                gateway: "fd00::1".parse().unwrap(),
            }),
            aliases: vec![],
        }],
        published: vec![],
        nameserver: [10, 0, 0, 1].into(),
        search: vec![],
        options: vec![],
    };
    let back = &attached(&record, &sandbox, &known())["back"];
    assert_eq!(
        (
            back.global_ipv6_address.as_str(),
            back.ipv6_gateway.as_str(),
            back.global_ipv6_prefix_len
        ),
        ("fd00::2", "fd00::1", 64)
    );
    assert_eq!(
        (
            back.ip_address.as_str(),
            back.gateway.as_str(),
            back.ip_prefix_len
        ),
        ("10.0.0.2", "10.0.0.1", 24)
    );
    assert_eq!(
        (back.network_id.as_str(), back.endpoint_id.len()),
        ("aaaa2222", 64)
    );
}
