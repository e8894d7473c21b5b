//! Waiting until services are what they shall be, and saying how it goes: a bar per service on a terminal, a line per
//! change otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use proto::TaskState;
use proto::object::{Service, Task, UpdateState};
use serde_json::json;

use super::client::{Client, query};

/// How long one service may show an error on all that it has started before that counts as the end of the wait.
const PATIENCE: usize = 3;
/// What the server is asked between two looks; it has no event per task (Docker API, section Events).
const PAUSE: Duration = Duration::from_millis(100);
/// How long tasks without a healthcheck have to run before they count as up.
const STEADY: Duration = Duration::from_secs(1);

/// What the services are on their way to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// The newest spec; to be back at the one before is a failure.
    Update,
    /// The spec before the newest.
    Rollback,
}

/// Waits until every service has all its tasks running, of its newest spec, and no update under way.
///
/// # Errors
/// An update that was paused or rolled back, or tasks that fail again and again: names the task and its error.
pub(crate) async fn wait(client: &Client, services: &[String]) -> Result<()> {
    reach(client, services, Goal::Update, false).await
}

/// Waits until every service has reached its goal.
///
/// # Errors
/// As [`wait`]; a rollback that has come to its end is none if it was the goal.
pub(crate) async fn reach(client: &Client, services: &[String], goal: Goal, quiet: bool) -> Result<()> {
    let mut screen = Screen::new();
    let mut failures: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut runs: BTreeMap<String, Steady> = BTreeMap::new();
    let mut open: Vec<String> = services.to_vec();
    while !open.is_empty() {
        let mut still = Vec::new();
        for id in open {
            let view = View::fetch(client, &id).await?;
            if !quiet {
                screen.show(&view);
            }
            if let Some(problem) = view.problem(goal, failures.entry(id.clone()).or_default()) {
                screen.end();
                bail!("{problem}");
            }
            let steady = runs.entry(id.clone()).or_default().is(&view);
            if !steady {
                still.push(id);
            }
        }
        open = still;
        if !open.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    }
    screen.end();
    Ok(())
}

/// Since when the same tasks have been there. A program that ends at once runs too, for a moment.
#[derive(Default)]
struct Steady {
    tasks: BTreeSet<String>,
    since: Option<Instant>,
}

impl Steady {
    fn is(&mut self, view: &View) -> bool {
        let tasks: BTreeSet<String> = view.running().map(|task| task.id.to_string()).collect();
        if self.since.is_none() || tasks != self.tasks {
            *self = Self {
                tasks,
                since: Some(Instant::now()),
            };
        }
        let long_enough = self.since.is_some_and(|since| since.elapsed() >= STEADY);
        view.is_done() && (long_enough || view.is_sure() || self.tasks.is_empty())
    }
}

struct View {
    service: Service,
    tasks: Vec<Task>,
}

impl View {
    async fn fetch(client: &Client, id: &str) -> Result<Self> {
        let path = format!(
            "/services{}",
            query(&[("status", "true"), ("filters", &json!({"id": [id]}).to_string())])
        );
        let mut found: Vec<Service> = client.fetch(&path).await?;
        let Some(service) = found.pop() else {
            bail!("the service {id} has been removed")
        };
        let filters = json!({"service": [id], "_up-to-date": ["true"]}).to_string();
        let tasks = client
            .fetch(&format!("/tasks{}", query(&[("filters", &filters)])))
            .await?;
        Ok(Self { service, tasks })
    }

    fn wanted(&self) -> u64 {
        self.service.service_status.unwrap_or_default().desired_tasks
    }

    /// Tasks of the newest spec that are there.
    fn there(&self) -> u64 {
        self.running().count() as u64
    }

    /// Its tasks say themselves when they are up (`running` comes after `healthy`), or that they are through.
    fn is_sure(&self) -> bool {
        let container = &self.service.spec.task_template.container_spec;
        self.service.spec.mode.is_job()
            || container
                .as_ref()
                .and_then(|spec| spec.healthcheck.as_ref())
                .is_some_and(|check| check.test.first().is_some_and(|kind| kind != "NONE"))
    }

    fn running(&self) -> impl Iterator<Item = &Task> {
        let goal = |task: &&Task| {
            let job = self.service.spec.mode.is_job();
            let well = if job {
                TaskState::Complete
            } else {
                TaskState::Running
            };
            let there = task.status.state == well && (job || task.desired_state == TaskState::Running);
            there || task.status.state == TaskState::Complete && self.is_last(task)
        };
        self.tasks.iter().filter(goal)
    }

    /// Whether nothing comes after this task: its restart policy has had its say.
    fn is_last(&self, task: &Task) -> bool {
        let place = |task: &Task| (task.slot, (task.slot == 0).then(|| task.node_id.clone()));
        let later = |other: &Task| {
            other.desired_state <= TaskState::Running || other.meta.created_at > task.meta.created_at
        };
        task.desired_state == TaskState::Shutdown
            && !self
                .tasks
                .iter()
                .any(|other| other.id != task.id && place(other) == place(task) && later(other))
    }

    fn is_done(&self) -> bool {
        let updating = self.service.update_status.as_ref().is_some_and(|status| {
            matches!(status.state, UpdateState::Updating | UpdateState::RollbackStarted)
        });
        let running = self.service.service_status.unwrap_or_default().running_tasks;
        let finished = self
            .running()
            .filter(|task| task.status.state == TaskState::Complete);
        !updating
            && self.there() >= self.wanted()
            && (self.service.spec.mode.is_job() || running + finished.count() as u64 == self.wanted())
    }

    /// What will not get better by waiting.
    fn problem(&self, goal: Goal, seen: &mut Vec<String>) -> Option<String> {
        let name = &self.service.spec.name;
        if let Some(status) = &self.service.update_status {
            match status.state {
                UpdateState::Paused | UpdateState::RollbackPaused => {
                    return Some(format!("service {name}: update paused: {}", status.message));
                }
                UpdateState::RollbackCompleted if goal == Goal::Update => {
                    return Some(format!("service {name}: rolled back: {}", status.message));
                }
                UpdateState::Updating
                | UpdateState::Completed
                | UpdateState::RollbackStarted
                | UpdateState::RollbackCompleted => {}
            }
        }
        for task in self.tasks.iter().filter(|task| {
            matches!(task.status.state, TaskState::Failed | TaskState::Rejected)
                && !task.status.err.is_empty()
        }) {
            if !seen.contains(&task.id.to_string()) {
                seen.push(task.id.to_string());
            }
            if seen.len() >= PATIENCE || task.status.state == TaskState::Rejected || self.is_last(task) {
                let slot = if task.slot == 0 {
                    task.node_id.to_string()
                } else {
                    task.slot.to_string()
                };
                return Some(format!(
                    "task {name}.{slot} ({}) {}: {}",
                    task.id, task.status.state, task.status.err
                ));
            }
        }
        None
    }

    /// What the tasks that are not there are at.
    fn doing(&self) -> String {
        let waiting = self.tasks.iter().filter(|task| {
            task.desired_state <= TaskState::Running && task.status.state < TaskState::Running
        });
        let last = waiting.max_by_key(|task| task.status.timestamp);
        last.map(|task| {
            let status = &task.status;
            let why = if status.err.is_empty() {
                &status.message
            } else {
                &status.err
            };
            if why.is_empty() {
                status.state.to_string()
            } else {
                format!("{}: {why}", status.state)
            }
        })
        .unwrap_or_default()
    }
}

struct Screen {
    bars: Option<MultiProgress>,
    lines: BTreeMap<String, (Option<ProgressBar>, String)>,
}

impl Screen {
    fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self {
            bars,
            lines: BTreeMap::new(),
        }
    }

    fn show(&mut self, view: &View) {
        let name = view.service.spec.name.clone();
        let bars = self.bars.as_ref();
        let (bar, before) = self.lines.entry(name.clone()).or_insert_with(|| {
            let bar = bars.map(|bars| bars.add(bar_of(&name)));
            (bar, String::new())
        });
        let (there, wanted) = (view.there(), view.wanted());
        let doing = if view.is_done() {
            "running".to_owned()
        } else {
            view.doing()
        };
        match bar {
            Some(bar) => {
                bar.set_length(wanted);
                bar.set_position(there);
                bar.set_message(doing);
                if view.is_done() {
                    bar.finish();
                }
            }
            None => {
                let line = format!("{name}: {there}/{wanted} {doing}").trim_end().to_owned();
                if line != *before {
                    eprintln!("{line}");
                    *before = line;
                }
            }
        }
    }

    fn end(&mut self) {
        for (bar, _) in self
            .lines
            .values()
            .filter_map(|(bar, line)| bar.as_ref().map(|bar| (bar, line)))
        {
            bar.abandon();
        }
    }
}

fn bar_of(name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:24} [{bar:20}] {pos}/{len} {wide_msg}");
    let bar = ProgressBar::new(1);
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(name.to_owned());
    bar
}
