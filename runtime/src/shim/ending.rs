//! The ends of processes and of the container: the order in which things are read, recorded, removed and told.
//!
//! ```text
//! pidfd ─▶ reap ─▶ drain (until end of file, at most a second) ─▶ exec: exec-<id>.json ──────────────────────▶ tell
//!                                                              └▶ init: exit.json ─▶ delete state and cgroup ─▶ tell
//! ```

use std::time::{Duration, Instant};

use super::client::{Answer, Role};
use super::exit::{self, OomCounter};
use super::lease::{self, Lease};
use super::poller::ProcessKey;
use super::process::{Phase, Process};
use super::protocol::{self, Stream};
use super::server::{Server, report};
use crate::container::{self, Signal};
use crate::process::chain;

/// How long the output of a dead process is waited for when others hold its pipes.
const DRAIN: Duration = Duration::from_secs(1);

impl Server {
    /// A process has ended, says its pidfd.
    pub(super) fn on_exit(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get_mut(&key).filter(|process| process.is_alive()) else {
            return;
        };
        let Some(status) = exit::reap(process.pid) else {
            return;
        };
        process.drain(status, Instant::now() + DRAIN);
        if key == ProcessKey::INIT && self.shares_pid_namespace {
            // Nobody else would: only the death of a PID namespace's init takes the others along. They may be gone.
            let _ = container::kill(&self.state, &self.id, Signal::KILL, true);
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.on_output(key, stream);
        }
    }

    /// Ends what has been drained: execs first, because init waits for them as long as for its own output.
    pub(super) fn end_drained(&mut self, now: Instant) {
        let drained: Vec<ProcessKey> = self
            .processes
            .iter()
            .filter(|(key, process)| **key != ProcessKey::INIT && process.is_drained(now))
            .map(|(key, _)| *key)
            .collect();
        for key in drained {
            self.end_exec(key);
        }
        let Some(init) = self
            .processes
            .get(&ProcessKey::INIT)
            .filter(|init| init.is_drained(now))
        else {
            return;
        };
        let overdue = matches!(init.phase, Phase::Draining { until, .. } if until <= now);
        if overdue
            || self
                .processes
                .iter()
                .all(|(key, process)| *key == ProcessKey::INIT || process.has_ended())
        {
            self.end_container();
        }
    }

    /// The container is dead and drained: record it, clean up, tell everybody.
    fn end_container(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.log.end(stream);
        }
        let oom_killed = self.oom.as_mut().is_some_and(OomCounter::has_risen);
        let Some(init) = self.processes.get_mut(&ProcessKey::INIT) else {
            return;
        };
        let Some(mut record) = init.exit_record(oom_killed) else {
            return;
        };
        let expired = self.lease.take().filter(Lease::is_over);
        let expired = expired.map(|_| lease::OVER.to_owned());
        record.error = record.error.or(expired).or_else(|| self.log.failure());
        if let Err(error) = exit::persist(&self.bundle, "exit.json", &record) {
            report(&format!("write exit.json: {error}"));
        }
        init.end(record);
        // Before anybody is told: whoever hears of the end may create the container anew at once.
        if let Err(error) = container::delete(&self.state, &self.id, true) {
            report(&format!("delete container {}: {}", self.id, chain(&error)));
        }
        self.listener = None;
        self.clients
            .retain(|_, client| !matches!(client.role, Role::Asking { .. }));
        if let Err(error) = std::fs::remove_file(self.bundle.join(super::SOCKET)) {
            report(&format!("remove {}: {error}", super::SOCKET));
        }
        self.tell(ProcessKey::INIT);
    }

    /// Answers all who waited for the end of a process, and lets go those who were attached to it.
    pub(super) fn tell(&mut self, key: ProcessKey) {
        let Some(Process {
            phase: Phase::Ended(record),
            ..
        }) = self.processes.get(&key)
        else {
            return;
        };
        self.clients.retain(|_, client| {
            let line = match &client.role {
                Role::Waiting { process, answer } if *process == key => match answer {
                    Answer::Record => protocol::ok(record),
                    Answer::Failure(failure) => protocol::error(failure),
                    Answer::Done => protocol::done(),
                },
                Role::Attached(attachment) if attachment.process == key => Vec::new(),
                _ => return true,
            };
            client.role = Role::Leaving;
            client.say(&line).is_ok()
        });
    }
}
