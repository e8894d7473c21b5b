//! `services`: one service each.

use std::collections::BTreeMap;

use proto::spec::{
    BindOptions, ContainerSpec, DnsConfig, HealthConfig, LogDriver, Mount, MountType, Placement, Platform,
    PortConfig, Privileges, RestartCondition, RestartPolicy, SeccompOptions, TmpfsOptions, Ulimit,
    VolumeOptions,
};

use super::deploy::{Deploy, deploy};
use super::error::ComposeError;
use super::reader::{At, Object};
use super::{env_file, short};

type Read<T> = Result<T, ComposeError>;

/// One service. Names of volumes, networks, secrets and configs are still keys of the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Service {
    pub(crate) key: String,
    pub(crate) container: ContainerSpec,
    pub(crate) build: Option<Build>,
    pub(crate) deploy: Deploy,
    pub(crate) ports: Vec<PortConfig>,
    /// Key of the network and aliases on it.
    pub(crate) networks: Vec<(String, Vec<String>)>,
    pub(crate) log_driver: Option<LogDriver>,
    pub(crate) secrets: Vec<Reference>,
    pub(crate) configs: Vec<Reference>,
    /// Services that must be there first.
    pub(crate) depends_on: BTreeMap<String, Condition>,
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
    for (refused, remedy) in [
        ("extends", "write the keys out, or use a YAML anchor"),
        ("volumes_from", "name the volumes"),
    ] {
        if let Some(at) = object.take(refused) {
            return Err(at.wrong(format!("{refused} is not built: {remedy}")));
        }
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
        networks: object.or_default("networks", networks)?,
        log_driver: object.read("logging", logging)?,
        secrets: object.or_default("secrets", references)?,
        configs: object.or_default("configs", references)?,
        depends_on: object.or_default("depends_on", depends_on)?,
    };
    limits_of_old(&mut object, &mut service.deploy)?;
    restart_of_old(&mut object, &mut service.deploy)?;
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
    let entrypoint = object.read("entrypoint", At::words)?;
    Ok(ContainerSpec {
        image,
        labels: object.or_default("labels", At::labels)?,
        command: entrypoint.unwrap_or_default(),
        args: object.or_default("command", At::words)?,
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

/// Variables of the files first, those of the file itself over them; sorted, so that equal sets make equal specs.
fn environment(object: &mut Object<'_>) -> Read<Vec<String>> {
    let mut variables = BTreeMap::new();
    if let Some(at) = object.take("env_file") {
        for file in if at.is_list() { at.list()? } else { vec![at] } {
            variables.extend(env_file_of(&file)?);
        }
    }
    if let Some(at) = object.take("environment") {
        for (name, value) in at.pairs()? {
            if name.is_empty() {
                return Err(at.wrong("a variable has no name"));
            }
            // Without a value it is passed on from the shell, if it is set there.
            match value.or_else(|| at.context.variables.get(&name).cloned()) {
                Some(value) => variables.insert(name, value),
                None => variables.remove(&name),
            };
        }
    }
    Ok(variables
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect())
}

fn env_file_of(at: &At<'_>) -> Read<Vec<(String, String)>> {
    let (path, required) = if at.is_map() {
        let mut object = at.object()?;
        let path = object.required("path", At::text)?;
        let required = object.read("required", At::truth)?.unwrap_or(true);
        object.ignore(&["format"]);
        object.finish()?;
        (path, required)
    } else {
        (at.text()?, true)
    };
    let file = at.context.directory.join(&path);
    match std::fs::read_to_string(&file) {
        Ok(text) => env_file::parse(&text, &at.context.variables)
            .map_err(|problem| at.wrong(format!("env file {}: {problem}", file.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => Ok(Vec::new()),
        Err(error) => Err(at.wrong(format!(
            "cannot read env file {}: {error}; make the file, or say `required: false`",
            file.display()
        ))),
    }
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
    let template = PortConfig {
        name: object.or_default("name", At::text)?,
        protocol: object.or_default("protocol", At::word)?,
        publish_mode: object.or_default("mode", At::word)?,
        ..PortConfig::default()
    };
    if let Some(at) = object.take("host_ip") {
        return Err(at.wrong("a stack publishes ports on every address of the host: leave host_ip out"));
    }
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

fn networks(at: &At<'_>) -> Read<Vec<(String, Vec<String>)>> {
    if at.is_list() {
        return Ok(at.scalars()?.into_iter().map(|key| (key, Vec::new())).collect());
    }
    let one = |(key, at): (&str, At<'_>)| {
        let mut object = at.object()?;
        let aliases = object.or_default("aliases", At::scalars)?;
        object.ignore(&[
            "driver_opts",
            "gw_priority",
            "interface_name",
            "ipv4_address",
            "ipv6_address",
            "link_local_ips",
            "mac_address",
            "priority",
        ]);
        object.finish()?;
        Ok((key.to_owned(), aliases))
    };
    at.map()?.into_iter().map(one).collect()
}

fn volumes(at: &At<'_>) -> Read<Vec<Mount>> {
    at.list()?.iter().map(volume).collect()
}

fn volume(at: &At<'_>) -> Read<Mount> {
    if !at.is_map() {
        return short::mount(&at.text()?, &at.context.directory).map_err(|problem| at.wrong(problem));
    }
    let mut object = at.object()?;
    let kind: MountType = object.required("type", At::word)?;
    let source = object.or_default("source", At::text)?;
    let mut mount = Mount {
        kind,
        source,
        target: object.required("target", At::text)?,
        read_only: object.or_default("read_only", At::truth)?,
        consistency: object.or_default("consistency", At::text)?,
        bind_options: object.read("bind", bind_options)?,
        volume_options: object.read("volume", volume_options)?,
        tmpfs_options: object.read("tmpfs", tmpfs_options)?,
    };
    object.finish()?;
    if !mount.target.starts_with('/') {
        return Err(at.wrong(format!("target {:?} must begin with /", mount.target)));
    }
    match kind {
        MountType::Bind if mount.source.is_empty() => return Err(at.wrong("a bind needs a source")),
        MountType::Bind => {
            mount.source = short::host_path(&mount.source, &at.context.directory)
                .map_err(|problem| at.wrong(problem))?;
        }
        MountType::Volume => {}
        MountType::Tmpfs if !mount.source.is_empty() => return Err(at.wrong("a tmpfs has no source")),
        MountType::Tmpfs => {}
        MountType::Npipe | MountType::Cluster | MountType::Image => {
            return Err(at.wrong(format!(
                "mounts of type {kind} are not built: use bind, volume or tmpfs"
            )));
        }
    }
    Ok(mount)
}

fn bind_options(at: &At<'_>) -> Read<BindOptions> {
    let mut object = at.object()?;
    let options = BindOptions {
        propagation: object.or_default("propagation", At::text)?,
        create_mountpoint: object.read("create_host_path", At::truth)?.unwrap_or(false),
        non_recursive: object.read("recursive", At::text)?.as_deref() == Some("disabled"),
        ..BindOptions::default()
    };
    object.ignore(&["selinux"]);
    object.finish()?;
    Ok(options)
}

fn volume_options(at: &At<'_>) -> Read<VolumeOptions> {
    let mut object = at.object()?;
    let options = VolumeOptions {
        no_copy: object.or_default("nocopy", At::truth)?,
        labels: object.or_default("labels", At::labels)?,
        driver_config: None,
        subpath: object.or_default("subpath", At::text)?,
    };
    object.finish()?;
    Ok(options)
}

fn tmpfs_options(at: &At<'_>) -> Read<TmpfsOptions> {
    let mut object = at.object()?;
    let options = TmpfsOptions {
        size_bytes: object.or_default("size", At::bytes)?,
        mode: object.or_default("mode", mode)?,
        options: Vec::new(),
    };
    object.finish()?;
    Ok(options)
}

/// `tmpfs: /path` or a list of them, each with options behind a colon.
fn tmpfs(at: &At<'_>) -> Read<Vec<Mount>> {
    let one = |text: String| {
        let (target, options) = text.split_once(':').unwrap_or((&text, ""));
        let mut tmpfs = TmpfsOptions::default();
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("size", size)) => {
                    tmpfs.size_bytes = super::units::bytes(size).map_err(|problem| at.wrong(problem))?;
                }
                Some(("mode", mode)) => {
                    tmpfs.mode =
                        u32::from_str_radix(mode, 8).map_err(|_| at.wrong(format!("mode {mode:?}")))?;
                }
                _ => {
                    return Err(at.wrong(format!(
                        "the option {option:?} of a tmpfs is not known: size, mode"
                    )));
                }
            }
        }
        if !target.starts_with('/') {
            return Err(at.wrong(format!("{target:?} must begin with /")));
        }
        let target = target.to_owned();
        Ok(Mount {
            kind: MountType::Tmpfs,
            target,
            tmpfs_options: Some(tmpfs),
            ..Mount::default()
        })
    };
    at.one_or_more()?.into_iter().map(one).collect()
}

/// Permission bits: YAML's octal forms `0440` and `0o440`, or a decimal number as YAML 1.2 reads it without them.
fn mode(at: &At<'_>) -> Read<u32> {
    let text = at.scalar()?;
    let digits = text
        .strip_prefix("0o")
        .or_else(|| text.strip_prefix('0').filter(|rest| !rest.is_empty()));
    let parsed = match digits {
        Some(octal) => u32::from_str_radix(octal, 8),
        None => text.parse(),
    };
    let parsed = parsed.ok().filter(|&mode| mode <= 0o7777);
    parsed.ok_or_else(|| at.wrong(format!("{text:?} is not a mode such as 0440")))
}

fn references(at: &At<'_>) -> Read<Vec<Reference>> {
    at.list()?.iter().map(reference).collect()
}

fn reference(at: &At<'_>) -> Read<Reference> {
    if !at.is_map() {
        return Ok(Reference {
            source: at.text()?,
            ..Reference::default()
        });
    }
    let mut object = at.object()?;
    let reference = Reference {
        source: object.required("source", At::text)?,
        target: object.read("target", At::text)?,
        uid: object.read("uid", At::scalar)?,
        gid: object.read("gid", At::scalar)?,
        mode: object.read("mode", mode)?,
    };
    object.finish()?;
    Ok(reference)
}

fn depends_on(at: &At<'_>) -> Read<BTreeMap<String, Condition>> {
    if at.is_list() {
        return Ok(at
            .scalars()?
            .into_iter()
            .map(|key| (key, Condition::Started))
            .collect());
    }
    let one = |(key, at): (&str, At<'_>)| {
        let mut object = at.object()?;
        let word = object
            .read("condition", At::text)?
            .unwrap_or_else(|| "service_started".to_owned());
        object.ignore(&["restart", "required"]);
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
    at.map()?.into_iter().map(one).collect()
}

fn healthcheck(at: &At<'_>) -> Read<HealthConfig> {
    let mut object = at.object()?;
    let disable = object.or_default("disable", At::truth)?;
    let test = object.read("test", |at| {
        if at.is_list() {
            return at.scalars();
        }
        Ok(vec!["CMD-SHELL".to_owned(), at.text()?])
    })?;
    let config = HealthConfig {
        test: if disable {
            vec!["NONE".to_owned()]
        } else {
            test.unwrap_or_default()
        },
        interval: object.or_default("interval", At::duration)?,
        timeout: object.or_default("timeout", At::duration)?,
        start_period: object.or_default("start_period", At::duration)?,
        start_interval: object.or_default("start_interval", At::duration)?,
        retries: object.or_default("retries", At::integer)?,
    };
    object.finish()?;
    match config.test.first().map(String::as_str) {
        None | Some("NONE" | "CMD" | "CMD-SHELL") => Ok(config),
        Some(other) => Err(at.wrong(format!(
            "test must begin with NONE, CMD or CMD-SHELL, not with {other:?}"
        ))),
    }
}

fn logging(at: &At<'_>) -> Read<LogDriver> {
    let mut object = at.object()?;
    let driver = LogDriver {
        name: object.or_default("driver", At::text)?,
        options: object.or_default("options", At::labels)?,
    };
    object.finish()?;
    Ok(driver)
}

fn security(at: &At<'_>) -> Read<Option<Privileges>> {
    let mut privileges = Privileges::default();
    for item in at.list()? {
        match item.text()?.as_str() {
            "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true" => {
                privileges.no_new_privileges = true;
            }
            "seccomp:unconfined" | "seccomp=unconfined" => {
                privileges.seccomp = Some(SeccompOptions {
                    mode: "unconfined".to_owned(),
                    profile: String::new(),
                });
            }
            _ => item.warn("not acted on in a stack"),
        }
    }
    Ok((privileges != Privileges::default()).then_some(privileges))
}

/// `name: address`, or a list of `name:address` or `name=address`, as lines `address name`.
fn extra_hosts(at: &At<'_>) -> Read<Vec<String>> {
    let line = |name: &str, address: &str| format!("{} {name}", address.trim_matches(['[', ']']));
    if at.is_map() {
        let one = |(name, at): (&str, At<'_>)| {
            Ok(at
                .one_or_more()?
                .iter()
                .map(|ip| line(name, ip))
                .collect::<Vec<_>>())
        };
        let lines: Vec<Vec<String>> = at.map()?.into_iter().map(one).collect::<Read<_>>()?;
        return Ok(lines.into_iter().flatten().collect());
    }
    let one = |text: String| {
        let pair = text.split_once('=').or_else(|| text.split_once(':'));
        let (name, address) = pair.ok_or_else(|| at.wrong(format!("{text:?} is not name=address")))?;
        Ok(line(name, address))
    };
    at.scalars()?.into_iter().map(one).collect()
}

fn dns(object: &mut Object<'_>) -> Read<Option<DnsConfig>> {
    let config = DnsConfig {
        nameservers: object.or_default("dns", At::one_or_more)?,
        search: object.or_default("dns_search", At::one_or_more)?,
        options: object.or_default("dns_opt", At::one_or_more)?,
    };
    Ok((config != DnsConfig::default()).then_some(config))
}

fn ulimits(at: &At<'_>) -> Read<Vec<Ulimit>> {
    let one = |(name, at): (&str, At<'_>)| {
        let (soft, hard) = if at.is_map() {
            let mut object = at.object()?;
            let pair = (
                object.required("soft", At::integer)?,
                object.required("hard", At::integer)?,
            );
            object.finish()?;
            pair
        } else {
            (at.integer()?, at.integer()?)
        };
        Ok(Ulimit {
            name: name.to_owned(),
            hard,
            soft,
        })
    };
    at.map()?.into_iter().map(one).collect()
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
        limits.pids = pids.unwrap_or(limits.pids);
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
    if deploy.restart_policy.is_none() {
        deploy.restart_policy = Some(RestartPolicy {
            condition,
            max_attempts: attempts,
            ..RestartPolicy::default()
        });
    }
    Ok(())
}

fn platform_of(text: &str) -> Platform {
    let (os, architecture) = text.split_once('/').unwrap_or((text, ""));
    Platform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
    }
}
