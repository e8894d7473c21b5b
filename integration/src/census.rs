//! What a run of the tests may leave behind: nothing. Counted before, compared after.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// Everything of the kinds that containers are made of, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    /// Mount points of the machine.
    pub mounts: BTreeSet<String>,
    /// Control groups that bear our name.
    pub cgroups: BTreeSet<String>,
    /// Links of the machine's network namespace.
    pub links: BTreeSet<String>,
    /// Tables of nftables of the machine's network namespace.
    pub tables: BTreeSet<String>,
    /// Processes that are ours: agents, shims, and what runs in their containers.
    pub processes: BTreeSet<String>,
    /// Folders of tests.
    pub folders: BTreeSet<String>,
}

impl Census {
    /// Counts.
    pub fn take() -> Self {
        Self {
            mounts: mounts(),
            cgroups: cgroups(),
            links: links(),
            tables: tables(),
            processes: processes(),
            folders: folders(),
        }
    }

    /// What this census has and the earlier one had not, as lines for people.
    pub fn since(&self, before: &Self) -> Vec<String> {
        let kinds = [
            ("mount", &self.mounts, &before.mounts),
            ("cgroup", &self.cgroups, &before.cgroups),
            ("link", &self.links, &before.links),
            ("nftables table", &self.tables, &before.tables),
            ("process", &self.processes, &before.processes),
            ("folder", &self.folders, &before.folders),
        ];
        let left = |(kind, now, then): (&str, &BTreeSet<String>, &BTreeSet<String>)| {
            now.difference(then)
                .map(|name| format!("{kind} {name}"))
                .collect::<Vec<_>>()
        };
        kinds.into_iter().flat_map(left).collect()
    }
}

fn mounts() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_whitespace().nth(4))
        .map(str::to_owned)
        .collect()
}

fn cgroups() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(top)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    for hierarchy in hierarchies.chain([top.to_path_buf()]) {
        let groups = fs::read_dir(&hierarchy).into_iter().flatten().flatten();
        for group in groups.filter(|group| group.file_name().to_string_lossy().starts_with("shoal")) {
            walk(&group.path(), &mut found);
        }
    }
    found
}

fn walk(group: &Path, found: &mut BTreeSet<String>) {
    found.insert(group.display().to_string());
    let below = fs::read_dir(group).into_iter().flatten().flatten();
    for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        walk(&entry.path(), found);
    }
}

fn links() -> BTreeSet<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn tables() -> BTreeSet<String> {
    let output = Command::new("nft").args(["list", "tables"]).output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn processes() -> BTreeSet<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter_map(describe).collect()
}

/// The process with its words, if it is ours: one of the two binaries, or in a control group that bears our name.
fn describe(pid: u32) -> Option<String> {
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = String::from_utf8_lossy(&words).replace('\0', " ");
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = program
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let ours =
        ["agent", "runtime"].contains(&name.trim_end_matches(" (deleted)")) || groups.contains(":/shoal");
    ours.then(|| format!("{pid}: {}", words.trim()))
}

fn folders() -> BTreeSet<String> {
    let entries = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.path().display().to_string());
    names.filter(|name| name.contains("/shoal-test-")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_named_and_what_was_there_is_not() {
        let mut before = Census::take();
        before.links.insert("old".to_owned());
        let mut after = before.clone();
        assert!(after.since(&before).is_empty());
        after.links.insert("veth9".to_owned());
        assert_eq!(after.since(&before), ["link veth9"]);
    }
}
