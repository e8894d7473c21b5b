//! What one service is at: which of its tasks are well, and what will not get better by waiting.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use proto::object::{Service, Task, UpdateState};
use proto::{TaskId, TaskState};
use serde_json::json;

use super::Goal;
use crate::cli::client::{Client, query};

/// How often a task of one place may fail before that counts as the end of the wait, where the service sets no limit.
const PATIENCE: usize = 3;

/// A service and its tasks of the newest spec.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) service: Service,
    tasks: Vec<Task>,
}

/// Where in a service a task stands: its slot, or its node in global services.
type Place = (u64, String);

impl View {
    /// What the service is at now; nothing if it is gone.
    pub(super) async fn fetch(client: &Client, id: &str) -> Result<Option<Self>> {
        let filters = json!({"id": [id]}).to_string();
        let path = format!("/services{}", query(&[("status", "true"), ("filters", &filters)]));
        let mut found: Vec<Service> = client.fetch(&path).await?;
        let Some(service) = found.pop() else {
            return Ok(None);
        };
        let filters = json!({"service": [id], "_up-to-date": ["true"]}).to_string();
        let path = format!("/tasks{}", query(&[("filters", &filters)]));
        Ok(Some(Self::new(service, client.fetch(&path).await?)))
    }

    fn new(service: Service, mut tasks: Vec<Task>) -> Self {
        if let Some(job) = &service.job_status {
            tasks.retain(|task| task.job_iteration == Some(job.job_iteration));
        }
        // Answers about progress count the tasks of a job from 0, for the stock command line; people count from 1.
        if service.spec.mode.replicated_job.is_some() {
            tasks.iter_mut().for_each(|task| task.slot += 1);
        }
        Self { service, tasks }
    }

    /// How many tasks there shall be.
    pub(super) fn wanted(&self) -> u64 {
        let mode = &self.service.spec.mode;
        match &mode.replicated_job {
            Some(job) => job.total_completions.unwrap_or(1),
            // One per node: the orchestrator has chosen the nodes.
            None if mode.global_job.is_some() => self.places().len() as u64,
            None => self.service.service_status.unwrap_or_default().desired_tasks,
        }
    }

    /// How many of them are well.
    pub(super) fn there(&self) -> u64 {
        self.well().count() as u64
    }

    /// Tasks of the newest spec that run, or have ended as they should.
    pub(super) fn well(&self) -> impl Iterator<Item = &Task> {
        let job = self.service.spec.mode.is_job();
        self.tasks.iter().filter(move |task| match task.status.state {
            TaskState::Running => !job && task.desired_state == TaskState::Running,
            TaskState::Complete => job || self.is_last(task),
            _ => false,
        })
    }

    /// Whether a look at the tasks that are well says enough, without waiting for how they go on: there are none to come,
    /// they are through, or they have a healthcheck (`running` comes after `healthy`).
    pub(super) fn is_sure(&self) -> bool {
        let mode = &self.service.spec.mode;
        if mode.global.is_some() || mode.global_job.is_some() {
            // The orchestrator may not have looked at all nodes yet.
            return false;
        }
        let container = &self.service.spec.task_template.container_spec;
        let check = container.as_ref().and_then(|spec| spec.healthcheck.as_ref());
        self.wanted() == 0
            || mode.is_job()
            || check.is_some_and(|check| check.test.first().is_some_and(|kind| kind != "NONE"))
    }

    /// Whether all is as it shall be.
    pub(super) fn is_done(&self) -> bool {
        let updating = self.service.update_status.as_ref().is_some_and(|status| {
            matches!(status.state, UpdateState::Updating | UpdateState::RollbackStarted)
        });
        // Tasks of a job are never updated: a new spec is a new run.
        let job = self.service.spec.mode.is_job();
        if (updating && !job) || self.there() < self.wanted() {
            return false;
        }
        let running = self.service.service_status.unwrap_or_default().running_tasks;
        let ended = self
            .well()
            .filter(|task| task.status.state == TaskState::Complete)
            .count() as u64;
        job || running + ended == self.wanted()
    }

    /// What will not get better by waiting.
    pub(super) fn problem(&self, goal: Goal, failures: &mut Failures) -> Option<String> {
        self.update_problem(goal).or_else(|| self.task_problem(failures))
    }

    /// What the tasks that are not well are at.
    pub(super) fn doing(&self) -> String {
        let waiting = self.tasks.iter().filter(|task| {
            task.desired_state <= TaskState::Running && task.status.state < TaskState::Running
        });
        let Some(last) = waiting.max_by_key(|task| task.status.timestamp) else {
            return String::new();
        };
        let status = &last.status;
        let why = [&status.err, &status.message]
            .into_iter()
            .find(|why| !why.is_empty());
        match why {
            Some(why) => format!("{}: {why}", status.state),
            None => status.state.to_string(),
        }
    }

    fn update_problem(&self, goal: Goal) -> Option<String> {
        let name = &self.service.spec.name;
        let status = self.service.update_status.as_ref()?;
        let problem = match status.state {
            UpdateState::Paused => format!("service {name}: update paused: {}", status.message),
            UpdateState::RollbackPaused => format!("service {name}: rollback paused: {}", status.message),
            UpdateState::RollbackCompleted if goal == Goal::Update => {
                format!("service {name}: rolled back: {}", status.message)
            }
            UpdateState::Updating
            | UpdateState::Completed
            | UpdateState::RollbackStarted
            | UpdateState::RollbackCompleted => return None,
        };
        match self.last_failure() {
            Some(task) => Some(format!("{problem}; {}", describe(name, task))),
            None => Some(problem),
        }
    }

    fn task_problem(&self, failures: &mut Failures) -> Option<String> {
        let new = failures.note(self);
        let hopeless =
            |task: &&Task| self.is_last(task) || new.contains(&task.id) && failures.is_enough(self, task);
        let task = self.failed().find(hopeless)?;
        Some(describe(&self.service.spec.name, task))
    }

    fn failed(&self) -> impl Iterator<Item = &Task> {
        self.tasks
            .iter()
            .filter(|task| matches!(task.status.state, TaskState::Failed | TaskState::Rejected))
    }

    fn last_failure(&self) -> Option<&Task> {
        self.failed().max_by_key(|task| task.status.timestamp)
    }

    fn places(&self) -> BTreeSet<Place> {
        self.tasks.iter().map(place).collect()
    }

    /// Whether nothing comes after this task: its restart policy has had its say.
    fn is_last(&self, task: &Task) -> bool {
        let later = |other: &Task| {
            other.desired_state <= TaskState::Running || other.meta.created_at > task.meta.created_at
        };
        task.desired_state == TaskState::Shutdown
            && !self
                .tasks
                .iter()
                .any(|other| other.id != task.id && place(other) == place(task) && later(other))
    }

    /// Whether the service itself says how often a task is tried again: then that counts.
    fn has_limit(&self) -> bool {
        let policy = &self.service.spec.task_template.restart_policy;
        policy
            .as_ref()
            .and_then(|policy| policy.max_attempts)
            .is_some_and(|attempts| attempts > 0)
    }
}

/// Failures of one service since the wait began, by place.
#[derive(Debug)]
pub(super) struct Failures {
    /// Whether there is one node only: what it has rejected no other can take.
    alone: bool,
    /// Tasks that had failed when the wait began: they are of the past.
    past: Option<BTreeSet<TaskId>>,
    seen: BTreeMap<Place, BTreeSet<TaskId>>,
}

impl Failures {
    pub(super) fn new(alone: bool) -> Self {
        Self {
            alone,
            past: None,
            seen: BTreeMap::new(),
        }
    }

    /// Notes what has failed; the tasks that count.
    fn note(&mut self, view: &View) -> BTreeSet<TaskId> {
        let failed = || view.failed().map(|task| task.id.clone());
        let past = self.past.get_or_insert_with(|| match self.alone {
            // A service that has just been made can have been rejected before the first look.
            true => view
                .failed()
                .filter(|task| task.status.state != TaskState::Rejected)
                .map(|task| task.id.clone())
                .collect(),
            false => failed().collect(),
        });
        let well: BTreeSet<Place> = view.well().map(place).collect();
        let new = view
            .failed()
            .filter(|task| !past.contains(&task.id) && !well.contains(&place(task)));
        let mut counted = BTreeSet::new();
        for task in new {
            self.seen.entry(place(task)).or_default().insert(task.id.clone());
            counted.insert(task.id.clone());
        }
        counted
    }

    fn is_enough(&self, view: &View, task: &Task) -> bool {
        if self.alone && task.status.state == TaskState::Rejected {
            return true;
        }
        !view.has_limit()
            && self
                .seen
                .get(&place(task))
                .is_some_and(|seen| seen.len() >= PATIENCE)
    }
}

fn place(task: &Task) -> Place {
    let node = if task.slot == 0 {
        task.node_id.to_string()
    } else {
        String::new()
    };
    (task.slot, node)
}

fn describe(service: &str, task: &Task) -> String {
    let (slot, node) = place(task);
    let place = if slot == 0 { node } else { slot.to_string() };
    let status = &task.status;
    let why = if status.err.is_empty() {
        &status.message
    } else {
        &status.err
    };
    format!("task {service}.{place} ({}) {}: {why}", task.id, status.state)
}

#[cfg(test)]
mod tests {
    use proto::object::{ServiceStatus, UpdateStatus};
    use proto::spec::{JobMode, RestartPolicy, ServiceMode};

    use super::*;

    fn service(mode: ServiceMode, desired: u64, running: u64) -> Service {
        let mut service = Service::default();
        service.spec.name = "web".into();
        service.spec.mode = mode;
        service.service_status = Some(ServiceStatus {
            desired_tasks: desired,
            running_tasks: running,
            completed_tasks: 0,
        });
        service
    }

    fn task(id: &str, slot: u64, state: TaskState) -> Task {
        let mut task = Task {
            id: id.into(),
            slot,
            desired_state: TaskState::Running,
            ..Task::default()
        };
        task.status.state = state;
        task.status.err = format!("error of {id}");
        if matches!(state, TaskState::Failed | TaskState::Rejected) {
            task.desired_state = TaskState::Shutdown;
        }
        task
    }

    /// A task of slot 1 that has failed, and one that is to come after it.
    fn retried(number: usize) -> Vec<Task> {
        let failed = (1..=number).map(|number| task(&format!("f{number}"), 1, TaskState::Failed));
        failed.chain([task("next", 1, TaskState::Pending)]).collect()
    }

    fn view(service: &Service, tasks: Vec<Task>) -> View {
        View::new(service.clone(), tasks)
    }

    #[test]
    fn a_task_that_fails_again_and_again_ends_the_wait_and_one_that_recovers_does_not() {
        let web = service(ServiceMode::replicated(1), 1, 0);
        let mut failures = Failures::new(false);
        for number in 0..PATIENCE {
            let problem = view(&web, retried(number)).problem(Goal::Update, &mut failures);
            assert_eq!(problem, None, "after {number} failures");
        }
        let problem = view(&web, retried(PATIENCE))
            .problem(Goal::Update, &mut failures)
            .unwrap();
        assert!(
            problem.starts_with("task web.1 (f") && problem.contains("failed: error of f"),
            "{problem}"
        );

        let mut failures = Failures::new(false);
        assert_eq!(view(&web, retried(0)).problem(Goal::Update, &mut failures), None);
        let mut tasks = retried(PATIENCE);
        tasks.last_mut().unwrap().status.state = TaskState::Running;
        assert_eq!(view(&web, tasks).problem(Goal::Update, &mut failures), None);
    }

    #[test]
    fn failures_of_different_places_and_of_the_past_do_not_add_up() {
        let web = service(ServiceMode::replicated(5), 5, 0);
        let mut failures = Failures::new(false);
        assert_eq!(
            view(&web, retried(PATIENCE)).problem(Goal::Update, &mut failures),
            None
        );
        let mut tasks = retried(PATIENCE);
        for slot in 2..=5 {
            tasks.push(task(&format!("s{slot}"), slot, TaskState::Failed));
            tasks.push(task(&format!("n{slot}"), slot, TaskState::Pending));
        }
        assert_eq!(view(&web, tasks).problem(Goal::Update, &mut failures), None);
    }

    #[test]
    fn what_the_only_node_rejects_is_final_and_among_several_it_is_a_failure() {
        let web = service(ServiceMode::replicated(1), 1, 0);
        let tasks = || {
            vec![
                task("r", 1, TaskState::Rejected),
                task("next", 1, TaskState::Pending),
            ]
        };
        assert!(
            view(&web, tasks())
                .problem(Goal::Update, &mut Failures::new(true))
                .is_some()
        );
        assert!(
            view(&web, tasks())
                .problem(Goal::Update, &mut Failures::new(false))
                .is_none()
        );
    }

    #[test]
    fn a_limit_of_attempts_is_the_service_s_own_patience() {
        let mut web = service(ServiceMode::replicated(1), 1, 0);
        web.spec.task_template.restart_policy = Some(RestartPolicy {
            max_attempts: Some(9),
            ..RestartPolicy::default()
        });
        let mut failures = Failures::new(false);
        view(&web, retried(0)).problem(Goal::Update, &mut failures);
        assert_eq!(view(&web, retried(8)).problem(Goal::Update, &mut failures), None);
        let last = vec![task("f9", 1, TaskState::Failed)];
        assert!(view(&web, last).problem(Goal::Update, &mut failures).is_some());
    }

    #[test]
    fn an_update_that_was_rolled_back_failed_unless_that_is_old() {
        let mut web = service(ServiceMode::replicated(1), 1, 1);
        let running = || vec![task("t", 1, TaskState::Running)];
        for (state, update, rollback, present) in [
            (UpdateState::Updating, false, false, false),
            (UpdateState::Completed, false, false, false),
            (UpdateState::Paused, true, true, true),
            (UpdateState::RollbackStarted, false, false, false),
            (UpdateState::RollbackPaused, true, true, true),
            (UpdateState::RollbackCompleted, true, false, false),
        ] {
            web.update_status = Some(UpdateStatus {
                state,
                ..UpdateStatus::default()
            });
            let view = view(&web, running());
            for (goal, expected) in [
                (Goal::Update, update),
                (Goal::Rollback, rollback),
                (Goal::Present, present),
            ] {
                let problem = view.problem(goal, &mut Failures::new(false));
                assert_eq!(problem.is_some(), expected, "{state:?} {goal:?}");
            }
            let under_way = matches!(state, UpdateState::Updating | UpdateState::RollbackStarted);
            assert_eq!(view.is_done(), !under_way, "{state:?}");
        }
    }

    #[test]
    fn a_job_is_done_when_all_its_tasks_of_this_run_are_through() {
        let mode = ServiceMode {
            replicated_job: Some(JobMode {
                max_concurrent: Some(1),
                total_completions: Some(2),
            }),
            ..ServiceMode::default()
        };
        let mut job = service(mode, 1, 1);
        let run = |index| proto::Version { index };
        job.job_status = Some(proto::object::JobStatus {
            job_iteration: run(7),
            ..Default::default()
        });
        let of = |mut task: Task, index| {
            task.job_iteration = Some(run(index));
            task
        };
        let complete = |id, slot| of(task(id, slot, TaskState::Complete), 7);
        assert!(!view(&job, vec![]).is_done(), "nothing has begun");
        assert!(
            !view(
                &job,
                vec![complete("a", 1), of(task("b", 2, TaskState::Running), 7)]
            )
            .is_done()
        );
        assert!(
            !view(
                &job,
                vec![complete("a", 1), of(task("b", 2, TaskState::Complete), 6)]
            )
            .is_done()
        );
        assert!(view(&job, vec![complete("a", 1), complete("b", 2)]).is_done());
        job.update_status = Some(UpdateStatus {
            state: UpdateState::RollbackStarted,
            ..UpdateStatus::default()
        });
        let through = vec![complete("a", 1), complete("b", 2), complete("c", 3)];
        assert!(
            view(&job, through).is_done(),
            "a rolled back job has more than it needs"
        );
    }

    #[test]
    fn nothing_yet_is_not_everything_on_a_global_service() {
        let mut web = service(ServiceMode::global(), 0, 0);
        assert!(!view(&web, vec![]).is_sure());
        web.spec.mode = ServiceMode::replicated(0);
        assert!(view(&web, vec![]).is_sure() && view(&web, vec![]).is_done());
    }
}
