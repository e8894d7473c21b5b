//! `inspect`: a container in Docker's JSON, complete enough for `docker inspect`, Compose, Traefik and dashboards.

use std::collections::BTreeMap;

use netd::NetworkConfig;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::container::Container;
use super::error::{EngineError, Result};
use super::network::{self, NetworkMode};
use super::record::ContainerRecord;
use super::state::{ContainerState, Status};
use super::{Engine, blocking, probe};
use crate::api::types::host_config::PortMap;
use crate::api::types::inspect::{ContainerInspect, GraphDriver, InspectState};
use crate::api::types::network_settings::{EndpointSettings, NetworkSettings};

/// Go's zero time, which Docker shows for "never".
const NEVER: &str = "0001-01-01T00:00:00Z";

impl Engine {
    /// Everything about one container; `size` also measures its filesystem.
    ///
    /// # Errors
    /// No such container, or its filesystem cannot be measured.
    pub async fn inspect(&self, name: &str, size: bool) -> Result<ContainerInspect> {
        let container = self.registry.find(name)?;
        let record = container.record();
        let sizes = if size {
            Some(self.sizes(&record).await?)
        } else {
            None
        };
        let path = |file: &str| container.paths.dir.join(file).to_string_lossy().into_owned();
        let execs = self.execs_of(&container.id);
        Ok(ContainerInspect {
            id: record.id.to_string(),
            created: rfc3339(Some(record.created)),
            path: record.path.clone(),
            args: record.args.clone(),
            state: describe_state(&record.state),
            image: record.image_id.clone(),
            resolv_conf_path: path("resolv.conf"),
            hostname_path: path("hostname"),
            hosts_path: path("hosts"),
            log_path: log_path(&container, &record),
            name: format!("/{}", record.name),
            restart_count: i64::from(record.state.restart_count),
            driver: "overlay2".into(),
            platform: "linux".into(),
            exec_ids: (!execs.is_empty()).then_some(execs),
            host_config: record.host_config.clone(),
            graph_driver: self.graph_driver(&record).await,
            size_rw: sizes.map(|(own, _)| own),
            size_root_fs: sizes.map(|(_, all)| all),
            mounts: record.mounts.iter().map(|mount| mount.describe()).collect(),
            config: record.config.clone(),
            network_settings: self.network_settings(&record),
            ..Default::default()
        })
    }

    /// Bytes in the writable layer, and with the image.
    pub(crate) async fn sizes(&self, record: &ContainerRecord) -> Result<(i64, i64)> {
        let (storage, id, image) = (
            self.config.storage.clone(),
            record.id.clone(),
            record.image_id.clone(),
        );
        blocking(move || {
            let own = storage.snapshots().usage(id.as_str());
            let own = own.map_err(EngineError::storage("measure the writable layer"))?;
            // An image that was removed by force no longer counts.
            let image = storage.images().get(&image).map_or(0, |image| image.size);
            let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
            Ok((signed(own), signed(own.saturating_add(image))))
        })
        .await
    }

    async fn graph_driver(&self, record: &ContainerRecord) -> GraphDriver {
        let (storage, id) = (self.config.storage.clone(), record.id.clone());
        let paths = blocking(move || {
            storage
                .snapshots()
                .mounts(id.as_str())
                .map_err(EngineError::storage("find the root file system"))
        })
        .await;
        let data = paths.map(|paths| {
            let lower: Vec<_> = paths.lower.iter().map(|path| path.to_string_lossy()).collect();
            BTreeMap::from([
                ("LowerDir".to_owned(), lower.join(":")),
                ("UpperDir".to_owned(), paths.upper.to_string_lossy().into_owned()),
                ("WorkDir".to_owned(), paths.work.to_string_lossy().into_owned()),
            ])
        });
        GraphDriver {
            name: "overlay2".into(),
            data: data.unwrap_or_default(),
        }
    }

    /// Networks and ports, with the legacy fields of the default bridge.
    pub(crate) fn network_settings(&self, record: &ContainerRecord) -> NetworkSettings {
        let networks = networks(record, &self.known_networks());
        let running = record.state.status == Status::Running;
        let own = !matches!(
            NetworkMode::of(&record.config, &record.host_config),
            NetworkMode::Host | NetworkMode::Container(_)
        );
        let sandbox = self.config.run_dir.join("netns").join(record.id.as_str());
        let default = networks
            .get(network::DEFAULT_NETWORK)
            .cloned()
            .unwrap_or_default();
        NetworkSettings {
            sandbox_id: if running {
                record.id.to_string()
            } else {
                String::new()
            },
            sandbox_key: if running && own {
                sandbox.to_string_lossy().into_owned()
            } else {
                String::new()
            },
            ports: if running {
                all_ports(record)
            } else {
                PortMap::new()
            },
            endpoint_id: default.endpoint_id,
            gateway: default.gateway,
            ip_address: default.ip_address,
            ip_prefix_len: default.ip_prefix_len,
            ipv6_gateway: default.ipv6_gateway,
            global_ipv6_address: default.global_ipv6_address,
            global_ipv6_prefix_len: default.global_ipv6_prefix_len,
            mac_address: default.mac_address,
            networks,
            ..Default::default()
        }
    }
}

/// Endpoints as they are, or, of a container that does not run, as wanted, by the names of their networks. A task's are recorded
/// by identifiers: two networks of a cluster may have one name. A mode without networks is shown as one of its name.
pub(crate) fn networks(
    record: &ContainerRecord,
    known: &[NetworkConfig],
) -> BTreeMap<String, EndpointSettings> {
    let endpoints = record.networks.iter().chain(&record.attached);
    let mut networks: BTreeMap<_, _> = endpoints
        .map(|(key, endpoint)| (network_name(key, known).to_owned(), endpoint.clone()))
        .collect();
    if networks.is_empty() && matches!(record.host_config.network_mode.as_str(), "none" | "host") {
        networks.insert(
            record.host_config.network_mode.clone(),
            EndpointSettings::default(),
        );
    }
    networks
}

/// The name of a network that a record knows by its identifier or its name.
pub(crate) fn network_name<'a>(key: &'a str, known: &'a [NetworkConfig]) -> &'a str {
    let network = known.iter().find(|network| network.id == key);
    network.map_or(key, |network| &network.name)
}

/// Published ports, and exposed ones with null.
pub(crate) fn all_ports(record: &ContainerRecord) -> PortMap {
    let mut ports = record.ports.clone();
    for (port, protocol) in network::exposed(&record.config).unwrap_or_default() {
        ports.entry(format!("{port}/{protocol}")).or_default();
    }
    ports
}

fn describe_state(state: &ContainerState) -> InspectState {
    InspectState {
        status: state.status.to_string(),
        running: state.status.is_active(),
        paused: false,
        restarting: state.status == Status::Restarting,
        oom_killed: state.oom_killed,
        dead: state.status == Status::Dead,
        pid: i64::from(state.pid),
        exit_code: i64::from(state.exit_code),
        error: state.error.clone(),
        started_at: rfc3339(state.started_at),
        finished_at: rfc3339(state.finished_at),
        health: state.health.as_ref().map(probe::describe),
    }
}

fn log_path(container: &Container, record: &ContainerRecord) -> String {
    match record.host_config.log_config.driver.as_str() {
        "json-file" => container.paths.log().to_string_lossy().into_owned(),
        _ => String::new(),
    }
}

fn rfc3339(time: Option<OffsetDateTime>) -> String {
    time.and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| NEVER.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::config::Empty;
    use crate::api::types::host_config::PortBinding;
    use crate::engine::record::tests::sample;

    #[test]
    fn states_in_dockers_words() {
        let never = describe_state(&ContainerState::default());
        assert_eq!(
            (never.status.as_str(), never.started_at.as_str()),
            ("created", NEVER)
        );
        let waiting = ContainerState {
            status: Status::Restarting,
            exit_code: 3,
            ..Default::default()
        };
        let shown = describe_state(&waiting);
        assert!(shown.running && shown.restarting && shown.exit_code == 3);
    }

    #[test]
    fn exposed_ports_are_null_until_published() {
        let mut record = sample();
        record.config.exposed_ports.insert("80/tcp".into(), Empty {});
        record.config.exposed_ports.insert("53/udp".into(), Empty {});
        record
            .ports
            .insert("80/tcp".into(), Some(vec![PortBinding::default()]));
        let ports = all_ports(&record);
        assert!(ports["80/tcp"].is_some() && ports["53/udp"].is_none());
    }

    #[test]
    fn a_mode_without_networks_shows_as_one() {
        let mut record = sample();
        record.host_config.network_mode = "host".into();
        assert_eq!(networks(&record, &[]).keys().collect::<Vec<_>>(), ["host"]);
    }

    #[test]
    fn a_tasks_networks_are_shown_by_name() {
        let mut record = sample();
        record.networks = BTreeMap::from(["n1", "n2"].map(|id| (id.to_owned(), Default::default())));
        record.attached = record.networks.clone();
        let front = NetworkConfig {
            id: "n1".into(),
            name: "front".into(),
            ..Default::default()
        };
        let shown = networks(&record, &[front]);
        assert_eq!(shown.keys().collect::<Vec<_>>(), ["front", "n2"]);
    }
}
