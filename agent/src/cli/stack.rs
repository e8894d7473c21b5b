//! `stack`: a compose file and the API's objects that it becomes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use proto::ServiceSpec;
use proto::object::Service;
use serde_json::json;

use super::client::{Client, escape, is_not_found, query};
use super::container::text;
use super::format::Listing;
use super::service::{self, Ls};
use super::{converge, task};
use crate::compose::{self, Loaded, NAMESPACE, StackPlan};

/// `stack …`
#[derive(Debug, Subcommand)]
pub(crate) enum StackVerb {
    /// Deploy a new stack or update an existing stack
    #[command(visible_alias = "up")]
    Deploy(Deploy),
    /// Outputs the final config file, after doing merges and interpolations
    Config {
        /// Path to a Compose file, or "-" to read from stdin
        #[arg(short = 'c', long = "compose-file", required = true)]
        files: Vec<PathBuf>,
    },
    /// List stacks
    #[command(visible_alias = "list")]
    Ls {
        /// Format output: "table", "table TEMPLATE", "json" or a template
        #[arg(long)]
        format: Option<String>,
    },
    /// List the tasks in the stack
    Ps {
        #[command(flatten)]
        options: task::Options,
        stack: String,
    },
    /// Remove one or more stacks
    #[command(visible_aliases = ["remove", "down"])]
    Rm {
        /// Do not wait for the tasks to be gone
        #[arg(short, long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
        detach: bool,
        #[arg(required = true, value_name = "STACK")]
        names: Vec<String>,
    },
    /// List the services in the stack
    Services {
        #[command(flatten)]
        ls: Ls,
        stack: String,
    },
}

/// `stack deploy`
#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// Path to a Compose file, or "-" to read from stdin
    #[arg(short = 'c', long = "compose-file", required = true)]
    files: Vec<PathBuf>,
    /// Prune services that are no longer referenced
    #[arg(long)]
    prune: bool,
    /// Exit immediately instead of waiting for the stack services to converge
    #[arg(short, long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    detach: bool,
    stack: String,
}

impl StackVerb {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        match self {
            Self::Deploy(deploy) => deploy.run(client).await,
            Self::Config { files } => {
                print!("{}", load(&files)?.to_yaml());
                Ok(())
            }
            Self::Ls { format } => ls(client, format.as_deref()).await,
            Self::Ps { options, stack } => {
                require(client, &stack).await?;
                options.print(client, &[("label", &label(&stack))]).await
            }
            Self::Rm { detach, names } => {
                for name in &names {
                    remove(client, name).await?;
                    if !detach {
                        wait_gone(client, name).await;
                    }
                }
                Ok(())
            }
            Self::Services { ls, stack } => {
                require(client, &stack).await?;
                ls.print(client, &[("label", &label(&stack))]).await.map(drop)
            }
        }
    }
}

impl Deploy {
    async fn run(self, client: &Client) -> Result<()> {
        check_name(&self.stack)?;
        let loaded = load(&self.files)?;
        for service in loaded
            .stack
            .services
            .iter()
            .filter(|service| service.build.is_some())
        {
            eprintln!(
                "warning: services.{}.build: not acted on by stack deploy, which takes the image {} as it is; `agent up` builds",
                service.key, service.container.image
            );
        }
        let plan = compose::plan(&loaded.stack, &self.stack);
        let services = deploy(client, plan, &self.stack, self.prune).await?;
        if self.detach {
            Ok(())
        } else {
            converge::wait(client, &services).await
        }
    }
}

/// Loads files with this process's environment; prints what they warn of.
pub(crate) fn load(files: &[PathBuf]) -> Result<Loaded> {
    let loaded = compose::load(files, &variables(files)?)?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(loaded)
}

/// What `$NAME` may stand for: this process's environment, and under it the file `.env` beside the first compose file.
fn variables(files: &[PathBuf]) -> Result<compose::Variables> {
    let mut variables: compose::Variables = std::env::vars().collect();
    let file = files
        .first()
        .map_or_else(|| PathBuf::from(".env"), |first| first.with_file_name(".env"));
    match std::fs::read_to_string(&file) {
        Ok(text) => {
            let pairs = compose::env_file(&text)
                .map_err(|problem| anyhow::anyhow!("env file {}: {problem}", file.display()))?;
            for (name, value) in pairs {
                variables.entry(name).or_insert(value);
            }
            Ok(variables)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(variables),
        Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
    }
}

/// A stack's name becomes part of the names of everything in it.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if !name.is_empty() && name.bytes().all(plain) && name.as_bytes()[0].is_ascii_alphanumeric() {
        return Ok(());
    }
    bail!("invalid stack name {name:?}: use letters, digits, - and _, beginning with a letter or digit");
}

/// Makes the agent's objects what the plan says; identifiers of the stack's services.
pub(crate) async fn deploy(
    client: &Client,
    mut plan: StackPlan,
    stack: &str,
    prune: bool,
) -> Result<Vec<String>> {
    require_external(client, &plan).await?;
    if prune {
        prune_services(client, &plan, stack).await?;
    }
    let mut made = Made::default();
    let outcome = apply(client, &mut plan, &mut made).await;
    if outcome.is_err() {
        made.undo(client).await;
    }
    outcome
}

async fn apply(client: &Client, plan: &mut StackPlan, made: &mut Made) -> Result<Vec<String>> {
    networks(client, plan, made).await?;
    let secrets = contents(client, "secrets", &plan.secrets, made).await?;
    let configs = contents(client, "configs", &plan.configs, made).await?;
    let mut ids = Vec::new();
    for spec in &mut plan.services {
        bind(client, spec, &secrets, &configs).await?;
        ids.push(service(client, spec, made).await?);
    }
    Ok(ids)
}

/// What this deployment has created, so that a failure leaves nothing half made.
#[derive(Debug, Default)]
struct Made(Vec<(&'static str, String)>);

impl Made {
    fn add(&mut self, kind: &'static str, answer: &serde_json::Value) -> String {
        let id = answer["ID"]
            .as_str()
            .or(answer["Id"].as_str())
            .unwrap_or_default();
        self.0.push((kind, id.to_owned()));
        id.to_owned()
    }

    /// Takes it all back, the last one first; what cannot be taken back is said.
    async fn undo(self, client: &Client) {
        for (kind, id) in self.0.into_iter().rev() {
            if let Err(error) = remove_one(client, kind, &id).await {
                eprintln!("cannot take back /{kind}/{id}: {error:#}");
            }
        }
    }
}

async fn require_external(client: &Client, plan: &StackPlan) -> Result<()> {
    for (kind, names) in [
        ("networks", &plan.external_networks),
        ("secrets", &plan.external_secrets),
        ("configs", &plan.external_configs),
    ] {
        for name in names {
            let found = client.get(&format!("/{kind}/{}", escape(name))).await;
            found.with_context(|| {
                format!("the file names {name} as external, so it must be there: create it first")
            })?;
        }
    }
    Ok(())
}

async fn prune_services(client: &Client, plan: &StackPlan, stack: &str) -> Result<()> {
    let kept: BTreeSet<&str> = plan.services.iter().map(|spec| spec.name.as_str()).collect();
    for service in services(client, stack).await? {
        if !kept.contains(service.spec.name.as_str()) {
            println!("Removing service {}", service.spec.name);
            client.delete(&format!("/services/{}", service.id)).await?;
        }
    }
    Ok(())
}

/// Missing networks are made; those that are there stay as they are, as with Docker.
async fn networks(client: &Client, plan: &StackPlan, made: &mut Made) -> Result<()> {
    for spec in &plan.networks {
        match client
            .get(&format!("/networks/{}?scope=swarm", escape(&spec.name)))
            .await
        {
            Ok(found) => {
                same_network(&found, spec)?;
                continue;
            }
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error),
        }
        println!("Creating network {}", spec.name);
        let driver = spec.driver_configuration.clone().unwrap_or_default();
        let pools = spec
            .ipam_options
            .as_ref()
            .map(|options| options.configs.clone())
            .unwrap_or_default();
        let body = json!({
            "Name": spec.name, "Driver": driver.name, "Options": driver.options, "Labels": spec.labels,
            "Internal": spec.internal, "Attachable": spec.attachable, "Scope": "swarm", "IPAM": {"Config": pools},
        });
        let answer = client.post("/networks/create", &body).await;
        made.add(
            "networks",
            &answer.with_context(|| format!("create network {}", spec.name))?,
        );
    }
    Ok(())
}

/// What secrets and configs have in common.
trait Content: serde::Serialize {
    fn name(&self) -> &str;
}

impl Content for proto::SecretSpec {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Content for proto::ConfigSpec {
    fn name(&self) -> &str {
        &self.name
    }
}

/// Makes what is missing, and brings labels up to date where it is there; the identifiers by name. Content that has
/// changed is refused by the agent, which never changes what tasks may be reading.
async fn contents<T: Content>(
    client: &Client,
    kind: &'static str,
    specs: &[T],
    made: &mut Made,
) -> Result<BTreeMap<String, String>> {
    let mut ids = BTreeMap::new();
    for spec in specs {
        let singular = kind.trim_end_matches('s');
        let id = match client.get(&format!("/{kind}/{}", escape(spec.name()))).await {
            Ok(found) => {
                let path = format!(
                    "/{kind}/{}/update?version={}",
                    text(&found["ID"]),
                    found["Version"]["Index"]
                );
                client.post(&path, spec).await.with_context(|| {
                    format!(
                        "the content of {singular} {} has changed; give it a new name in the file",
                        spec.name()
                    )
                })?;
                text(&found["ID"])
            }
            Err(error) if is_not_found(&error) => {
                println!("Creating {singular} {}", spec.name());
                let answer = client.post(&format!("/{kind}/create"), spec).await;
                made.add(
                    kind,
                    &answer.with_context(|| format!("create {singular} {}", spec.name()))?,
                )
            }
            Err(error) => return Err(error),
        };
        ids.insert(spec.name().to_owned(), id);
    }
    Ok(ids)
}

/// Puts identifiers where the plan has names.
async fn bind(
    client: &Client,
    spec: &mut ServiceSpec,
    secrets: &BTreeMap<String, String>,
    configs: &BTreeMap<String, String>,
) -> Result<()> {
    for network in &mut spec.task_template.networks {
        let found = client
            .get(&format!("/networks/{}?scope=swarm", escape(&network.target)))
            .await?;
        network.target = text(&found["Id"]);
    }
    let Some(container) = &mut spec.task_template.container_spec else {
        return Ok(());
    };
    for used in &mut container.secrets {
        used.secret_id = identifier(client, "secrets", &used.secret_name, secrets)
            .await?
            .into();
    }
    for used in &mut container.configs {
        used.config_id = identifier(client, "configs", &used.config_name, configs)
            .await?
            .into();
    }
    Ok(())
}

async fn identifier(
    client: &Client,
    kind: &str,
    name: &str,
    known: &BTreeMap<String, String>,
) -> Result<String> {
    match known.get(name) {
        Some(id) => Ok(id.clone()),
        None => Ok(text(
            &client.get(&format!("/{kind}/{}", escape(name))).await?["ID"],
        )),
    }
}

/// Makes a service, or updates it if its spec has changed; its identifier.
async fn service(client: &Client, spec: &ServiceSpec, made: &mut Made) -> Result<String> {
    let found = match client.get(&format!("/services/{}", escape(&spec.name))).await {
        Ok(found) => found,
        Err(error) if is_not_found(&error) => {
            println!("Creating service {}", spec.name);
            let answer = client.post("/services/create", spec).await;
            let answer = answer.with_context(|| format!("create service {}", spec.name))?;
            service::warn(&answer);
            return Ok(made.add("services", &answer));
        }
        Err(error) => return Err(error),
    };
    let id = text(&found["ID"]);
    let before: ServiceSpec = serde_json::from_value(found["Spec"].clone()).context("the service's spec")?;
    let mut spec = spec.clone();
    // A user's `service update --force` stays in force: the file says nothing of it.
    spec.task_template.force_update = before.task_template.force_update;
    if spec == before {
        return Ok(id);
    }
    println!("Updating service {} (id: {id})", spec.name);
    let answer = client
        .post(
            &format!("/services/{id}/update?version={}", found["Version"]["Index"]),
            &spec,
        )
        .await;
    service::warn(&answer.with_context(|| format!("update service {}", spec.name))?);
    Ok(id)
}

/// Removes a stack's services, secrets, configs and networks. Volumes stay.
pub(crate) async fn remove(client: &Client, stack: &str) -> Result<()> {
    let query = query(&[("filters", &json!({"label": [label(stack)]}).to_string())]);
    let mut found = false;
    for (kind, singular) in [
        ("services", "service"),
        ("secrets", "secret"),
        ("configs", "config"),
        ("networks", "network"),
    ] {
        let list = client.get(&format!("/{kind}{query}")).await?;
        for object in list.as_array().into_iter().flatten() {
            found = true;
            let id = object["ID"]
                .as_str()
                .or(object["Id"].as_str())
                .unwrap_or_default();
            let name = object["Spec"]["Name"]
                .as_str()
                .or(object["Name"].as_str())
                .unwrap_or_default();
            println!("Removing {singular} {name}");
            remove_one(client, kind, id).await?;
        }
    }
    if !found {
        eprintln!("Nothing found in stack: {stack}");
    }
    Ok(())
}

/// Nothing of the stack shall wait on the disk for the agent's next start.
pub(crate) async fn wait_gone(client: &Client, stack: &str) {
    let filters = json!({"label": [label(stack)]}).to_string();
    let path = format!(
        "/containers/json{}",
        query(&[("all", "1"), ("filters", &filters)])
    );
    for _ in 0..300 {
        match client.get(&path).await {
            Ok(list) if list.as_array().is_some_and(|list| !list.is_empty()) => {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            _ => return,
        }
    }
}

/// A network cannot be changed: a file that says something else of it than what is there must not pass without a word.
fn same_network(found: &serde_json::Value, spec: &proto::spec::NetworkSpec) -> Result<()> {
    let driver = spec.driver_configuration.clone().unwrap_or_default();
    let pools = spec.ipam_options.iter().flat_map(|options| &options.configs);
    let known = found["IPAM"]["Config"].as_array().cloned().unwrap_or_default();
    let known_pool = |subnet: &str| subnet.is_empty() || known.iter().any(|pool| pool["Subnet"] == subnet);
    let options = |key: &String, value: &String| found["Options"][key] == json!(value);
    let differs = [
        ("driver", found["Driver"] != json!(driver.name)),
        ("internal", found["Internal"] != json!(spec.internal)),
        ("attachable", found["Attachable"] != json!(spec.attachable)),
        ("labels", found["Labels"] != json!(spec.labels)),
        ("ipam", pools.into_iter().any(|pool| !known_pool(&pool.subnet))),
        (
            "driver_opts",
            driver.options.iter().any(|(key, value)| !options(key, value)),
        ),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        None => Ok(()),
        Some((key, _)) => bail!(
            "network {} is there with another value of {key}, and a network cannot be changed: give it another name in the \
             file, or remove it first (`agent network rm {}`, when no task is on it)",
            spec.name,
            spec.name
        ),
    }
}

/// What is still in use by tasks that stop is tried again until they have stopped.
async fn remove_one(client: &Client, kind: &str, id: &str) -> Result<()> {
    const TRIES: u32 = 300;
    let path = format!("/{kind}/{id}");
    for _ in 0..TRIES {
        match client.delete(&path).await {
            Ok(_) => return Ok(()),
            Err(error) if is_not_found(&error) => return Ok(()),
            Err(error)
                if !error.to_string().contains("in use")
                    && !error.to_string().contains("active endpoints") =>
            {
                return Err(error);
            }
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
        }
    }
    client.delete(&path).await.map(drop)
}

async fn ls(client: &Client, format: Option<&str>) -> Result<()> {
    let filters = json!({"label": [NAMESPACE]}).to_string();
    let services: Vec<Service> = client
        .fetch(&format!("/services{}", query(&[("filters", &filters)])))
        .await?;
    let mut stacks = BTreeMap::<String, usize>::new();
    for service in &services {
        if let Some(stack) = service.spec.labels.get(NAMESPACE) {
            *stacks.entry(stack.clone()).or_default() += 1;
        }
    }
    let mut listing =
        Listing::new(&[("Name", "NAME"), ("Services", "SERVICES")]).more(&[("Orchestrator", "ORCHESTRATOR")]);
    for (stack, count) in stacks {
        listing.row([stack, count.to_string(), "Swarm".to_owned()]);
    }
    listing.print_as(format)
}

async fn require(client: &Client, stack: &str) -> Result<()> {
    if services(client, stack).await?.is_empty() {
        bail!("nothing found in stack: {stack}");
    }
    Ok(())
}

/// The services of a stack.
pub(crate) async fn services(client: &Client, stack: &str) -> Result<Vec<Service>> {
    let filters = json!({"label": [label(stack)]}).to_string();
    client
        .fetch(&format!("/services{}", query(&[("filters", &filters)])))
        .await
}

pub(crate) fn label(stack: &str) -> String {
    format!("{NAMESPACE}={stack}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stack_names() {
        assert!(check_name("my-app_1").is_ok());
        for name in ["", "-a", "a b", "a.b", "../x"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
