//! `services`: one service each.

use std::collections::BTreeMap;

use proto::spec::{
    ContainerSpec, LogDriver, Placement, Platform, PortConfig, PublishMode, RestartCondition, RestartPolicy,
};

use super::attachments::{Attachment, attachments};
use super::deploy::{Deploy, deploy};
use super::error::ComposeError;
use super::mounts::{references, tmpfs, volumes};
use super::process::{dns, environment, extra_hosts, healthcheck, logging, security, ulimits};
use super::reader::{At, Object};
use super::short;

type Read<T> = Result<T, ComposeError>;

/// One service. Names of volumes, networks, secrets and configs are still keys of the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Service {
    pub(crate) key: String,
    pub(crate) container: ContainerSpec,
    pub(crate) build: Option<Build>,
    pub(crate) deploy: Deploy,
    pub(crate) ports: Vec<PortConfig>,
    /// Where it is found.
    pub(crate) networks: Vec<Attachment>,
    pub(crate) log_driver: Option<LogDriver>,
    pub(crate) secrets: Vec<Reference>,
    pub(crate) configs: Vec<Reference>,
    /// Services that must be there first.
    pub(crate) depends_on: BTreeMap<String, Condition>,
    /// Those of them that need not be in the file (`required: false`).
    pub(crate) optional: Vec<String>,
}

/// How an image is built.
#[derive(Debug, Clone, Default)]
pub(crate) struct Build {
    pub(crate) context: String,
    pub(crate) dockerfile: Option<String>,
    pub(crate) args: Vec<(String, Option<String>)>,
    pub(crate) labels: proto::spec::Labels,
    pub(crate) target: Option<String>,
}

/// A secret or config in a container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reference {
    pub(crate) source: String,
    pub(crate) target: Option<String>,
    pub(crate) uid: Option<String>,
    pub(crate) gid: Option<String>,
    pub(crate) mode: Option<u32>,
}

/// What another service must have reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Condition {
    #[default]
    Started,
    Healthy,
    CompletedSuccessfully,
}

impl Condition {
    /// The word of the Compose Specification.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "service_started",
            Self::Healthy => "service_healthy",
            Self::CompletedSuccessfully => "service_completed_successfully",
        }
    }
}

/// Keys of the Compose Specification that a stack has no use for.
const IGNORED: &[&str] = &[
    "annotations",
    "attach",
    "blkio_config",
    "cgroup",
    "cgroup_parent",
    "cgroupns_mode",
    "container_name",
    "cpu_count",
    "cpu_percent",
    "cpu_period",
    "cpu_quota",
    "cpu_rt_period",
    "cpu_rt_runtime",
    "cpu_shares",
    "cpuset",
    "credential_spec",
    "develop",
    "device_cgroup_rules",
    "devices",
    "domainname",
    "expose",
    "external_links",
    "gpus",
    "ipc",
    "isolation",
    "label_file",
    "links",
    "mac_address",
    "mem_swappiness",
    "memswap_limit",
    "network_mode",
    "oom_kill_disable",
    "pid",
    "post_start",
    "pre_stop",
    "privileged",
    "pull_policy",
    "pull_refresh_after",
    "runtime",
    "shm_size",
    "storage_opt",
    "use_api_socket",
    "userns_mode",
    "uts",
    "provider",
    "models",
];

/// Reads one service.
pub(crate) fn service(key: &str, at: &At<'_>) -> Read<Option<Service>> {
    let mut object = at.object()?;
    if let Some(profiles) = object.take("profiles")
        && !active(&profiles)?
    {
        return Ok(None);
    }
    if let Some(at) = object.take("volumes_from") {
        return Err(at.wrong("volumes_from is not built: name the volumes"));
    }
    let build = object.read("build", build)?;
    let image = object.read("image", At::text)?;
    let Some(image) = image.or_else(|| build.as_ref().map(|_| key.to_owned())) else {
        return Err(at.wrong("the service has neither image nor build"));
    };
    let scale = object.read("scale", At::unsigned)?;
    let deploy_at = object.take("deploy");
    let mut service = Service {
        key: key.to_owned(),
        container: container(&mut object, image)?,
        build,
        deploy: deploy(deploy_at.as_ref(), scale)?,
        ports: object.or_default("ports", ports)?,
        networks: object.or_default("networks", attachments)?,
        log_driver: object.read("logging", logging)?,
        secrets: object.or_default("secrets", references)?,
        configs: object.or_default("configs", references)?,
        depends_on: BTreeMap::new(),
        optional: Vec::new(),
    };
    if let Some(at) = object.take("depends_on") {
        (service.depends_on, service.optional) = depends_on(&at)?;
    }
    limits_of_old(&mut object, &mut service.deploy)?;
    restart_of_old(&mut object, &mut service.deploy)?;
    super::attachments::check(&service.networks, &service.deploy, &object.at)?;
    if let Some(platform) = object.read("platform", At::text)? {
        service
            .deploy
            .placement
            .get_or_insert_with(Placement::default)
            .platforms = vec![platform_of(&platform)];
    }
    object.ignore(IGNORED);
    object.finish()?;
    Ok(Some(service))
}

/// Whether one of the profiles is switched on by `COMPOSE_PROFILES`.
fn active(at: &At<'_>) -> Read<bool> {
    let on = at
        .context
        .variables
        .get("COMPOSE_PROFILES")
        .cloned()
        .unwrap_or_default();
    let on: Vec<&str> = on.split(',').map(str::trim).collect();
    Ok(at
        .scalars()?
        .iter()
        .any(|profile| on.contains(&profile.as_str()) || on.contains(&"*")))
}

fn container(object: &mut Object<'_>, image: String) -> Read<ContainerSpec> {
    let mut mounts = object.or_default("volumes", volumes)?;
    mounts.extend(object.or_default("tmpfs", tmpfs)?);
    let entrypoint = object.read("entrypoint", entrypoint)?;
    Ok(ContainerSpec {
        image,
        labels: object.or_default("labels", At::labels)?,
        command: entrypoint.unwrap_or_default(),
        args: object.or_default("command", command)?,
        hostname: object.or_default("hostname", At::text)?,
        env: environment(object)?,
        dir: object.or_default("working_dir", At::text)?,
        user: object.or_default("user", At::scalar)?,
        groups: object.or_default("group_add", At::scalars)?,
        privileges: object.read("security_opt", security)?.flatten(),
        init: object.read("init", At::truth)?,
        stop_signal: object.or_default("stop_signal", At::text)?,
        tty: object.or_default("tty", At::truth)?,
        open_stdin: object.or_default("stdin_open", At::truth)?,
        read_only: object.or_default("read_only", At::truth)?,
        mounts,
        stop_grace_period: object.read("stop_grace_period", At::duration)?,
        healthcheck: object.read("healthcheck", healthcheck)?,
        hosts: object.or_default("extra_hosts", extra_hosts)?,
        dns_config: dns(object)?,
        sysctls: object.or_default("sysctls", At::labels)?,
        capability_add: object.or_default("cap_add", At::scalars)?,
        capability_drop: object.or_default("cap_drop", At::scalars)?,
        ulimits: object.or_default("ulimits", ulimits)?,
        oom_score_adj: object.or_default("oom_score_adj", At::integer)?,
        ..ContainerSpec::default()
    })
}

fn build(at: &At<'_>) -> Read<Build> {
    if !at.is_map() {
        return Ok(Build {
            context: at.text()?,
            ..Build::default()
        });
    }
    let mut object = at.object()?;
    let build = Build {
        context: object
            .read("context", At::text)?
            .unwrap_or_else(|| ".".to_owned()),
        dockerfile: object.read("dockerfile", At::text)?,
        args: object.or_default("args", At::pairs)?,
        labels: object.or_default("labels", At::labels)?,
        target: object.read("target", At::text)?,
    };
    object.ignore(&[
        "additional_contexts",
        "cache_from",
        "cache_to",
        "dockerfile_inline",
        "entitlements",
        "extra_hosts",
        "isolation",
        "network",
        "no_cache",
        "platforms",
        "privileged",
        "provenance",
        "pull",
        "sbom",
        "secrets",
        "shm_size",
        "ssh",
        "tags",
        "ulimits",
    ]);
    object.finish()?;
    Ok(build)
}

fn ports(at: &At<'_>) -> Read<Vec<PortConfig>> {
    let mut ports = Vec::new();
    for item in at.list()? {
        if item.is_map() {
            ports.extend(long_port(&item)?);
        } else {
            ports.extend(short::ports(&item.scalar()?).map_err(|problem| item.wrong(problem))?);
        }
    }
    Ok(ports)
}

fn long_port(at: &At<'_>) -> Read<Vec<PortConfig>> {
    let mut object = at.object()?;
    let range = |at: &At<'_>| short::range(&at.scalar()?).map_err(|problem| at.wrong(problem));
    let target = object.required("target", range)?;
    let published = object
        .read("published", range)?
        .unwrap_or_else(|| vec![0; target.len()]);
    let host_ip = object.read("host_ip", |at| {
        let address = short::host_address(&at.text()?);
        address.map_err(|problem| at.wrong(problem))
    })?;
    let template = PortConfig {
        name: object.or_default("name", At::text)?,
        protocol: object.or_default("protocol", At::word)?,
        publish_mode: match object.read("mode", At::word)? {
            Some(mode) => mode,
            None if host_ip.is_some() => PublishMode::Host,
            None => PublishMode::default(),
        },
        host_ip,
        ..PortConfig::default()
    };
    object.ignore(&["app_protocol"]);
    object.finish()?;
    if published.len() != target.len() {
        return Err(at.wrong("target and published are ranges of different lengths"));
    }
    let port = |(target_port, published_port)| PortConfig {
        target_port,
        published_port,
        ..template.clone()
    };
    Ok(target.into_iter().zip(published).map(port).collect())
}

fn depends_on(at: &At<'_>) -> Read<(BTreeMap<String, Condition>, Vec<String>)> {
    let mut optional = Vec::new();
    if at.is_list() {
        let started = at.scalars()?.into_iter().map(|key| (key, Condition::Started));
        return Ok((started.collect(), optional));
    }
    let mut one = |(key, at): (&str, At<'_>)| {
        let mut object = at.object()?;
        let word = object
            .read("condition", At::text)?
            .unwrap_or_else(|| "service_started".to_owned());
        if object.read("required", At::truth)? == Some(false) {
            optional.push(key.to_owned());
        }
        if let Some(at) = object.take("restart").filter(|at| at.truth().ok() != Some(false)) {
            at.warn("not acted on in a stack");
        }
        object.finish()?;
        let known = [
            Condition::Started,
            Condition::Healthy,
            Condition::CompletedSuccessfully,
        ];
        let condition = known.into_iter().find(|condition| condition.as_str() == word);
        let condition = condition.ok_or_else(|| {
            at.wrong(format!(
                "condition {word:?} is none of {}",
                known.map(Condition::as_str).join(", ")
            ))
        })?;
        Ok((key.to_owned(), condition))
    };
    let conditions = at.map()?.into_iter().map(&mut one).collect::<Read<_>>()?;
    Ok((conditions, optional))
}

/// An empty entrypoint clears that of the image, which the API spells as one empty word.
fn entrypoint(at: &At<'_>) -> Read<Vec<String>> {
    let words = at.words()?;
    Ok(if words.is_empty() {
        vec![String::new()]
    } else {
        words
    })
}

/// An empty command cannot clear that of the image: the API has no word for it.
fn command(at: &At<'_>) -> Read<Vec<String>> {
    let words = at.words()?;
    if words.is_empty() {
        at.warn("not acted on: an empty command leaves the image's in force");
    }
    Ok(words)
}

/// `cpus`, `mem_limit` and their like, which `deploy.resources` has taken the place of.
fn limits_of_old(object: &mut Object<'_>, deploy: &mut Deploy) -> Read<()> {
    let cpus = object.read("cpus", At::nano_cpus)?;
    let memory = object.read("mem_limit", At::bytes)?;
    let pids = object.read("pids_limit", At::integer)?;
    let reserved = object.read("mem_reservation", At::bytes)?;
    if cpus.is_some() || memory.is_some() || pids.is_some() {
        let limits = deploy.resources.limits.get_or_insert_default();
        limits.nano_cpus = cpus.unwrap_or(limits.nano_cpus);
        limits.memory_bytes = memory.unwrap_or(limits.memory_bytes);
        // -1 is no limit, as 0.
        limits.pids = pids.map_or(limits.pids, |pids| pids.max(0));
    }
    if let Some(reserved) = reserved {
        deploy.resources.reservations.get_or_insert_default().memory_bytes = reserved;
    }
    Ok(())
}

/// `restart`, which counts where `deploy.restart_policy` is not given.
fn restart_of_old(object: &mut Object<'_>, deploy: &mut Deploy) -> Read<()> {
    let Some(at) = object.take("restart") else {
        return Ok(());
    };
    let word = at.scalar()?;
    let (condition, attempts) = match word.split_once(':').unwrap_or((&word, "")) {
        ("no" | "false", "") => (RestartCondition::None, None),
        ("always" | "unless-stopped", "") => (RestartCondition::Any, None),
        ("on-failure", "") => (RestartCondition::OnFailure, None),
        ("on-failure", count) => {
            let count = count
                .parse()
                .map_err(|_| at.wrong(format!("{count:?} is not a number of attempts")))?;
            (RestartCondition::OnFailure, Some(count))
        }
        _ => {
            return Err(at.wrong(format!(
                "{word:?} is none of no, always, unless-stopped, on-failure[:attempts]"
            )));
        }
    };
    if deploy.restart_policy.is_some() {
        at.warn("not acted on: deploy.restart_policy takes its place");
    } else {
        deploy.restart_policy = Some(RestartPolicy {
            condition,
            max_attempts: attempts,
            ..RestartPolicy::default()
        });
    }
    Ok(())
}

fn platform_of(text: &str) -> Platform {
    // A variant, as in linux/arm64/v8, is not told apart.
    let mut parts = text.split('/');
    let (os, architecture) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    Platform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
    }
}
