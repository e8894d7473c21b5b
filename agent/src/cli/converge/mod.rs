//! Waiting until services are what they shall be, saying how it goes, and ending with the truth.
//!
//! - this page: the wait; [`view`]: what one service is at, and what of it is final; [`screen`]: how it looks

mod screen;
mod view;

use std::collections::BTreeSet;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::Silent;
use super::client::{ApiError, Client};
use crate::compose;
use screen::Screen;
use view::{Failures, View};

/// What the server is asked between two looks; it has no event per task (Docker API, section Events).
const PAUSE: Duration = Duration::from_millis(100);
/// How long tasks without a healthcheck have to run before they count as up.
const STEADY: Duration = Duration::from_secs(1);
/// How long the server may have no answer, as it has none while another manager takes over.
const OUTAGE: Duration = Duration::from_secs(30);
/// What a shell makes of a program that Ctrl-C has ended.
const INTERRUPTED: i32 = 130;

/// Flags of everything that ends when services have converged.
#[derive(Debug, Clone, Args)]
pub(crate) struct WaitFlags {
    /// Exit immediately instead of waiting for the service to converge
    #[arg(short, long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(crate) detach: bool,
    /// Stop waiting after this time, such as 90s or 5m, with an error; what was asked for goes on
    #[arg(long, value_name = "DURATION", value_parser = limit, conflicts_with = "detach")]
    pub(crate) wait_timeout: Option<Duration>,
}

/// What a service is on its way to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// The newest spec; to be back at the one before is a failure.
    Update,
    /// The spec before the newest.
    Rollback,
    /// The spec that it has, whichever way it came to it.
    Present,
}

/// A service by its identifier, and where it is going.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) id: String,
    pub(crate) goal: Goal,
}

impl Target {
    pub(crate) fn new(id: impl Into<String>, goal: Goal) -> Self {
        Self { id: id.into(), goal }
    }
}

/// Waits as the flags say. Ctrl-C ends the wait and nothing else.
///
/// # Errors
/// Those of [`wait`]; the time is over; an interruption, which has been said already.
pub(crate) async fn reach(client: &Client, targets: &[Target], flags: &WaitFlags, quiet: bool) -> Result<()> {
    if flags.detach {
        return Ok(());
    }
    limited(flags.wait_timeout, wait(client, targets, quiet)).await
}

/// Waits until every service has reached its goal: its tasks run or, of a job, are through.
///
/// # Errors
/// An update that was paused or rolled back, or tasks that fail again and again: names the task and its error.
pub(crate) async fn wait(client: &Client, targets: &[Target], quiet: bool) -> Result<()> {
    let mut screen = Screen::new();
    let outcome = watch(client, targets, quiet, &mut screen).await;
    screen.end();
    outcome
}

/// Waits for `work`, until the time is over or somebody presses Ctrl-C. What `work` waits for goes on in both cases.
pub(crate) async fn limited(limit: Option<Duration>, work: impl Future<Output = Result<()>>) -> Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let over = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        outcome = work => return outcome,
        () = over => bail!("the time to wait is over; what was asked for goes on in the background"),
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    eprintln!("\nagent: no longer waiting; what was asked for goes on in the background");
    Err(Silent(INTERRUPTED).into())
}

fn limit(word: &str) -> Result<Duration, String> {
    let nanoseconds = compose::duration(word)?;
    u64::try_from(nanoseconds)
        .map(Duration::from_nanos)
        .map_err(|_| format!("{word:?} is less than nothing"))
}

async fn watch(client: &Client, targets: &[Target], quiet: bool, screen: &mut Screen) -> Result<()> {
    let alone = is_alone(client).await?;
    let mut open: Vec<Watched> = targets.iter().map(|target| Watched::new(target, alone)).collect();
    let mut answered = Instant::now();
    loop {
        let mut still = Vec::new();
        for mut watched in open {
            match watched.look(client, quiet, screen).await {
                Ok(done) => {
                    answered = Instant::now();
                    if !done {
                        still.push(watched);
                    }
                }
                Err(error) if is_outage(&error) && answered.elapsed() < OUTAGE => still.push(watched),
                Err(error) => return Err(error),
            }
        }
        if still.is_empty() {
            return Ok(());
        }
        open = still;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether the server could not answer, rather than that it has answered with a refusal.
fn is_outage(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<ApiError>() {
        Some(error) => error.status >= 500,
        None => error
            .chain()
            .any(|cause| cause.is::<std::io::Error>() || cause.is::<hyper::Error>()),
    }
}

async fn is_alone(client: &Client) -> Result<bool> {
    let info = client.get("/info").await?;
    Ok(info["Swarm"]["Nodes"].as_u64().is_none_or(|nodes| nodes < 2))
}

/// A service that is waited for.
struct Watched {
    target: Target,
    failures: Failures,
    steady: Steady,
}

impl Watched {
    fn new(target: &Target, alone: bool) -> Self {
        Self {
            target: target.clone(),
            failures: Failures::new(alone),
            steady: Steady::default(),
        }
    }

    /// Whether it is where it shall be.
    async fn look(&mut self, client: &Client, quiet: bool, screen: &mut Screen) -> Result<bool> {
        let Some(view) = View::fetch(client, &self.target.id).await? else {
            bail!("the service {} has been removed", self.target.id);
        };
        if !quiet {
            screen.show(&view);
        }
        if let Some(problem) = view.problem(self.target.goal, &mut self.failures) {
            return Err(anyhow!(problem));
        }
        Ok(self.steady.is(&view))
    }
}

/// Since when the same tasks have been there. A program that ends at once runs too, for a moment.
#[derive(Default)]
struct Steady {
    tasks: BTreeSet<String>,
    since: Option<Instant>,
}

impl Steady {
    fn is(&mut self, view: &View) -> bool {
        let tasks: BTreeSet<String> = view.well().map(|task| task.id.to_string()).collect();
        if self.since.is_none() || tasks != self.tasks {
            *self = Self {
                tasks,
                since: Some(Instant::now()),
            };
        }
        let long_enough = self.since.is_some_and(|since| since.elapsed() >= STEADY);
        view.is_done() && (long_enough || view.is_sure())
    }
}
