//! Passing controllers down the unified hierarchy: a directory has the files of a controller only if every directory above
//! it names the controller in `cgroup.subtree_control` (cgroups(7)).

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::apply::{read, write};
use super::layout::Hierarchy;
use super::{Error, Layout, Plan};

/// Passed on wherever they are to be had, limits or not: what a container uses is counted by them.
const USUAL: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// Where the processes of a root that is none go.
const ROOM: &str = "init";
/// How often they are looked for.
const ROUNDS: usize = 10;

/// What is to be passed on.
#[derive(Debug, PartialEq, Eq)]
struct Missing<'a> {
    /// Without these the plan cannot be written.
    required: Vec<&'a str>,
    /// These would be good to have.
    wanted: Vec<&'a str>,
}

/// Passes what `plan` needs down to the directory `names`, which exists. Costs one read if all is there.
pub(super) fn enable(layout: &Layout, names: &[&OsStr], plan: &Plan) -> Result<(), Error> {
    let Some(hierarchy) = layout.unified().map(|index| &layout.hierarchies[index]) else {
        return Ok(());
    };
    let leaf = hierarchy.mount.join(names.iter().collect::<PathBuf>());
    let has = read(&leaf.join("cgroup.controllers"))?;
    let missing = missing(plan, &has);
    if missing.required.is_empty() && missing.wanted.is_empty() {
        return Ok(());
    }
    let available = read(&hierarchy.mount.join("cgroup.controllers"))?;
    pass_down(hierarchy, names, &offered(missing, &available, &hierarchy.mount)?)
}

fn missing<'a>(plan: &'a Plan, has: &str) -> Missing<'a> {
    let lacks = |name: &&str| !has.split_whitespace().any(|word| word == *name);
    let mut required: Vec<&str> = plan
        .writes
        .iter()
        .filter_map(|write| write.file.split('.').next())
        .filter(lacks)
        .collect();
    required.sort_unstable();
    required.dedup();
    let wanted = USUAL.into_iter().filter(lacks);
    let wanted = wanted.filter(|name| !required.contains(name)).collect();
    Missing { required, wanted }
}

/// What there is of it; an error if something required is not there at all.
fn offered<'a>(missing: Missing<'a>, available: &str, mount: &Path) -> Result<Missing<'a>, Error> {
    let there = |name: &&str| available.split_whitespace().any(|word| word == *name);
    if let Some(name) = missing.required.iter().find(|name| !there(name)) {
        return Err(Error::Unavailable {
            field: (*name).to_owned(),
            reason: format!(
                "{} does not offer the {name} controller (it has: {})",
                mount.join("cgroup.controllers").display(),
                available.trim()
            ),
        });
    }
    Ok(Missing {
        wanted: missing.wanted.into_iter().filter(there).collect(),
        ..missing
    })
}

fn pass_down(hierarchy: &Hierarchy, names: &[&OsStr], missing: &Missing<'_>) -> Result<(), Error> {
    let word = |name: &&str| format!("+{name}");
    let all: Vec<String> = missing.required.iter().chain(&missing.wanted).map(word).collect();
    let required: Vec<String> = missing.required.iter().map(word).collect();
    let mut directory = hierarchy.mount.clone();
    for name in names {
        let file = directory.join("cgroup.subtree_control");
        // All or nothing: one controller that cannot be had (cpu, while there are real-time processes) costs the others.
        match write(&file, &all.join(" ")) {
            Ok(()) => {}
            Err(error) if is_busy(&error) && directory == hierarchy.mount && make_room(&directory)? => {
                write(&file, &all.join(" "))?;
            }
            Err(_) if all.len() > 1 => pass_each(&file, &required, &all)?,
            Err(error) => return Err(error),
        }
        directory.push(name);
    }
    Ok(())
}

fn is_busy(error: &Error) -> bool {
    matches!(error, Error::File { source, .. } if source.raw_os_error() == Some(libc::EBUSY))
}

/// In a container, the root of what we see is a group like any other: as long as processes are in it, it passes nothing on.
/// They move to a group beside ours, as in Docker's own image for engines within containers. `false` if this is the real
/// root, which may have processes.
fn make_room(root: &Path) -> Result<bool, Error> {
    if !root.join("cgroup.type").exists() {
        return Ok(false);
    }
    let place = root.join(ROOM);
    match std::fs::create_dir(&place) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(Error::file("make cgroup", place, error));
        }
        _ => {}
    }
    // More may be forked meanwhile, and one may end before it is moved: what is left after some rounds the caller finds out.
    for _ in 0..ROUNDS {
        // Processes from outside of our PID namespace are listed as 0, which would mean ourselves.
        let processes = read(&root.join("cgroup.procs"))?;
        let mut movable = processes.lines().filter(|pid| *pid != "0").peekable();
        if movable.peek().is_none() {
            break;
        }
        for pid in movable {
            let _ = write(&place.join("cgroup.procs"), pid);
        }
    }
    Ok(true)
}

fn pass_each(file: &Path, required: &[String], all: &[String]) -> Result<(), Error> {
    for word in all {
        let written = write(file, word);
        if required.contains(word) {
            written?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::layout::tests::UNIFIED;
    use super::super::plan::plan;
    use super::*;
    use std::fs;

    fn limits() -> Plan {
        let resources = serde_json::from_value(serde_json::json!({
            "memory": {"limit": 1000}, "cpu": {"cpus": "0"}
        }));
        plan(Some(&resources.unwrap()), &Layout::parse(UNIFIED)).unwrap()
    }

    #[test]
    fn what_is_there_already_is_not_asked_for() {
        let plan = limits();
        let none = missing(&plan, "cpuset cpu io memory pids\n");
        assert!(none.required.is_empty() && none.wanted.is_empty());
        let some = missing(&plan, "pids");
        assert_eq!(some.required, ["cpuset", "memory"]);
        assert_eq!(some.wanted, ["cpu", "io"]);
        let offered = offered(some, "cpuset memory cpu", Path::new("/x")).unwrap();
        assert_eq!(offered.wanted, ["cpu"]);
    }

    #[test]
    fn a_controller_that_nobody_has_is_named() {
        let plan = limits();
        let error = offered(missing(&plan, ""), "cpu memory", Path::new("/x")).unwrap_err();
        assert!(error.to_string().contains("cpuset controller"), "{error}");
    }

    #[test]
    fn the_real_root_keeps_its_processes() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!make_room(dir.path()).unwrap());
        assert!(!dir.path().join(ROOM).exists());
        // Nobody can be moved in a fake tree; the rounds have an end.
        fs::write(dir.path().join("cgroup.type"), "domain\n").unwrap();
        fs::write(dir.path().join("cgroup.procs"), "0\n").unwrap();
        assert!(make_room(dir.path()).unwrap());
        assert!(dir.path().join(ROOM).is_dir());
    }

    #[test]
    fn every_directory_above_passes_them_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut layout = Layout::parse(UNIFIED);
        layout.hierarchies[0].mount = dir.path().to_owned();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(
            dir.path().join("cgroup.controllers"),
            "cpuset cpu io memory pids rdma",
        )
        .unwrap();
        for folder in ["", "a"] {
            fs::write(dir.path().join(folder).join("cgroup.subtree_control"), "").unwrap();
        }
        fs::write(dir.path().join("a/b/cgroup.controllers"), "pids").unwrap();
        let plan = limits();
        enable(&layout, &["a", "b"].map(OsStr::new), &plan).unwrap();
        for folder in ["", "a"] {
            let written = fs::read_to_string(dir.path().join(folder).join("cgroup.subtree_control"));
            assert_eq!(written.unwrap(), "+cpuset +memory +cpu +io", "in {folder:?}");
        }
    }
}
