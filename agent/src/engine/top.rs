//! `top`: the processes of a container as `ps -ef` shows them, read from the host's /proc. Nothing of the container is run.

use std::collections::HashMap;
use std::fs;

use time::{OffsetDateTime, UtcOffset};
use tokio::process::Command;

use super::Engine;
use super::error::{EngineError, Result};
use super::state::Status;
use crate::api::types::container::TopResponse;

const TITLES: [&str; 8] = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
/// USER_HZ of every Linux that containers run on: times(2), in ticks per second.
const TICKS: u64 = 100;

impl Engine {
    /// Its processes as `ps` shows them. Only the default columns (`-ef`) are known.
    ///
    /// # Errors
    /// It does not run, or other columns were asked for.
    pub async fn top(&self, name: &str, ps_args: &str) -> Result<TopResponse> {
        let container = self.registry.find(name)?;
        if !matches!(ps_args, "" | "-ef" | "ef") {
            return Err(EngineError::Unsupported(format!(
                "ps arguments {ps_args:?} are not supported; use -ef"
            )));
        }
        if container.state().status != Status::Running {
            return Err(EngineError::Conflict(format!(
                "container {} is not running",
                container.id
            )));
        }
        let pids = self.pids(container.id.as_str()).await?;
        let processes = super::blocking(move || Ok(rows(&pids))).await?;
        Ok(TopResponse {
            titles: TITLES.map(str::to_owned).into(),
            processes,
        })
    }

    async fn pids(&self, id: &str) -> Result<Vec<u32>> {
        let failed = |source: std::io::Error| EngineError::Shim {
            action: "list the processes",
            container: id.to_owned(),
            source: source.into(),
        };
        let output = Command::new(&self.config.runtime_bin)
            .arg("--root")
            .arg(self.config.run_dir.join("runtime"))
            .args(["ps", "--format", "json", id])
            .output()
            .await
            .map_err(failed)?;
        if !output.status.success() {
            return Err(failed(std::io::Error::other(
                String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            )));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| failed(error.into()))
    }
}

fn rows(pids: &[u32]) -> Vec<Vec<String>> {
    let users = user_names(&fs::read_to_string("/etc/passwd").unwrap_or_default());
    let boot = boot_time(&fs::read_to_string("/proc/stat").unwrap_or_default());
    // A process that ends while we look is left out.
    let mut rows: Vec<(u32, Vec<String>)> = pids
        .iter()
        .filter_map(|pid| Some((*pid, row(*pid, &users, boot)?)))
        .collect();
    rows.sort();
    rows.into_iter().map(|(_, row)| row).collect()
}

fn row(pid: u32, users: &HashMap<u32, String>, boot: i64) -> Option<Vec<String>> {
    let stat = Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let uid = owner(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)?;
    let command = command_line(&fs::read(format!("/proc/{pid}/cmdline")).ok()?, &stat.name);
    let started = OffsetDateTime::from_unix_timestamp(boot + (stat.start / TICKS) as i64).ok()?;
    Some(vec![
        users.get(&uid).cloned().unwrap_or_else(|| uid.to_string()),
        pid.to_string(),
        stat.parent.to_string(),
        "0".into(),
        start_text(started, OffsetDateTime::now_utc()),
        terminal(stat.terminal),
        cpu_time(stat.cpu / TICKS),
        command,
    ])
}

/// The fields of /proc/<pid>/stat that are shown, proc_pid_stat(5).
struct Stat {
    name: String,
    parent: u32,
    terminal: i32,
    /// Ticks in user and kernel mode.
    cpu: u64,
    /// Ticks after boot.
    start: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name may contain anything, parentheses and spaces too: it ends at the last one.
        let (head, tail) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3);
        Some(Self {
            name: head.split_once('(')?.1.to_owned(),
            parent: field(4)?.parse().ok()?,
            terminal: field(7)?.parse().ok()?,
            cpu: field(14)?.parse::<u64>().ok()? + field(15)?.parse::<u64>().ok()?,
            start: field(22)?.parse().ok()?,
        })
    }
}

fn owner(status: &str) -> Option<u32> {
    // Real, effective, saved, filesystem: ps shows the effective one.
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))?
        .split_ascii_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

fn command_line(raw: &[u8], name: &str) -> String {
    let words: Vec<_> = raw.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
    match words.join(" ").trim_end() {
        "" => format!("[{name}]"),
        line => line
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect(),
    }
}

fn user_names(passwd: &str) -> HashMap<u32, String> {
    let entry = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    // The first entry of an id wins.
    passwd.lines().rev().filter_map(entry).collect()
}

fn boot_time(stat: &str) -> i64 {
    stat.lines()
        .find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
        .unwrap_or_default()
}

/// `HH:MM` within a day, else the date.
fn start_text(started: OffsetDateTime, now: OffsetDateTime) -> String {
    let local = started.to_offset(UtcOffset::UTC);
    if (now - started).whole_hours() < 24 {
        format!("{:02}:{:02}", local.hour(), local.minute())
    } else {
        let month = local.month().to_string();
        format!("{}{:02}", &month[..3], local.day())
    }
}

/// Device number of the controlling terminal, tty_devnum: pts are majors 136 to 143.
fn terminal(number: i32) -> String {
    let number = number as u32;
    let (major, minor) = (
        (number >> 8) & 0xfff,
        (number & 0xff) | ((number >> 12) & 0xfff00),
    );
    match major {
        136..=143 => format!("pts/{}", minor + (major - 136) * 256),
        4 => format!("tty{minor}"),
        _ => "?".into(),
    }
}

fn cpu_time(seconds: u64) -> String {
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_with_a_hostile_name() {
        let line = "42 (a) S (b) S 7 42 42 34816 42 4194560 1 0 0 0 250 150 0 0 20 0 1 0 12300 1 1";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(
            (stat.name.as_str(), stat.parent, stat.cpu, stat.start),
            ("a) S (b", 7, 400, 12300)
        );
        assert_eq!(terminal(stat.terminal), "pts/0");
        assert!(Stat::parse("42 (x").is_none());
    }

    #[test]
    fn words_of_ps() {
        assert_eq!(cpu_time(3725), "01:02:05");
        assert_eq!(terminal(0), "?");
        assert_eq!(command_line(b"sh\0-c\0a\nb\0", "sh"), "sh -c a?b");
        assert_eq!(command_line(b"", "kworker"), "[kworker]");
        assert_eq!(owner("Name:\tx\nUid:\t0\t1000\t0\t0\n"), Some(1000));
    }

    #[test]
    fn this_very_process_has_a_row() {
        let row = &rows(&[std::process::id()])[0];
        assert_eq!(row.len(), TITLES.len());
        assert_eq!(row[1], std::process::id().to_string());
    }
}
