//! `info`, `version` and `events`.

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, filters, query};
use super::container::text;
use super::{human, output};

/// `version`
pub(crate) async fn version(client: &Client) -> Result<()> {
    println!(
        "Client:\n Version:           {}\n API version:       1.44",
        env!("CARGO_PKG_VERSION")
    );
    println!(" OS/Arch:           {}/{}", std::env::consts::OS, architecture());
    let server = client.get("/version").await?;
    println!("\nServer:");
    for (label, key) in [
        ("Version:", "Version"),
        ("API version:", "ApiVersion"),
        ("Kernel:", "KernelVersion"),
    ] {
        println!(" {label:<18} {}", text(&server[key]));
    }
    println!(
        " {:<18} {}/{}",
        "OS/Arch:",
        text(&server["Os"]),
        text(&server["Arch"])
    );
    Ok(())
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `info`
pub(crate) async fn info(client: &Client) -> Result<()> {
    let info = client.get("/info").await?;
    println!("Server:");
    println!(" Containers: {}", info["Containers"]);
    for state in ["Running", "Paused", "Stopped"] {
        println!("  {state}: {}", info[format!("Containers{state}")]);
    }
    println!(" Images: {}", info["Images"]);
    for (label, key) in [
        ("Server Version", "ServerVersion"),
        ("Storage Driver", "Driver"),
        ("Logging Driver", "LoggingDriver"),
        ("Cgroup Driver", "CgroupDriver"),
        ("Cgroup Version", "CgroupVersion"),
    ] {
        println!(" {label}: {}", text(&info[key]));
    }
    swarm(&info["Swarm"]);
    for (label, key) in [
        ("Default Runtime", "DefaultRuntime"),
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
    ] {
        println!(" {label}: {}", text(&info[key]));
    }
    println!(" CPUs: {}", info["NCPU"]);
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let memory = info["MemTotal"].as_i64().unwrap_or_default() as f64 / f64::from(1 << 30);
    println!(" Total Memory: {memory:.4}GiB");
    for (label, key) in [
        ("Name", "Name"),
        ("ID", "ID"),
        ("Docker Root Dir", "DockerRootDir"),
    ] {
        println!(" {label}: {}", text(&info[key]));
    }
    for warning in info["Warnings"].as_array().into_iter().flatten() {
        eprintln!("{}", text(warning));
    }
    Ok(())
}

fn swarm(swarm: &Value) {
    println!(" Swarm: {}", text(&swarm["LocalNodeState"]));
    if swarm["LocalNodeState"] != "active" {
        return;
    }
    println!("  NodeID: {}", text(&swarm["NodeID"]));
    println!("  Is Manager: {}", swarm["ControlAvailable"]);
    if swarm["ControlAvailable"] == true {
        println!("  ClusterID: {}", text(&swarm["Cluster"]["ID"]));
        println!("  Managers: {}", swarm["Managers"]);
        println!("  Nodes: {}", swarm["Nodes"]);
    }
    println!("  Node Address: {}", text(&swarm["NodeAddr"]));
}

/// `events`
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Filter output based on conditions provided
    #[arg(short, long)]
    filter: Vec<String>,
    /// Show all events created since timestamp
    #[arg(long)]
    since: Option<String>,
    /// Stream events until this timestamp
    #[arg(long)]
    until: Option<String>,
}

impl Events {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let path = query(&[
            ("since", self.since.as_deref().unwrap_or_default()),
            ("until", self.until.as_deref().unwrap_or_default()),
            ("filters", &filters(&self.filter, &[])?),
        ]);
        let body = client.stream(&format!("/events{path}")).await?;
        output::json_lines(body, |event| {
            println!("{}", line(&event));
            Ok(())
        })
        .await
    }
}

/// `2026-01-02T03:04:05.678901234Z container start <id> (image=bb, name=x)`
fn line(event: &Value) -> String {
    let nanoseconds = i128::from(event["timeNano"].as_i64().unwrap_or_default());
    let moment = time::OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    // Always nine digits, so that the lines stay in columns.
    let (date, clock) = (moment.date(), moment.time());
    let moment = format!(
        "{date}T{:02}:{:02}:{:02}.{:09}Z",
        clock.hour(),
        clock.minute(),
        clock.second(),
        clock.nanosecond()
    );
    let attributes = event["Actor"]["Attributes"].as_object().into_iter().flatten();
    let attributes: Vec<String> = attributes
        .map(|(key, value)| format!("{key}={}", text(value)))
        .collect();
    let attributes = if attributes.is_empty() {
        String::new()
    } else {
        format!(" ({})", attributes.join(", "))
    };
    format!(
        "{moment} {} {} {}{attributes}",
        text(&event["Type"]),
        text(&event["Action"]),
        text(&event["Actor"]["ID"]),
    )
}

/// `system df`
pub(crate) async fn df(client: &Client) -> Result<()> {
    let usage = client.get("/system/df").await?;
    let mut table = super::table::Table::new(&["TYPE", "TOTAL", "ACTIVE", "SIZE"]);
    let count = |list: &Value| list.as_array().map_or(0, Vec::len);
    let sum = |list: &Value, size: fn(&Value) -> i64| {
        human::size(list.as_array().into_iter().flatten().map(size).sum())
    };
    let used = |list: &Value, used: fn(&Value) -> bool| {
        list.as_array()
            .into_iter()
            .flatten()
            .filter(|one| used(one))
            .count()
    };
    let images = &usage["Images"];
    let in_use = used(images, |image| {
        image["Containers"].as_i64().unwrap_or_default() > 0
    });
    table.row([
        "Images".to_owned(),
        count(images).to_string(),
        in_use.to_string(),
        human::size(usage["LayersSize"].as_i64().unwrap_or_default()),
    ]);
    let containers = &usage["Containers"];
    let running = used(containers, |container| container["State"] == json!("running"));
    table.row([
        "Containers".to_owned(),
        count(containers).to_string(),
        running.to_string(),
        sum(containers, |container| {
            container["SizeRw"].as_i64().unwrap_or_default()
        }),
    ]);
    let volumes = &usage["Volumes"];
    let mounted = used(volumes, |volume| {
        volume["UsageData"]["RefCount"].as_i64().unwrap_or_default() > 0
    });
    table.row([
        "Local Volumes".to_owned(),
        count(volumes).to_string(),
        mounted.to_string(),
        sum(volumes, |volume| {
            volume["UsageData"]["Size"].as_i64().unwrap_or_default()
        }),
    ]);
    table.print();
    Ok(())
}
