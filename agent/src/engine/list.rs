//! `ps`: containers as rows, with Docker's filters and status texts.

use std::sync::Arc;

use netd::NetworkConfig;
use time::{Duration, OffsetDateTime};

use super::container::Container;
use super::error::{EngineError, Result};
use super::inspect::{all_ports, networks};
use super::record::ContainerRecord;
use super::request::{EngineInfo, ListOptions};
use super::state::{ContainerState, HealthStatus, Status};
use super::{Engine, blocking};
use crate::api::filters::Filters;
use crate::api::types::container::{ContainerSummary, PortSummary, SummaryHostConfig, SummaryNetworks};

/// Filters of `GET /containers/json`.
pub const FILTERS: [&str; 16] = [
    "ancestor",
    "before",
    "expose",
    "exited",
    "health",
    "id",
    "is-task",
    "label",
    "label!",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
    "isolation",
];

impl Engine {
    /// Containers, newest first.
    ///
    /// # Errors
    /// A malformed filter.
    pub async fn list(&self, options: &ListOptions) -> Result<Vec<ContainerSummary>> {
        let ancestors = self.ancestors(&options.filters).await?;
        let selection = Selection::new(self, options, ancestors)?;
        let mut records: Vec<_> = self
            .registry
            .all()
            .iter()
            .map(|container| container.record())
            .collect();
        records.sort_by_key(|record| std::cmp::Reverse(record.created));
        let mut rows = Vec::new();
        for record in records.iter().filter(|record| selection.accepts(record)) {
            if options.limit > 0 && rows.len() == options.limit {
                break;
            }
            let mut row = summary(record, &selection.networks);
            if options.size {
                let (own, all) = self.sizes(record).await?;
                (row.size_rw, row.size_root_fs) = (Some(own), Some(all));
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// Ids of the images that `ancestor` names; names that fit nothing fit no container.
    async fn ancestors(&self, filters: &Filters) -> Result<Vec<String>> {
        let names: Vec<String> = filters.values("ancestor").map(str::to_owned).collect();
        let storage = self.config.storage.clone();
        let find = move || {
            names
                .iter()
                .filter_map(|name| Some(storage.images().get(name).ok()?.id.to_string()))
                .collect()
        };
        blocking(move || Ok(find())).await
    }

    /// Counts for `GET /info`.
    pub fn info(&self) -> EngineInfo {
        let states: Vec<Status> = self
            .registry
            .all()
            .iter()
            .map(|container| container.state().status)
            .collect();
        let running = states.iter().filter(|status| status.is_active()).count();
        EngineInfo {
            containers: states.len(),
            running,
            paused: 0,
            stopped: states.len() - running,
        }
    }
}

/// The filters of a request, read.
struct Selection<'a> {
    filters: &'a Filters,
    ancestors: Vec<String>,
    /// Without a filter on the state only those that run are shown.
    only_running: bool,
    exited: Vec<i32>,
    before: Option<OffsetDateTime>,
    since: Option<OffsetDateTime>,
    is_task: Option<bool>,
    /// Those that exist.
    networks: Vec<NetworkConfig>,
}

impl<'a> Selection<'a> {
    fn new(engine: &Engine, options: &'a ListOptions, ancestors: Vec<String>) -> Result<Self> {
        let filters = &options.filters;
        let invalid =
            |key: &str, value: &str| EngineError::Invalid(format!("invalid filter '{key}={value}'"));
        let known = [
            "created",
            "running",
            "paused",
            "restarting",
            "removing",
            "exited",
            "dead",
        ];
        if let Some(bad) = filters.values("status").find(|status| !known.contains(status)) {
            return Err(invalid("status", bad));
        }
        let exited = filters
            .values("exited")
            .map(|code| code.parse().map_err(|_| invalid("exited", code)));
        let created = |key: &str| -> Result<Option<OffsetDateTime>> {
            let Some(name) = filters.values(key).next() else {
                return Ok(None);
            };
            Ok(Some(engine.registry.find(name)?.record().created))
        };
        let stateful = ["status", "exited"].iter().any(|key| filters.contains(key));
        Ok(Self {
            filters,
            ancestors,
            only_running: !(options.all || options.limit > 0 || stateful),
            exited: exited.collect::<Result<_>>()?,
            before: created("before")?,
            since: created("since")?,
            is_task: filters
                .flag("is-task")
                .map_err(|error| EngineError::Invalid(error.message))?,
            networks: engine.known_networks(),
        })
    }

    fn accepts(&self, record: &ContainerRecord) -> bool {
        let state = &record.state;
        (!self.only_running || state.status.is_active())
            && self.filters.exact("status", state.status.as_str())
            && (self.exited.is_empty()
                || state.status == Status::Exited && self.exited.contains(&state.exit_code))
            && self.before.is_none_or(|before| record.created < before)
            && self.since.is_none_or(|since| record.created > since)
            && self.is_task.is_none_or(|task| task == record.task.is_some())
            && self.filters.exact("health", health_word(state))
            && self.accepts_identity(record)
            && self.accepts_surroundings(record)
    }

    fn accepts_identity(&self, record: &ContainerRecord) -> bool {
        // Docker matches names by regular expression; a plain part and the anchors are what people write.
        let named = |wanted: &str| match wanted.strip_prefix('^') {
            Some(rest) => match rest.strip_suffix('$') {
                Some(exact) => exact.trim_start_matches('/') == record.name,
                None => record.name.starts_with(rest.trim_start_matches('/')),
            },
            None => match wanted.strip_suffix('$') {
                Some(end) => record.name.ends_with(end),
                None => format!("/{}", record.name).contains(wanted),
            },
        };
        let from = |wanted: &str| wanted == record.config.image || self.ancestors.contains(&record.image_id);
        self.filters.prefix("id", record.id.as_str())
            && self.filters.any("name", named)
            && self.filters.labels("label", &record.config.labels)
            && self.filters.excluded_labels(&record.config.labels)
            && self.filters.any("ancestor", from)
            && self.filters.exact("isolation", "")
    }

    fn accepts_surroundings(&self, record: &ContainerRecord) -> bool {
        let on = |wanted: &str| {
            networks(record, &self.networks)
                .iter()
                .any(|(name, endpoint)| name == wanted || endpoint.network_id == wanted)
        };
        let mounts = |wanted: &str| {
            record
                .mounts
                .iter()
                .any(|mount| mount.destination == wanted || mount.volume() == Some(wanted))
        };
        let ports = all_ports(record);
        let port = |wanted: &str, published: bool| {
            let key = if wanted.contains('/') {
                wanted.to_owned()
            } else {
                format!("{wanted}/tcp")
            };
            ports
                .get(&key)
                .is_some_and(|bindings| !published || bindings.is_some())
        };
        self.filters.any("network", on)
            && self.filters.any("volume", mounts)
            && self.filters.any("publish", |wanted| port(wanted, true))
            && self.filters.any("expose", |wanted| port(wanted, false))
    }
}

fn summary(record: &Arc<ContainerRecord>, known: &[NetworkConfig]) -> ContainerSummary {
    let words: Vec<&str> = std::iter::once(&record.path)
        .chain(&record.args)
        .map(String::as_str)
        .collect();
    ContainerSummary {
        id: record.id.to_string(),
        names: vec![format!("/{}", record.name)],
        image: record.config.image.clone(),
        image_id: record.image_id.clone(),
        command: words.join(" "),
        created: record.created.unix_timestamp(),
        ports: ports(record),
        labels: record.config.labels.clone(),
        state: record.state.status.to_string(),
        status: status_text(&record.state, OffsetDateTime::now_utc()),
        host_config: SummaryHostConfig {
            network_mode: record.host_config.network_mode.clone(),
        },
        network_settings: SummaryNetworks {
            networks: networks(record, known),
        },
        mounts: record.mounts.iter().map(|mount| mount.describe()).collect(),
        ..Default::default()
    }
}

fn ports(record: &ContainerRecord) -> Vec<PortSummary> {
    if record.state.status != Status::Running {
        return Vec::new();
    }
    let mut rows = Vec::new();
    for (key, bindings) in all_ports(record) {
        let (port, kind) = key.split_once('/').unwrap_or((&key, "tcp"));
        let Ok(private_port) = port.parse() else { continue };
        let plain = PortSummary {
            private_port,
            kind: kind.to_owned(),
            ..Default::default()
        };
        match bindings {
            None => rows.push(plain),
            Some(bindings) => rows.extend(bindings.into_iter().map(|binding| PortSummary {
                ip: binding.host_ip,
                public_port: binding.host_port.parse().unwrap_or_default(),
                ..plain.clone()
            })),
        }
    }
    rows.sort();
    rows
}

fn health_word(state: &ContainerState) -> &'static str {
    state
        .health
        .as_ref()
        .map_or("none", |health| health.status.as_str())
}

/// `Up 5 minutes (healthy)`, `Exited (0) 3 seconds ago`, …
fn status_text(state: &ContainerState, now: OffsetDateTime) -> String {
    let since = |time: Option<OffsetDateTime>| human_duration(now - time.unwrap_or(now));
    match state.status {
        Status::Created => "Created".into(),
        Status::Removing => "Removal In Progress".into(),
        Status::Dead => "Dead".into(),
        Status::Restarting => format!(
            "Restarting ({}) {} ago",
            state.exit_code,
            since(state.finished_at)
        ),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, since(state.finished_at)),
        Status::Running => {
            let health = match state.health.as_ref().map(|health| health.status) {
                None => "",
                Some(HealthStatus::Starting) => " (health: starting)",
                Some(HealthStatus::Healthy) => " (healthy)",
                Some(HealthStatus::Unhealthy) => " (unhealthy)",
            };
            format!("Up {}{health}", since(state.started_at))
        }
    }
}

/// Docker's rounding of durations for people.
pub(crate) fn human_duration(duration: Duration) -> String {
    let seconds = duration.whole_seconds().max(0);
    // Minutes are cut, hours rounded, as in Docker.
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match () {
        () if seconds < 1 => "Less than a second".into(),
        () if seconds == 1 => "1 second".into(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

/// A container that is referred to by something else.
pub(crate) fn users(
    all: &[Arc<Container>],
    uses: impl Fn(&ContainerRecord) -> bool,
) -> Vec<super::ContainerId> {
    all.iter()
        .filter(|container| uses(&container.record()))
        .map(|container| container.id.clone())
        .collect()
}

#[cfg(test)]
mod tests;
