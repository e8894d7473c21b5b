//! `info`, `version` and `events`.

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, filters, query};
use super::container::text;
use super::{human, output, template};

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
#[derive(Debug, Args)]
pub(crate) struct Info {
    /// Format output using a template, or "json"
    #[arg(short, long)]
    format: Option<String>,
}

impl Info {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let info = client.get("/info").await?;
        match self.format.as_deref() {
            None | Some("") => return summary(&info),
            Some("json") => println!("{info}"),
            Some(format) => println!("{}", template::expand(format, &info)?),
        }
        Ok(())
    }
}

fn summary(info: &Value) -> Result<()> {
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
    // A server that is Docker does not say.
    if let Some(kind) = info["Balancer"]["Kind"].as_str() {
        println!(" Balancer: {kind}");
    }
    print!("{}", super::info_swarm::block(&info["Swarm"]));
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
    /// Events of every node of the swarm; on a manager
    #[arg(long)]
    cluster: bool,
}

impl Events {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let path = query(&[
            ("since", self.since.as_deref().unwrap_or_default()),
            ("until", self.until.as_deref().unwrap_or_default()),
            ("filters", &filters(&self.filter, &[])?),
            ("cluster", if self.cluster { "1" } else { "" }),
        ]);
        let body = client.stream(&format!("/events{path}")).await?;
        output::json_lines(body, |event| {
            match (event["Type"].as_str(), event["Action"].as_str()) {
                (Some("node"), Some("unreachable")) => eprintln!("{}", missing(&event)),
                _ => println!("{}", line(&event)),
            }
            Ok(())
        })
        .await
    }
}

/// The words of incomplete logs, for events.
fn missing(event: &Value) -> String {
    format!(
        "warning: incomplete event stream. some events could not be retrieved for the following reasons: \
         node {} is not available",
        text(&event["Actor"]["Attributes"]["name"])
    )
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
    let number = |value: &Value| value.as_i64().unwrap_or_default();
    let mut table = super::table::Table::new(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    // (size, in use) of each object.
    let list = |kind: &str, each: &dyn Fn(&Value) -> (i64, bool)| -> Vec<(i64, bool)> {
        usage[kind].as_array().into_iter().flatten().map(each).collect()
    };
    let images = list("Images", &|image| {
        (number(&image["Size"]), number(&image["Containers"]) > 0)
    });
    let containers = list("Containers", &|container| {
        (
            number(&container["SizeRw"]),
            container["State"] == json!("running"),
        )
    });
    let volumes = list("Volumes", &|volume| {
        let usage = &volume["UsageData"];
        (number(&usage["Size"]), number(&usage["RefCount"]) > 0)
    });
    let layers = Some(number(&usage["LayersSize"]));
    for (title, objects, size) in [
        ("Images", images, layers),
        ("Containers", containers, None),
        ("Local Volumes", volumes, None),
    ] {
        let sum = |used: bool| {
            objects
                .iter()
                .filter(|one| one.1 == used)
                .map(|one| one.0)
                .sum::<i64>()
        };
        let size = size.unwrap_or(sum(true) + sum(false));
        let free = size - sum(true);
        let share = if size > 0 {
            format!(" ({}%)", free * 100 / size)
        } else {
            String::new()
        };
        table.row([
            title.to_owned(),
            objects.len().to_string(),
            objects.iter().filter(|one| one.1).count().to_string(),
            human::sum(size),
            format!("{}{share}", human::sum(free)),
        ]);
    }
    table.row(["Build Cache", "0", "0", "0B", "0B"].map(str::to_owned));
    table.print();
    Ok(())
}
