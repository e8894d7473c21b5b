//! The life of a container, as one value that watchers receive at every change.
//!
//! ```text
//! created ──start──▶ running ──exit──▶ exited ──start──▶ running …
//!    │                  └─exit, policy says again──▶ restarting ──delay──▶ running
//!    └────────────── remove ──▶ removing ──▶ (gone) | dead (removal failed half-way)
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::api::types::inspect::HealthResult;

/// Where a container is in its life; Docker's words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Made, never started.
    #[default]
    Created,
    /// Its process lives.
    Running,
    /// Its process ended; the restart policy starts it again after a delay.
    Restarting,
    /// Being removed.
    Removing,
    /// Its process ended.
    Exited,
    /// A removal failed half-way; only removal can be tried again.
    Dead,
}

impl Status {
    /// True while Docker counts the container as running (running or waiting to be restarted).
    pub fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Restarting)
    }

    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Everything that changes while a container lives.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    pub status: Status,
    /// Host pid of init; 0 when not running.
    pub pid: i32,
    pub exit_code: i32,
    /// Why it could not start, or what the shim reported at the end; empty when all is well.
    pub error: String,
    pub oom_killed: bool,
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
    /// Restarts by policy since the last start by hand.
    pub restart_count: u32,
    /// How often the process has ended; lets a waiter see an exit between two running states.
    pub exits: u64,
    /// Code of the last of these ends; unlike `exit_code`, the next start leaves it alone.
    pub last_code: i32,
    /// Stopped or killed by hand, so that the restart policy stays quiet.
    pub stopped_by_hand: bool,
    /// `None` when the container has no healthcheck or never ran.
    pub health: Option<Health>,
    /// The container no longer exists; the last value a watcher sees.
    pub removed: bool,
}

impl ContainerState {
    /// The process has ended, or could not be started.
    pub fn end(&mut self, code: i32) {
        self.pid = 0;
        self.exit_code = code;
        self.last_code = code;
        self.exits += 1;
    }
}

/// Verdict of a container's probes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Not enough probes yet.
    #[default]
    Starting,
    /// The last probe succeeded.
    Healthy,
    /// `retries` probes failed in a row.
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Verdict, failing streak and the last probes (oldest first).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    pub status: HealthStatus,
    pub failing_streak: u32,
    pub log: Vec<HealthResult>,
}

/// How a process ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Exit status, or 128 + signal.
    pub code: i32,
    /// Set when the wait itself failed.
    pub error: Option<String>,
}
