//! `/tasks`: what runs, ran, or waits.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use manager::Control;
use proto::spec::ATTACHMENT_RUNTIME;
use proto::{Service, Task, TaskState};

use super::error::{ApiError, ApiResult};
use super::filters::Filters;
use super::params::Params;
use super::state::App;

/// `_up-to-date` is not documented; the stock CLI asks it while it shows an update's progress.
const FILTERS: &[&str] = &[
    "desired-state",
    "id",
    "label",
    "name",
    "node",
    "service",
    "_up-to-date",
    "runtime",
];

/// Routes of this module.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/tasks", get(list))
        .route("/tasks/{id}", get(inspect))
}

async fn list(State(app): State<App>, params: Params) -> ApiResult<Json<Vec<Arc<Task>>>> {
    let control = app.control()?;
    let filters = params.filters(FILTERS)?;
    let shows_progress = filters.flag("_up-to-date")? == Some(true);
    let mut tasks = match shows_progress {
        true => control.tasks_up_to_date(),
        false => control.tasks(),
    };
    let selection = Selection::new(&control, filters, &app)?;
    tasks.retain(|task| selection.has(task));
    if shows_progress {
        let service = |task: &Task| control.service(task.service_id.as_str()).ok();
        let of_job =
            |task: &Task| service(task).is_some_and(|service| service.spec.mode.replicated_job.is_some());
        tasks.iter_mut().for_each(|task| {
            if of_job(task) {
                count_from_zero(task);
            }
        });
    }
    Ok(Json(tasks))
}

/// The stock command line counts the tasks of a replicated job from 0, as SwarmKit does, while it waits for them, and would
/// wait for ever for one that has the number 0.
fn count_from_zero(task: &mut Arc<Task>) {
    let task = Arc::make_mut(task);
    task.slot = task.slot.saturating_sub(1);
}

async fn inspect(State(app): State<App>, Path(id): Path<String>) -> ApiResult<Json<Arc<Task>>> {
    Ok(Json(app.control()?.task(&id)?))
}

/// Filters whose names of services and nodes have been resolved.
struct Selection {
    filters: Filters,
    services: Option<Vec<Arc<Service>>>,
    nodes: Option<Vec<String>>,
    states: Vec<TaskState>,
}

impl Selection {
    fn new(control: &Control, filters: Filters, app: &App) -> ApiResult<Self> {
        let services = filters
            .values("service")
            .map(|name| control.service(name))
            .collect::<Result<Vec<_>, _>>()?;
        let nodes = filters.values("node").map(|name| node_id(control, name, app));
        let nodes = nodes.collect::<ApiResult<Vec<_>>>()?;
        let state = |word: &str| word.parse().map_err(|_| bad_state(word));
        let states = filters
            .values("desired-state")
            .map(state)
            .collect::<ApiResult<_>>()?;
        Ok(Self {
            services: filters.contains("service").then_some(services),
            nodes: filters.contains("node").then_some(nodes),
            states,
            filters,
        })
    }

    fn has(&self, task: &Task) -> bool {
        let of = |services: &Vec<Arc<Service>>| services.iter().any(|service| service.id == task.service_id);
        self.services.as_ref().is_none_or(of)
            && self
                .nodes
                .as_ref()
                .is_none_or(|nodes| nodes.iter().any(|node| node == task.node_id.as_str()))
            && (self.states.is_empty() || self.states.contains(&task.desired_state))
            && self.filters.prefix("id", task.id.as_str())
            && self.filters.prefix("name", &task.name())
            && self.filters.labels("label", &task.labels)
            && self.has_runtime(task)
    }

    /// Places of containers that were started by hand are listed for those who ask for them, as in Docker.
    fn has_runtime(&self, task: &Task) -> bool {
        match (self.filters.contains("runtime"), task.attachment()) {
            (false, attachment) => attachment.is_none(),
            (true, None) => self.filters.exact("runtime", "container"),
            (true, Some(_)) => self.filters.exact("runtime", ATTACHMENT_RUNTIME),
        }
    }
}

fn node_id(control: &Control, name: &str, app: &App) -> ApiResult<String> {
    match (name, app.cluster.manager()) {
        ("self", Some(manager)) => Ok(manager.node_id().to_string()),
        _ => Ok(control.node(name)?.id.to_string()),
    }
}

fn bad_state(word: &str) -> ApiError {
    ApiError::bad_request(format!("invalid filter 'desired-state={word}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_task_of_a_job_is_number_zero_for_who_waits() {
        let kept = Arc::new(Task {
            slot: 1,
            ..Task::default()
        });
        let mut shown = kept.clone();
        count_from_zero(&mut shown);
        assert_eq!((kept.slot, shown.slot), (1, 0));
    }
}
