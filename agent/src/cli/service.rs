//! `service`, except `create` and `update`, whose flags have files of their own.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use proto::object::Service;
use serde_json::{Value, json};

use super::client::{Client, escape, filters, query};
use super::container::{LogOptions, each, text};
use super::converge::{self, Goal, Target, WaitFlags};
use super::format::{ListFlags, Listing};
use super::output::Demultiplexer;
use super::service_history::{History, Rollback};
use super::service_spec::{Create, Update};
use super::{exec, human, inspect, output, pretty, task};

/// `service …`
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceVerb {
    /// Create a new service
    Create(Box<Create>),
    /// Execute a command in a running task of a service, on whatever node
    Exec(exec::ServiceExec),
    /// List the versions of a service that it can go back to
    History(History),
    /// Display detailed information on one or more services
    Inspect {
        /// Print the information in a human friendly format
        #[arg(long, conflicts_with = "format")]
        pretty: bool,
        #[command(flatten)]
        names: inspect::Names,
    },
    /// Fetch the logs of a service or task
    Logs(Logs),
    /// List services
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// List the tasks of one or more services
    Ps(Ps),
    /// Remove one or more services
    #[command(visible_alias = "remove")]
    Rm {
        #[arg(required = true, value_name = "SERVICE")]
        names: Vec<String>,
    },
    /// Revert changes to a service's configuration
    Rollback(Rollback),
    /// Scale one or multiple replicated services
    Scale {
        #[command(flatten)]
        wait: WaitFlags,
        #[arg(required = true, value_name = "SERVICE=REPLICAS")]
        words: Vec<String>,
    },
    /// Update a service
    Update(Box<Update>),
}

impl ServiceVerb {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        match self {
            Self::Create(create) => create.run(client).await,
            Self::Inspect { pretty: true, names } => pretty(client, names.names()).await,
            Self::Inspect { names, .. } => names.run(client, "services", "").await,
            Self::Exec(exec) => exec.run(client).await,
            Self::Logs(logs) => logs.run(client).await,
            Self::Ls(ls) => ls.run(client).await,
            Self::Ps(ps) => ps.run(client).await,
            Self::Rm { names } => {
                each(&names, |name| {
                    let path = format!("/services/{}", escape(&name));
                    async move { client.delete(&path).await.map(drop) }
                })
                .await
            }
            Self::History(history) => history.run(client).await,
            Self::Rollback(rollback) => rollback.run(client).await,
            Self::Scale { wait, words } => scale(client, &words, &wait).await,
            Self::Update(update) => update.run(client).await,
        }
    }
}

/// `service ls`, `stack services`
#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    list: ListFlags,
}

impl Ls {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        self.print(client, &[]).await.map(drop)
    }

    /// Prints the services that the filters choose; how many there are.
    pub(crate) async fn print(&self, client: &Client, fixed: &[(&str, &str)]) -> Result<usize> {
        let filters = filters(&self.list.filter, fixed)?;
        let path = format!("/services{}", query(&[("status", "true"), ("filters", &filters)]));
        let mut services: Vec<Service> = client.fetch(&path).await?;
        services.sort_by(|one, two| human::natural(&one.spec.name, &two.spec.name));
        let mut listing = Listing::new(&[
            ("ID", "ID"),
            ("Name", "NAME"),
            ("Mode", "MODE"),
            ("Replicas", "REPLICAS"),
            ("Image", "IMAGE"),
            ("Ports", "PORTS"),
        ]);
        for service in &services {
            listing.row(row(service));
        }
        listing.print(&self.list)?;
        Ok(services.len())
    }
}

fn row(service: &Service) -> [String; 6] {
    let status = service.service_status.unwrap_or_default();
    let mode = &service.spec.mode;
    let mode = if mode.global.is_some() {
        "global"
    } else if mode.global_job.is_some() {
        "global job"
    } else if mode.replicated_job.is_some() {
        "replicated job"
    } else {
        "replicated"
    };
    let most = service
        .spec
        .task_template
        .placement
        .as_ref()
        .map_or(0, |placement| placement.max_replicas);
    let most = if most > 0 {
        format!(" (max {most} per node)")
    } else {
        String::new()
    };
    let image = service
        .spec
        .task_template
        .container_spec
        .as_ref()
        .map(|spec| human::image(&spec.image).to_owned())
        .unwrap_or_default();
    let ports = service
        .endpoint
        .ports
        .iter()
        .filter(|port| port.publish_mode == proto::spec::PublishMode::Ingress);
    let ports = ports.map(|port| {
        format!(
            "*:{}->{}/{}",
            port.published_port, port.target_port, port.protocol
        )
    });
    [
        human::short(service.id.as_str()).to_owned(),
        service.spec.name.clone(),
        mode.to_owned(),
        format!("{}/{}{most}", status.running_tasks, status.desired_tasks),
        image,
        ports.collect::<Vec<_>>().join(", "),
    ]
}

/// `service ps`
#[derive(Debug, Args)]
pub(crate) struct Ps {
    #[command(flatten)]
    options: task::Options,
    #[arg(required = true, value_name = "SERVICE")]
    names: Vec<String>,
}

impl Ps {
    async fn run(self, client: &Client) -> Result<()> {
        let mut ids = Vec::new();
        for name in &self.names {
            match client.get(&format!("/services/{}", escape(name))).await {
                Ok(service) => ids.push(text(&service["ID"])),
                Err(error) if super::client::is_not_found(&error) => bail!("no such service: {name}"),
                Err(error) => return Err(error),
            }
        }
        let fixed: Vec<_> = ids.iter().map(|id| ("service", id.as_str())).collect();
        self.options.print(client, &fixed).await
    }
}

/// `service logs`
#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    options: LogOptions,
    /// Do not neatly format logs
    #[arg(long)]
    raw: bool,
    /// Service or task
    name: String,
}

impl Logs {
    async fn run(self, client: &Client) -> Result<()> {
        let name = escape(&self.name);
        let found = client.get(&format!("/services/{name}")).await;
        let (kind, object) = match found {
            Err(error) if super::client::is_not_found(&error) => {
                let task = client.get(&format!("/tasks/{name}")).await;
                let unknown = |_| anyhow::anyhow!("no such task or service: {}", self.name);
                ("tasks", task.map_err(unknown)?)
            }
            found => ("services", found?),
        };
        let path = format!("/{kind}/{name}/logs{}", self.options.query(!self.raw)?);
        let terminal = [&object["Spec"]["TaskTemplate"], &object["Spec"]]
            .iter()
            .any(|spec| spec["ContainerSpec"]["TTY"].as_bool() == Some(true));
        let body = client.stream(&path).await?;
        if self.raw || terminal {
            return output::print_stream(body, terminal).await;
        }
        follow(client, body).await
    }
}

/// Prints multiplexed lines with details, each behind the name of its task: `web.1.id@node    | text`.
pub(crate) async fn follow(client: &Client, mut body: hyper::body::Incoming) -> Result<()> {
    let mut names = Prefixes {
        client: client.clone(),
        known: Default::default(),
    };
    let mut frames = Demultiplexer::default();
    while let Some(bytes) = output::data(&mut body).await? {
        let mut lines = Vec::new();
        frames.push(&bytes, |stream, line| lines.push((stream, line.to_vec())));
        for (stream, line) in lines {
            let line = String::from_utf8_lossy(&line).into_owned();
            let (details, text) = line.split_once(' ').unwrap_or(("", &line));
            let prefix = names.of(details).await;
            output::write(stream, format!("{prefix}    | {text}").as_bytes());
        }
    }
    Ok(())
}

/// Names of tasks by their identifiers, asked for once.
struct Prefixes {
    client: Client,
    known: std::collections::HashMap<String, String>,
}

impl Prefixes {
    async fn of(&mut self, details: &str) -> String {
        let task = details
            .split(',')
            .find_map(|pair| pair.strip_prefix("com.docker.swarm.task.id="));
        let Some(task) = task else { return String::new() };
        if let Some(known) = self.known.get(task) {
            return known.clone();
        }
        let name = self
            .ask(task)
            .await
            .unwrap_or_else(|_| human::short(task).to_owned());
        self.known.insert(task.to_owned(), name.clone());
        name
    }

    async fn ask(&self, id: &str) -> Result<String> {
        let task: proto::Task = self.client.fetch(&format!("/tasks/{id}")).await?;
        let service: Service = self
            .client
            .fetch(&format!("/services/{}", task.service_id))
            .await?;
        let node = self.client.get(&format!("/nodes/{}", task.node_id)).await?;
        let slot = if task.slot == 0 {
            task.node_id.to_string()
        } else {
            task.slot.to_string()
        };
        Ok(format!(
            "{}.{slot}.{}@{}",
            service.spec.name,
            human::short(id),
            text(&node["Description"]["Hostname"])
        ))
    }
}

async fn pretty(client: &Client, names: &[String]) -> Result<()> {
    for name in names {
        let path = format!("/services/{}?insertDefaults=true", escape(name));
        let service: Service = client.fetch(&path).await?;
        let mut known = std::collections::HashMap::new();
        for network in &service.spec.task_template.networks {
            let found = client
                .get(&format!("/networks/{}?scope=swarm", escape(&network.target)))
                .await?;
            known.insert(network.target.clone(), text(&found["Name"]));
        }
        let name_of = |id: &str| known.get(id).cloned().unwrap_or_else(|| id.to_owned());
        println!("{}", pretty::service(&service, name_of));
    }
    Ok(())
}

async fn scale(client: &Client, words: &[String], wait: &WaitFlags) -> Result<()> {
    let mut targets = Vec::new();
    for word in words {
        let (name, count) = word
            .split_once('=')
            .with_context(|| format!("{word:?} is not SERVICE=REPLICAS"))?;
        let count: u64 = count
            .parse()
            .with_context(|| format!("{count:?} is not a number of replicas"))?;
        let service = client.get(&format!("/services/{}", escape(name))).await;
        let service = service.with_context(|| name.to_owned())?;
        let mut spec = service["Spec"].clone();
        let job = spec["Mode"]["ReplicatedJob"].is_object();
        if !spec["Mode"]["Global"].is_null() || !spec["Mode"]["GlobalJob"].is_null() {
            bail!("{name}: scale can only be used with replicated or replicated-job mode");
        }
        if job {
            spec["Mode"]["ReplicatedJob"]["TotalCompletions"] = json!(count);
        } else {
            spec["Mode"] = json!({"Replicated": {"Replicas": count}});
        }
        let path = format!(
            "/services/{}/update?version={}",
            text(&service["ID"]),
            service["Version"]["Index"]
        );
        let answer = client.post(&path, &spec).await?;
        warn(&answer);
        println!("{name} scaled to {count}");
        targets.push(Target::new(text(&service["ID"]), Goal::Update));
    }
    converge::reach(client, &targets, wait, false).await
}

/// Prints the warnings of an answer.
pub(crate) fn warn(answer: &Value) {
    for warning in answer["Warnings"].as_array().into_iter().flatten() {
        eprintln!("{}", text(warning));
    }
}

/// A word with its first letter large.
pub(crate) fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}
