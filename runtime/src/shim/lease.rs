//! The lease of a container that may not run without word from afar: until when it may, and what happens then.
//!
//! ```text
//! held ─ extended ─▶ held        held ─ until ─▶ signal ─ grace ─▶ SIGKILL to all that is left
//! ```
//! The clock is `CLOCK_BOOTTIME`: it cannot be set, and a machine that wakes from being suspended finds the lease over.
//! Whoever gave the lease may count on the end: a lease that has run out is never extended.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

use super::config::LeaseConfig;
use super::poller::{Poller, ProcessKey, Token, Watched};
use super::protocol::{self, Failure};
use super::server::{Next, Server, report};
use crate::container::{self, Signal};

/// What is said of a container whose lease has run out.
pub(super) const OVER: &str =
    "its lease has run out: its node had no contact with the managers for too long (fencing)";

/// A moment of `CLOCK_BOOTTIME`.
type Moment = Duration;

/// Until when the container may run.
#[derive(Debug)]
pub(super) struct Lease {
    timer: Watched<OwnedFd>,
    signal: i32,
    grace: Duration,
    phase: Phase,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Held { until: Moment },
    Over { kill: Moment },
}

/// What is to be done when the timer rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Signal(i32),
    Kill,
}

impl Lease {
    /// A lease as it was granted; it may be over already.
    pub(super) fn begin(poller: &Poller, config: LeaseConfig) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
        let mut timer = Watched::new(poller, timer, Token::Lease);
        timer.watch(Some(EventFlags::IN))?;
        let until = Duration::from_nanos(config.until);
        let lease = Self {
            timer,
            signal: config.signal,
            grace: Duration::from_nanos(config.grace),
            phase: Phase::Held { until },
        };
        lease.set(until)?;
        Ok(lease)
    }

    /// Whether it has run out: the container is ending.
    pub(super) fn is_over(&self) -> bool {
        match self.phase {
            Phase::Held { until } => until <= now(),
            Phase::Over { .. } => true,
        }
    }

    fn extend(&mut self, to: Moment) -> io::Result<()> {
        if let Phase::Held { until } = &mut self.phase
            && to > *until
        {
            *until = to;
            self.set(to)?;
        }
        Ok(())
    }

    /// The timer has rung.
    fn ring(&mut self, now: Moment) -> io::Result<Due> {
        // Drained by being set anew.
        match self.phase {
            Phase::Held { until } if now < until => self.set(until).map(|()| Due::Nothing),
            Phase::Held { until } if now < until + self.grace => {
                let kill = until + self.grace;
                self.phase = Phase::Over { kill };
                self.set(kill).map(|()| Due::Signal(self.signal))
            }
            Phase::Over { kill } if now < kill => self.set(kill).map(|()| Due::Nothing),
            Phase::Held { .. } | Phase::Over { .. } => {
                self.phase = Phase::Over { kill: now };
                // Whatever forks meanwhile is killed the next time.
                self.set(now + AGAIN).map(|()| Due::Kill)
            }
        }
    }

    fn set(&self, at: Moment) -> io::Result<()> {
        let value = Itimerspec {
            it_interval: timespec(Duration::ZERO),
            // Zero would mean never.
            it_value: timespec(at.max(Duration::from_nanos(1))),
        };
        timerfd_settime(self.timer.fd(), TimerfdTimerFlags::ABSTIME, &value)?;
        Ok(())
    }
}

/// Between two attempts to kill what is left.
const AGAIN: Duration = Duration::from_millis(100);

impl Server {
    /// The lease lasts longer.
    pub(super) fn extend_lease(&mut self, until: u64) -> Result<Next, Failure> {
        let lease = self
            .lease
            .as_mut()
            .ok_or_else(|| Failure::new("the container was not given a lease"))?;
        if lease.is_over() {
            return Err(Failure::new(OVER));
        }
        let extended = lease.extend(Duration::from_nanos(until));
        extended.map_err(|error| Failure::new(format!("set the clock of the lease: {error}")))?;
        Ok(Next::Close(protocol::done()))
    }

    /// The timer of the lease has rung.
    pub(super) fn on_lease(&mut self) {
        let Some(lease) = &mut self.lease else { return };
        match lease.ring(now()) {
            Ok(Due::Nothing) => {}
            Ok(Due::Signal(signal)) => self.end_with_lease(signal),
            Ok(Due::Kill) => self.end_with_lease(libc::SIGKILL),
            Err(error) => {
                report(&format!("set the clock of the lease: {error}"));
                self.end_with_lease(libc::SIGKILL);
            }
        }
    }

    fn end_with_lease(&mut self, signal: i32) {
        let Some(init) = self
            .processes
            .get(&ProcessKey::INIT)
            .filter(|init| init.is_alive())
        else {
            return;
        };
        // What was never started has nothing to finish. That it is dead already is what is wanted.
        let signal = match init.started {
            Some(_) => signal,
            None => libc::SIGKILL,
        };
        let _ = init.signal(signal);
        if signal == libc::SIGKILL {
            let _ = container::kill(&self.state, &self.id, Signal::KILL, true);
        }
    }
}

fn now() -> Moment {
    let now = clock_gettime(ClockId::Boottime);
    // It begins with the machine.
    Duration::new(
        now.tv_sec.unsigned_abs(),
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    )
}

fn timespec(moment: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(moment.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(moment.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(until: Moment, grace: Duration) -> Lease {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap();
        let config = LeaseConfig {
            until: nanos(until),
            signal: 15,
            grace: nanos(grace),
        };
        Lease::begin(&Poller::new().unwrap(), config).unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn signal_then_kill_at_moments_that_were_known() {
        let end = now() + 60 * SECOND;
        let mut lease = lease(end, SECOND);
        assert!(!lease.is_over());
        assert_eq!(lease.ring(end - SECOND).unwrap(), Due::Nothing);
        lease.extend(end + SECOND).unwrap();
        lease.extend(end).unwrap();
        let end = end + SECOND;
        assert_eq!(
            lease.ring(end - SECOND / 2).unwrap(),
            Due::Nothing,
            "it never becomes shorter"
        );
        assert_eq!(lease.ring(end).unwrap(), Due::Signal(15));
        assert!(lease.is_over());
        lease.extend(end + 60 * SECOND).unwrap();
        assert_eq!(lease.ring(end + SECOND / 2).unwrap(), Due::Nothing);
        assert_eq!(lease.ring(end + SECOND).unwrap(), Due::Kill);
        assert_eq!(
            lease.ring(end + 2 * SECOND).unwrap(),
            Due::Kill,
            "until it is dead"
        );
    }

    #[test]
    fn who_wakes_too_late_kills_at_once() {
        let end = now() + 60 * SECOND;
        let mut lease = lease(end, SECOND);
        assert_eq!(lease.ring(end + 3600 * SECOND).unwrap(), Due::Kill);
        assert!(lease.is_over());
    }

    #[test]
    fn what_is_over_before_it_begins_rings() {
        let poller = Poller::new().unwrap();
        let config = LeaseConfig {
            until: 0,
            signal: 15,
            grace: 0,
        };
        let lease = Lease::begin(&poller, config).unwrap();
        assert!(lease.is_over());
        let rung = poller.wait(Some(SECOND)).unwrap();
        assert_eq!(rung, [(Token::Lease, EventFlags::IN)]);
    }
}
