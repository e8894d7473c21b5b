//! Containers that may run only for as long as somebody far away agrees: the agent's side of the shim's lease.
//!
//! The shim holds the deadline and ends the container by itself, so that neither the agent nor its host's network need be
//! there for it. The agent gives the first lease with the start and extends it afterwards.

use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::Engine;
use super::error::{EngineError, Result};

/// A moment of `CLOCK_BOOTTIME`, which nobody can set and which goes on while the machine is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    /// Now.
    pub fn now() -> Self {
        Self(Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default())
    }

    /// So much later.
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }

    /// So much earlier; not before the machine booted.
    pub fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(time))
    }

    /// Nanoseconds since the machine booted.
    pub fn nanoseconds(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Engine {
    /// [`Self::start`] of a container whose task has a lease, which lasts until then.
    ///
    /// # Errors
    /// Those of a start. A lease that is over keeps it from running.
    pub async fn start_leased(self: &Arc<Self>, name: &str, until: BootTime) -> Result<()> {
        self.start_until(name, Some(until)).await
    }

    /// Extends the lease of a running container; it never becomes shorter.
    ///
    /// # Errors
    /// A lease that is over, or a container that has none or does not run.
    pub async fn extend_lease(&self, name: &str, until: BootTime) -> Result<()> {
        let container = self.registry.find(name)?;
        container.shim().extend_lease(until.nanoseconds()).await
    }
}

/// Whoever starts a container says until when it may run, if and only if it has a lease.
pub(crate) fn check(name: &str, has_lease: bool, given: Option<BootTime>) -> Result<()> {
    match given {
        None if has_lease => Err(EngineError::Conflict(format!(
            "container {name} runs a task with a lease (fencing), which the managers alone can give: they start it"
        ))),
        _ => Ok(()),
    }
}
