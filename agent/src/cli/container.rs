//! Verbs on containers, except `run` and `exec`.

use std::fmt::Display;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use super::client::{Client, escape, filters, is_not_found, query};
use super::format::{ListFlags, Listing};
use super::table::Table;
use super::{human, output};

/// `ps`
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    list: ListFlags,
    /// Show n last created containers (includes all states)
    #[arg(short = 'n', long, value_name = "N")]
    last: Option<u32>,
    /// Show the latest created container (includes all states)
    #[arg(short, long)]
    latest: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Display total file sizes
    #[arg(short, long)]
    size: bool,
}

impl Ps {
    pub(crate) async fn run(mut self, client: &Client) -> Result<()> {
        self.list.quiet_first();
        // Sizes are added up only for who asks for them.
        let asked = self
            .list
            .format
            .as_ref()
            .is_some_and(|format| format.contains(".Size"));
        let last = if self.latest { Some(1) } else { self.last };
        let limit = last.map(|last| last.to_string()).unwrap_or_default();
        let all = if self.all { "1" } else { "" };
        let filters = filters(&self.list.filter, &[])?;
        let path = format!(
            "/containers/json{}",
            query(&[
                ("all", all),
                ("limit", &limit),
                ("size", flag(self.size || asked)),
                ("filters", &filters)
            ])
        );
        let list = client.get(&path).await?;
        let mut listing = self.listing();
        for container in list.as_array().into_iter().flatten() {
            listing.row(self.cells(container));
        }
        listing.print(&self.list)
    }

    fn listing(&self) -> Listing {
        let mut columns = vec![
            ("ID", "CONTAINER ID"),
            ("Image", "IMAGE"),
            ("Command", "COMMAND"),
            ("RunningFor", "CREATED"),
            ("Status", "STATUS"),
            ("Ports", "PORTS"),
            ("Names", "NAMES"),
        ];
        let size = ("Size", "SIZE");
        columns.extend(self.size.then_some(size));
        let hidden: &[_] = if self.size { &[] } else { &[size] };
        Listing::new(&columns).more(hidden).more(&[
            ("State", "STATE"),
            ("Labels", "LABELS"),
            ("Mounts", "MOUNTS"),
            ("Networks", "NETWORKS"),
            ("CreatedAt", "CREATED AT"),
            ("LocalVolumes", "LOCAL VOLUMES"),
            ("Platform", "PLATFORM"),
        ])
    }

    /// A cell for each field of [`Ps::listing`].
    fn cells(&self, container: &Value) -> Vec<Value> {
        let mounts = container["Mounts"].as_array().into_iter().flatten();
        let local = mounts.filter(|mount| mount["Driver"] == "local").count();
        let mounts = container["Mounts"].as_array().into_iter().flatten();
        let mounts = mounts.map(|mount| match text(&mount["Name"]) {
            name if name.is_empty() => text(&mount["Source"]),
            name => name,
        });
        let short = |name: String| match self.no_trunc {
            true => name,
            false => human::ellipsis(&name, 15),
        };
        let networks = container["NetworkSettings"]["Networks"].as_object();
        let networks = networks.into_iter().flatten();
        let mut cells = Vec::from(self.row(container));
        cells.extend([
            total_size(container),
            text(&container["State"]),
            labels(&container["Labels"]),
            mounts.map(short).collect::<Vec<_>>().join(","),
            networks
                .map(|(name, _)| name.clone())
                .collect::<Vec<_>>()
                .join(","),
            human::moment_of_unix(container["Created"].as_i64().unwrap_or_default()),
            local.to_string(),
        ]);
        // The API says a platform only from version 1.48 on.
        let platform = container["ImageManifestDescriptor"]["platform"].clone();
        cells.into_iter().map(Value::String).chain([platform]).collect()
    }

    fn id(&self, container: &Value) -> String {
        let id = text(&container["Id"]);
        if self.no_trunc {
            id
        } else {
            human::short(&id).to_owned()
        }
    }

    fn row(&self, container: &Value) -> [String; 7] {
        let command = text(&container["Command"]);
        let command = if self.no_trunc {
            command
        } else {
            human::ellipsis(&command, 20)
        };
        let image = text(&container["Image"]);
        let image = match (self.no_trunc, image.starts_with("sha256:")) {
            (true, _) => image,
            (false, true) => human::short(&image).to_owned(),
            (false, false) => human::image(&image).to_owned(),
        };
        let names = container["Names"].as_array().into_iter().flatten();
        let names: Vec<String> = names
            .map(|name| text(name).trim_start_matches('/').to_owned())
            .collect();
        [
            self.id(container),
            image,
            format!("\"{command}\""),
            human::ago_of_unix(container["Created"].as_i64().unwrap_or_default()),
            text(&container["Status"]),
            ports(&container["Ports"]),
            names.join(","),
        ]
    }
}

/// `5B (virtual 1.98MB)`
fn total_size(container: &Value) -> String {
    let size = |key: &str| container[key].as_i64().unwrap_or_default();
    match size("SizeRootFs") {
        0 => human::size(size("SizeRw")),
        all => format!("{} (virtual {})", human::size(size("SizeRw")), human::size(all)),
    }
}

/// `0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 53/udp`
pub(crate) fn ports(list: &Value) -> String {
    let one = |port: &Value| {
        let inner = format!("{}/{}", port["PrivatePort"], text(&port["Type"]));
        match port["PublicPort"].as_u64().filter(|&port| port > 0) {
            Some(public) => format!("{}->{inner}", host_port(&text(&port["IP"]), public)),
            None => inner,
        }
    };
    list.as_array()
        .into_iter()
        .flatten()
        .map(one)
        .collect::<Vec<_>>()
        .join(", ")
}

/// `0.0.0.0:8080`, `[::]:8080`
pub(crate) fn host_port(ip: &str, port: impl Display) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

/// Labels as a list shows them: `a=1,b=2`.
pub(crate) fn labels(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    let pairs = pairs.map(|(key, value)| format!("{key}={}", text(value)));
    pairs.collect::<Vec<_>>().join(",")
}

/// Text of a JSON value; empty for what is no text.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Does one thing to each of several objects, prints the name of each that it was done to, and reports every error.
pub(crate) async fn each<F>(names: &[String], mut act: impl FnMut(String) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let mut failed = false;
    for name in names {
        match act(name.clone()).await {
            Ok(()) => println!("{name}"),
            Err(error) => {
                eprintln!("Error: {error:#}");
                failed = true;
            }
        }
    }
    if failed {
        bail!(super::Silent(1));
    }
    Ok(())
}

/// Containers by name or ID
#[derive(Debug, Args)]
pub(crate) struct Names {
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

/// `stop`, `restart`
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Signal to send to the container
    #[arg(short, long)]
    signal: Option<String>,
    /// Seconds to wait before killing the container
    #[arg(
        short,
        long,
        visible_alias = "timeout",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    time: Option<i64>,
    #[command(flatten)]
    containers: Names,
}

impl Stop {
    pub(crate) async fn run(self, client: &Client, verb: &str) -> Result<()> {
        let time = self.time.map(|time| time.to_string()).unwrap_or_default();
        let query = query(&[
            ("t", &time),
            ("signal", self.signal.as_deref().unwrap_or_default()),
        ]);
        each(&self.containers.names, |name| {
            act(client, format!("/containers/{}/{verb}{query}", escape(&name)))
        })
        .await
    }
}

/// `start`
pub(crate) async fn start(client: &Client, containers: Names) -> Result<()> {
    each(&containers.names, |name| {
        act(client, format!("/containers/{}/start", escape(&name)))
    })
    .await
}

/// `kill`
#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// Signal to send to the container
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    #[command(flatten)]
    containers: Names,
}

impl Kill {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let query = query(&[("signal", &self.signal)]);
        each(&self.containers.names, |name| {
            act(client, format!("/containers/{}/kill{query}", escape(&name)))
        })
        .await
    }
}

/// `rm`
#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// Force the removal of a running container (uses SIGKILL)
    #[arg(short, long)]
    force: bool,
    /// Remove anonymous volumes associated with the container
    #[arg(short, long)]
    volumes: bool,
    #[command(flatten)]
    containers: Names,
}

impl Rm {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let query = query(&[("force", flag(self.force)), ("v", flag(self.volumes))]);
        // What is not there need not be removed by force: Docker says so, and ends well.
        let (gone, names): (Vec<_>, Vec<_>) = match self.force {
            true => self.missing(client).await?,
            false => (Vec::new(), self.containers.names.clone()),
        };
        for name in gone {
            eprintln!("Error: No such container: {name}");
        }
        each(&names, |name| {
            let path = format!("/containers/{}{query}", escape(&name));
            async move { client.delete(&path).await.map(drop) }
        })
        .await
    }

    /// The names of which there is no container, and the others.
    async fn missing(&self, client: &Client) -> Result<(Vec<String>, Vec<String>)> {
        let (mut gone, mut there) = (Vec::new(), Vec::new());
        for name in &self.containers.names {
            match client.get(&format!("/containers/{}/json", escape(name))).await {
                Err(error) if is_not_found(&error) => gone.push(name.clone()),
                _ => there.push(name.clone()),
            }
        }
        Ok((gone, there))
    }
}

/// `wait`
pub(crate) async fn wait(client: &Client, containers: Names) -> Result<()> {
    for name in &containers.names {
        let answer = client.act(&format!("/containers/{}/wait", escape(name))).await?;
        println!("{}", answer["StatusCode"]);
    }
    Ok(())
}

/// `logs`
#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    pub(crate) options: LogOptions,
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// What `logs` and `service logs` share.
#[derive(Debug, Args)]
pub(crate) struct LogOptions {
    /// Follow log output
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Show logs since timestamp (e.g. "2026-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
    #[arg(long)]
    since: Option<String>,
    /// Show logs before a timestamp or relative time
    #[arg(long)]
    until: Option<String>,
    /// Number of lines to show from the end of the logs
    #[arg(short = 'n', long, default_value = "all")]
    tail: String,
    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,
}

impl LogOptions {
    pub(crate) fn query(&self, details: bool) -> Result<String> {
        let since = self.since.as_deref().map(moment).transpose()?.unwrap_or_default();
        let until = self.until.as_deref().map(moment).transpose()?.unwrap_or_default();
        Ok(query(&[
            ("stdout", "1"),
            ("stderr", "1"),
            ("follow", flag(self.follow)),
            ("timestamps", flag(self.timestamps)),
            ("since", &since),
            ("until", &until),
            ("tail", &self.tail),
            ("details", flag(details)),
        ]))
    }
}

impl Logs {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let name = escape(&self.container);
        let container = client.get(&format!("/containers/{name}/json")).await?;
        let terminal = container["Config"]["Tty"].as_bool().unwrap_or_default();
        let body = client
            .stream(&format!("/containers/{name}/logs{}", self.options.query(false)?))
            .await?;
        output::print_stream(body, terminal).await
    }
}

/// Seconds since 1970 with a fraction, of a moment or of a time ago.
fn moment(word: &str) -> Result<String> {
    if word.parse::<f64>().is_ok() {
        return Ok(word.to_owned());
    }
    if let Ok(ago) = crate::compose::duration(word) {
        let then = time::OffsetDateTime::now_utc() - time::Duration::nanoseconds(ago);
        return Ok(seconds(then));
    }
    let moment: proto::Timestamp = word
        .parse()
        .ok()
        .with_context(|| format!("{word:?} is neither a time nor a duration"))?;
    Ok(seconds(moment.0))
}

fn seconds(moment: time::OffsetDateTime) -> String {
    format!("{}.{:09}", moment.unix_timestamp(), moment.nanosecond())
}

/// `top`
#[derive(Debug, Args)]
pub(crate) struct Top {
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Options of ps
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

impl Top {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let query = query(&[("ps_args", &self.options.join(" "))]);
        let answer = client
            .get(&format!("/containers/{}/top{query}", escape(&self.container)))
            .await?;
        let cells = |row: &Value| row.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
        let titles = cells(&answer["Titles"]);
        // Docker's columns are wider here than elsewhere.
        let mut table = Table::wide(&titles.iter().map(String::as_str).collect::<Vec<_>>(), 20);
        for row in answer["Processes"].as_array().into_iter().flatten() {
            table.row(cells(row));
        }
        table.print();
        Ok(())
    }
}

/// `1` for a flag that is set.
pub(crate) fn flag(set: bool) -> &'static str {
    if set { "1" } else { "" }
}

async fn act(client: &Client, path: String) -> Result<()> {
    client.act(&path).await.map(drop)
}
