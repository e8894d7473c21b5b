//! What the kernel says of a process, and processes that only use up time.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

/// Proportional set size, kB.
pub(crate) fn pss(pid: u32) -> Result<u64> {
    line(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// Resident set size now, kB.
pub(crate) fn rss(pid: u32) -> Result<u64> {
    line(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// The largest resident set size so far, kB.
pub(crate) fn most_rss(pid: u32) -> Result<u64> {
    line(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// Processor time that a process has used.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    /// Linux tells times in this unit on every architecture (`USER_HZ`).
    const PER_SECOND: u64 = 100;
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may have blanks; user and system time are fields 14 and 15.
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |field: usize| -> Result<u64> { Ok(fields.get(field).context("a short stat")?.parse()?) };
    Ok(Duration::from_millis(
        (ticks(11)? + ticks(12)?) * 1000 / PER_SECOND,
    ))
}

fn line(file: &str, key: &str) -> Result<u64> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {file}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    let value = value.with_context(|| format!("no {key} in {file}"))?;
    Ok(value.trim().trim_end_matches("kB").trim().parse()?)
}

/// Processes that compute nothing, as long as this value is there. Each has a session of its own, as a container's processes
/// have: the kernel shares the processors out among sessions (sched(7), autogroup).
pub(crate) struct Busy(Vec<Child>);

impl Busy {
    /// So many of them.
    pub(crate) fn start(count: usize) -> Result<Self> {
        let mut all = Self(Vec::new());
        for _ in 0..count {
            let mut command = Command::new("/bin/busybox");
            command
                .args(["setsid", "sh", "-c", "while :; do :; done"])
                .stdin(Stdio::null());
            all.0.push(command.spawn().context("start a busy process")?);
        }
        Ok(all)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for process in &mut self.0 {
            // Ours, and not waited for yet: its identifier cannot be another's.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
