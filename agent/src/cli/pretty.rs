//! `service inspect --pretty`: a service for reading, line by line as Docker prints it.

use std::fmt::Write;

use proto::object::Service;
use proto::spec::{ContainerSpec, PortConfig, ServiceSpec, TaskSpec, UpdateConfig};

use super::human;

/// The service, whose spec has its defaults written out; names of its networks by identifier.
pub(crate) fn service(service: &Service, network: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = head(&mut text, service)
        .and_then(|()| rollout(&mut text, &service.spec))
        .and_then(|()| tasks(&mut text, &service.spec.task_template))
        .and_then(|()| reach(&mut text, service, network));
    text
}

fn head(text: &mut String, service: &Service) -> std::fmt::Result {
    let spec = &service.spec;
    writeln!(text, "\nID:\t\t{}\nName:\t\t{}", service.id, spec.name)?;
    if !spec.labels.is_empty() {
        writeln!(text, "Labels:")?;
        for (key, value) in &spec.labels {
            writeln!(text, " {key}={value}")?;
        }
    }
    let mode = &spec.mode;
    match (&mode.replicated_job, mode.global_job.is_some(), mode.is_global()) {
        (Some(job), _, _) => {
            writeln!(text, "Service Mode:\tReplicatedJob")?;
            writeln!(text, " Max Concurrent:\t{}", job.max_concurrent.unwrap_or(1))?;
            writeln!(
                text,
                " Total Completions:\t{}",
                job.total_completions.unwrap_or(1)
            )?;
        }
        (None, true, _) => writeln!(text, "Service Mode:\tGlobalJob")?,
        (None, false, true) => writeln!(text, "Service Mode:\tGlobal")?,
        (None, false, false) => {
            writeln!(
                text,
                "Service Mode:\tReplicated\n Replicas:\t{}",
                mode.replicas().unwrap_or(1)
            )?;
        }
    }
    if let Some(status) = &service.update_status {
        writeln!(text, "UpdateStatus:\n State:\t\t{}", status.state)?;
        let ago = |time| human::ago(time).to_lowercase();
        if let Some(time) = status.started_at {
            writeln!(text, " Started:\t{}", ago(time))?;
        }
        if let Some(time) = status.completed_at {
            writeln!(text, " Completed:\t{}", ago(time))?;
        }
        writeln!(text, " Message:\t{}", status.message)?;
    }
    writeln!(text, "Placement:")?;
    let placement = spec.task_template.placement.clone().unwrap_or_default();
    if !placement.constraints.is_empty() {
        writeln!(text, " Constraints:\t[{}]", placement.constraints.join(" "))?;
    }
    if !placement.preferences.is_empty() {
        let spread = placement
            .preferences
            .iter()
            .flat_map(|preference| &preference.spread);
        let words: Vec<_> = spread
            .map(|over| format!("spread={}", over.spread_descriptor))
            .collect();
        writeln!(text, " Preferences:   [{}]", words.join(" "))?;
    }
    if placement.max_replicas > 0 {
        writeln!(text, " Max Replicas Per Node:   {}", placement.max_replicas)?;
    }
    Ok(())
}

fn rollout(text: &mut String, spec: &ServiceSpec) -> std::fmt::Result {
    for (title, order, config) in [
        ("UpdateConfig", "Update", &spec.update_config),
        ("RollbackConfig", "Rollback", &spec.rollback_config),
    ] {
        let Some(config) = config else { continue };
        writeln!(text, "{title}:")?;
        one_rollout(text, order, config)?;
    }
    Ok(())
}

fn one_rollout(text: &mut String, order: &str, config: &UpdateConfig) -> std::fmt::Result {
    writeln!(text, " Parallelism:\t{}", config.parallelism)?;
    if config.delay != 0 {
        writeln!(text, " Delay:\t\t{}", duration(config.delay))?;
    }
    writeln!(text, " On failure:\t{}", config.failure_action)?;
    writeln!(text, " Monitoring Period: {}", duration(config.monitor))?;
    writeln!(text, " Max failure ratio: {}", config.max_failure_ratio)?;
    let label = format!("{order} order:");
    writeln!(text, " {label:<18} {}", config.order)
}

fn tasks(text: &mut String, task: &TaskSpec) -> std::fmt::Result {
    writeln!(text, "ContainerSpec:")?;
    if let Some(container) = &task.container_spec {
        process(text, container)?;
        files(text, container)?;
    }
    if let Some(driver) = &task.log_driver {
        writeln!(text, "Log Driver:\n Name:\t\t{}", driver.name)?;
        if !driver.options.is_empty() {
            writeln!(text, " LogOpts:")?;
            for (key, value) in &driver.options {
                writeln!(text, "  {:<15} {value}", format!("{key}:"))?;
            }
            writeln!(text)?;
        }
    }
    let Some(resources) = &task.resources else {
        return Ok(());
    };
    writeln!(text, "Resources:")?;
    let reserved = resources
        .reservations
        .as_ref()
        .map(|r| ("Reservations", r.nano_cpus, r.memory_bytes, 0));
    let limits = resources
        .limits
        .as_ref()
        .map(|l| ("Limits", l.nano_cpus, l.memory_bytes, l.pids));
    for (title, cpus, memory, pids) in reserved.into_iter().chain(limits) {
        if (cpus, memory, pids) == (0, 0, 0) {
            continue;
        }
        writeln!(text, " {title}:")?;
        if cpus != 0 {
            writeln!(text, "  CPU:\t\t{}", cpus as f64 / 1e9)?;
        }
        if memory != 0 {
            writeln!(text, "  Memory:\t{}", bytes(memory))?;
        }
        if pids != 0 {
            writeln!(text, "  PIDs:\t\t{pids}")?;
        }
    }
    Ok(())
}

fn process(text: &mut String, container: &ContainerSpec) -> std::fmt::Result {
    writeln!(text, " Image:\t\t{}", container.image)?;
    for (title, words) in [("Args:\t\t", &container.args), ("Env:\t\t", &container.env)] {
        if !words.is_empty() {
            writeln!(text, " {title}{} ", words.join(" "))?;
        }
    }
    if !container.dir.is_empty() {
        writeln!(text, " Dir:\t\t{}", container.dir)?;
    }
    if let Some(init) = container.init {
        writeln!(text, " Init:\t\t{init}")?;
    }
    if !container.user.is_empty() {
        writeln!(text, " User: {}", container.user)?;
    }
    let (add, drop) = (&container.capability_add, &container.capability_drop);
    if !add.is_empty() || !drop.is_empty() {
        writeln!(text, "Capabilities:")?;
        for (title, words) in [("Add", add), ("Drop", drop)] {
            if !words.is_empty() {
                writeln!(text, " {title}: {}", words.join(", "))?;
            }
        }
    }
    if !container.sysctls.is_empty() {
        writeln!(text, "SysCtls:")?;
        for (key, value) in &container.sysctls {
            writeln!(text, " {key}: {value}")?;
        }
    }
    if !container.ulimits.is_empty() {
        writeln!(text, "Ulimits:")?;
        for limit in &container.ulimits {
            writeln!(text, " {}: {}:{}", limit.name, limit.soft, limit.hard)?;
        }
    }
    Ok(())
}

fn files(text: &mut String, container: &ContainerSpec) -> std::fmt::Result {
    if !container.mounts.is_empty() {
        writeln!(text, "Mounts:")?;
        for mount in &container.mounts {
            writeln!(text, " Target:\t{}\n  Source:\t{}", mount.target, mount.source)?;
            writeln!(
                text,
                "  ReadOnly:\t{}\n  Type:\t\t{}",
                mount.read_only, mount.kind
            )?;
        }
    }
    let target = |file: &Option<proto::spec::FileTarget>| file.clone().unwrap_or_default().name;
    let configs = container
        .configs
        .iter()
        .map(|used| (target(&used.file), &used.config_name));
    let secrets = container
        .secrets
        .iter()
        .map(|used| (target(&used.file), &used.secret_name));
    for (title, used) in [
        ("Configs", configs.collect::<Vec<_>>()),
        ("Secrets", secrets.collect()),
    ] {
        if !used.is_empty() {
            writeln!(text, "{title}:")?;
        }
        for (target, source) in used {
            writeln!(text, " Target:\t{target}\n  Source:\t{source}")?;
        }
    }
    Ok(())
}

fn reach(text: &mut String, service: &Service, network: impl Fn(&str) -> String) -> std::fmt::Result {
    let task = &service.spec.task_template;
    if !task.networks.is_empty() {
        let names: Vec<_> = task.networks.iter().map(|used| network(&used.target)).collect();
        writeln!(text, "Networks: {} ", names.join(" "))?;
    }
    if let Some(endpoint) = &service.spec.endpoint_spec {
        writeln!(text, "Endpoint Mode:\t{}", endpoint.mode)?;
    }
    let ports: Vec<String> = service.endpoint.ports.iter().map(port).collect();
    if !ports.is_empty() {
        writeln!(text, "Ports:\n{} ", ports.join("\n"))?;
    }
    let container = task.container_spec.as_ref();
    if let Some(check) = container.and_then(|spec| spec.healthcheck.as_ref()) {
        writeln!(text, " Healthcheck:\n  Interval = {}", duration(check.interval))?;
        writeln!(text, "  Retries = {}", check.retries)?;
        writeln!(text, "  StartPeriod =\t{}", duration(check.start_period))?;
        writeln!(text, "  Timeout =\t{}", duration(check.timeout))?;
        if !check.test.is_empty() {
            let words: Vec<_> = check
                .test
                .iter()
                .map(|word| format!("\t Test = {word}"))
                .collect();
            writeln!(text, "  Tests:\n{} ", words.join("\n"))?;
        }
    }
    Ok(())
}

fn port(port: &PortConfig) -> String {
    format!(
        " PublishedPort = {}\n  Protocol = {}\n  TargetPort = {}\n  PublishMode = {}",
        port.published_port, port.protocol, port.target_port, port.publish_mode
    )
}

/// Nanoseconds as Go prints a duration: `1m30s`, `1.5s`, `500ms`.
fn duration(nanoseconds: i64) -> String {
    const SECOND: i64 = 1_000_000_000;
    let part = |unit: i64, name: &str| format!("{}{name}", nanoseconds as f64 / unit as f64);
    match nanoseconds {
        0 => "0s".to_owned(),
        small if small < 1_000 => part(1, "ns"),
        small if small < 1_000_000 => part(1_000, "µs"),
        small if small < SECOND => part(1_000_000, "ms"),
        _ => {
            let minutes = nanoseconds / (60 * SECOND);
            let seconds = (nanoseconds % (60 * SECOND)) as f64 / SECOND as f64;
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// A size in powers of 1024 with four significant digits: `64MiB`, `1.5GiB`.
pub(super) fn bytes(size: i64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut number, mut unit) = (size as f64, 0);
    while number >= 1024.0 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    let places = match number {
        small if small < 10.0 => 3,
        small if small < 100.0 => 2,
        small if small < 1000.0 => 1,
        _ => 0,
    };
    let text = format!("{number:.places$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_go_prints_them() {
        let shown = [0, 500_000_000, 1_500_000_000, 90_000_000_000, 3_600_000_000_000].map(duration);
        assert_eq!(shown, ["0s", "500ms", "1.5s", "1m30s", "1h0m0s"]);
        assert_eq!([8 << 20, 3 << 29, 1000].map(bytes), ["8MiB", "1.5GiB", "1000B"]);
    }
}
