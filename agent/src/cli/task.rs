//! `task`, and the tables of tasks for `service ps`, `stack ps` and `node ps`.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::{Args, Subcommand};
use proto::object::{Node, Service, Task};

use super::client::{Client, filters, query};
use super::exec::TaskExec;
use super::format::{ListFlags, Listing};
use super::{human, service};

/// `task …`
#[derive(Debug, Subcommand)]
pub(crate) enum TaskVerb {
    /// Execute a command in a running task, on whatever node
    Exec(TaskExec),
}

impl TaskVerb {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        match self {
            Self::Exec(exec) => exec.run(client).await,
        }
    }
}

/// What the three have in common.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    list: ListFlags,
    /// Do not map IDs to Names
    #[arg(long)]
    no_resolve: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
}

impl Options {
    /// Prints the tasks that the filters choose; says whether there are any.
    pub(crate) async fn print(&self, client: &Client, fixed: &[(&str, &str)]) -> Result<()> {
        let filters = filters(&self.list.filter, fixed)?;
        let tasks: Vec<Task> = client
            .fetch(&format!("/tasks{}", query(&[("filters", &filters)])))
            .await?;
        let mut listing = Listing::new(&[
            ("ID", "ID"),
            ("Name", "NAME"),
            ("Image", "IMAGE"),
            ("Node", "NODE"),
            ("DesiredState", "DESIRED STATE"),
            ("CurrentState", "CURRENT STATE"),
            ("Error", "ERROR"),
            ("Ports", "PORTS"),
        ]);
        let names = if self.no_resolve {
            Names::default()
        } else {
            Names::fetch(client).await?
        };
        let mut before = String::new();
        for task in ordered(tasks, &names) {
            let name = names.task(&task);
            // Earlier tasks of the same slot hang below the newest one.
            let shown = if name == before && self.list.format.is_none() {
                format!(" \\_ {name}")
            } else {
                name.clone()
            };
            before = name;
            listing.row(self.row(&task, shown, &names));
        }
        listing.print(&self.list)
    }

    fn id(&self, task: &Task) -> String {
        if self.no_trunc || self.list.quiet {
            task.id.to_string()
        } else {
            human::short(task.id.as_str()).to_owned()
        }
    }

    fn row(&self, task: &Task, name: String, names: &Names) -> [String; 8] {
        let image = task
            .spec
            .container_spec
            .as_ref()
            .map_or("", |spec| spec.image.as_str());
        let image = if self.no_trunc { image } else { human::image(image) };
        let mut error = task.status.err.clone();
        if !error.is_empty() {
            if !self.no_trunc {
                error = human::ellipsis(&error, 30);
            }
            error = format!("\"{error}\"");
        }
        [
            self.id(task),
            name,
            image.to_owned(),
            names.node(task),
            service::capitalised(task.desired_state.as_str()),
            format!(
                "{} {}",
                service::capitalised(task.status.state.as_str()),
                lower_ago(task)
            ),
            error,
            host_ports(task),
        ]
    }
}

fn lower_ago(task: &Task) -> String {
    let ago = human::ago(task.status.timestamp);
    let mut letters = ago.chars();
    letters
        .next()
        .map(|first| first.to_lowercase().chain(letters).collect())
        .unwrap_or_default()
}

fn host_ports(task: &Task) -> String {
    let one = |port: &proto::spec::PortConfig| {
        format!(
            "*:{}->{}/{}",
            port.published_port, port.target_port, port.protocol
        )
    };
    task.status
        .port_status
        .ports
        .iter()
        .map(one)
        .collect::<Vec<_>>()
        .join(",")
}

/// By service, slot and node, the newest first.
fn ordered(mut tasks: Vec<Task>, names: &Names) -> Vec<Task> {
    tasks.sort_by(|one, two| {
        let key = |task: &Task| (names.service(task), task.slot, task.node_id.clone());
        let by_slot = (key(one).0, key(one).1).cmp(&(key(two).0, key(two).1));
        let by_node = if one.slot == 0 {
            one.node_id.cmp(&two.node_id)
        } else {
            std::cmp::Ordering::Equal
        };
        by_slot
            .then(by_node)
            .then(two.meta.created_at.cmp(&one.meta.created_at))
    });
    tasks
}

#[derive(Debug, Default)]
struct Names {
    services: BTreeMap<String, String>,
    nodes: BTreeMap<String, String>,
}

impl Names {
    async fn fetch(client: &Client) -> Result<Self> {
        let services: Vec<Service> = client.fetch("/services").await?;
        let nodes: Vec<Node> = client.fetch("/nodes").await?;
        Ok(Self {
            services: services
                .into_iter()
                .map(|service| (service.id.into(), service.spec.name))
                .collect(),
            nodes: nodes
                .into_iter()
                .map(|node| (node.id.into(), node.description.hostname))
                .collect(),
        })
    }

    fn service(&self, task: &Task) -> String {
        self.services
            .get(task.service_id.as_str())
            .cloned()
            .unwrap_or_else(|| task.service_id.to_string())
    }

    fn node(&self, task: &Task) -> String {
        self.nodes
            .get(task.node_id.as_str())
            .cloned()
            .unwrap_or_else(|| task.node_id.to_string())
    }

    fn task(&self, task: &Task) -> String {
        if task.slot == 0 {
            format!("{}.{}", self.service(task), task.node_id)
        } else {
            format!("{}.{}", self.service(task), task.slot)
        }
    }
}
