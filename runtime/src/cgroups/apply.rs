//! Makes the container's directories, writes the plan, opens the doors, and removes it all again.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use super::layout::Hierarchy;
use super::plan::{Otherwise, Write};
use super::{Directory, Error, Layout, Plan, Version, delegation, procs};
use crate::rootfs::path::names;

/// How long [`remove`] waits for killed processes to leave.
const PATIENCE: Duration = Duration::from_secs(5);

/// The directories that `path` names, whether they exist or not.
pub(crate) fn directories(layout: &Layout, path: &Path) -> Vec<Directory> {
    let relative: PathBuf = names(path).iter().collect();
    let directory = |hierarchy: &Hierarchy| Directory {
        path: hierarchy.mount.join(&relative),
        version: hierarchy.version,
    };
    layout.hierarchies.iter().map(directory).collect()
}

/// A container's cgroup, made and limited.
#[derive(Debug)]
pub(crate) struct Cgroup {
    /// Its directories, one for each hierarchy.
    pub(crate) directories: Vec<Directory>,
    /// Name of each hierarchy below /sys/fs/cgroup, and the directory opened, in the same order.
    pub(crate) opened: Vec<(String, OwnedFd)>,
}

/// What a new process enters the cgroup through.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    /// `tasks` of each v1 hierarchy; the process writes `0`.
    pub(crate) tasks: Vec<OwnedFd>,
    /// The directory of the unified hierarchy, for `CLONE_INTO_CGROUP`.
    pub(crate) unified: Option<OwnedFd>,
}

/// Makes `path` in every hierarchy of `layout` and writes `plan`. On error nothing of it remains.
pub(crate) fn create(layout: &Layout, path: &Path, plan: &Plan) -> Result<Cgroup, Error> {
    let names = check_path(path)?;
    let mut directories = Vec::with_capacity(layout.hierarchies.len());
    let made = layout
        .hierarchies
        .iter()
        .try_fold(Vec::new(), |mut opened, hierarchy| {
            let (directory, fd) = make(hierarchy, &names)?;
            directories.push(directory);
            opened.push((hierarchy.name.clone(), fd));
            Ok(opened)
        });
    let outcome = made.and_then(|opened| {
        delegation::enable(layout, &names, plan)?;
        write_all(plan, &directories, &opened)?;
        Ok(opened)
    });
    match outcome {
        Ok(opened) => Ok(Cgroup { directories, opened }),
        Err(error) => {
            // The first error is the one to tell; a directory that stays is found by the next create.
            let _ = remove(&directories);
            Err(error)
        }
    }
}

fn check_path(path: &Path) -> Result<Vec<&OsStr>, Error> {
    let error = |reason| Error::Path {
        path: path.to_owned(),
        reason,
    };
    let names = names(path);
    if names.is_empty() {
        return Err(error("is the root of the hierarchy"));
    }
    if path
        .components()
        .any(|part| part == std::path::Component::ParentDir)
    {
        return Err(error("climbs upwards"));
    }
    if names.len() == 1 && path.to_string_lossy().matches(':').count() == 2 {
        return Err(error("the systemd form slice:prefix:name is not implemented"));
    }
    Ok(names)
}

/// The directory in one hierarchy. It may exist, if nobody is in it.
fn make(hierarchy: &Hierarchy, names: &[&OsStr]) -> Result<(Directory, OwnedFd), Error> {
    let path: PathBuf = hierarchy.mount.join(names.iter().collect::<PathBuf>());
    match mkdirat(CWD, &path, Mode::from_raw_mode(0o755)) {
        Ok(()) => {}
        Err(Errno::NOENT) => make_all(hierarchy, names)?,
        Err(Errno::EXIST) => check_empty(&path, hierarchy.version)?,
        Err(error) => return Err(Error::file("make cgroup", path, error)),
    }
    if has_cpuset(hierarchy) {
        inherit_cpuset(&hierarchy.mount, names)?;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd =
        openat(CWD, &path, flags, Mode::empty()).map_err(|error| Error::file("open cgroup", &path, error))?;
    let version = hierarchy.version;
    Ok((Directory { path, version }, fd))
}

fn make_all(hierarchy: &Hierarchy, names: &[&OsStr]) -> Result<(), Error> {
    let cpuset = has_cpuset(hierarchy);
    let mut path = hierarchy.mount.clone();
    for (index, name) in names.iter().enumerate() {
        path.push(name);
        match mkdirat(CWD, &path, Mode::from_raw_mode(0o755)) {
            // What is made below starts with its parent's processors and memory; see `inherit_cpuset` for what is not.
            Ok(()) if cpuset && index + 1 < names.len() => write(&path.join("cgroup.clone_children"), "1")?,
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(Error::file("make cgroup", path, error)),
        }
    }
    Ok(())
}

fn has_cpuset(hierarchy: &Hierarchy) -> bool {
    hierarchy.controllers.iter().any(|name| name == "cpuset")
}

fn check_empty(path: &Path, version: Version) -> Result<(), Error> {
    let members =
        procs::of_directory(path, version).map_err(|error| Error::file("read cgroup", path, error))?;
    if members.is_empty() {
        return Ok(());
    }
    let busy = io::Error::new(ErrorKind::AlreadyExists, "it has processes");
    Err(Error::file("make cgroup", path, busy))
}

/// A new cpuset of v1 has no processors and no memory, and nobody may enter it (cpusets(7)): each gets its parent's.
fn inherit_cpuset(mount: &Path, names: &[&OsStr]) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let mut parent = mount.to_owned();
        let leaf = parent.join(names.iter().collect::<PathBuf>()).join(file);
        if !read(&leaf)?.trim().is_empty() {
            continue;
        }
        for name in names {
            let child = parent.join(name);
            if read(&child.join(file))?.trim().is_empty() {
                let value = read(&parent.join(file))?;
                write(&child.join(file), value.trim())?;
            }
            parent = child;
        }
    }
    Ok(())
}

pub(super) fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|error| Error::file("read", path, error))
}

pub(super) fn write(path: &Path, value: &str) -> Result<(), Error> {
    write_to(&open_for_writing(path)?, path, value)
}

fn open_for_writing(path: &Path) -> Result<OwnedFd, Error> {
    openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::file("open", path, e))
}

fn write_to(file: &OwnedFd, path: &Path, value: &str) -> Result<(), Error> {
    rustix::io::write(file, value.as_bytes())
        .map(drop)
        .map_err(|error| Error::File {
            operation: "write",
            path: path.to_owned(),
            value: Some(value.to_owned()),
            source: error.into(),
        })
}

fn write_all(plan: &Plan, directories: &[Directory], opened: &[(String, OwnedFd)]) -> Result<(), Error> {
    // Device rules are many writes to one file.
    let mut last: Option<(PathBuf, OwnedFd)> = None;
    for step in &plan.writes {
        let Some((path, value)) = target(&directories[step.hierarchy].path, step) else {
            continue;
        };
        let (path, file) = match last.take() {
            Some(open) if open.0 == path => open,
            _ => {
                let file = open_for_writing(&path)?;
                (path, file)
            }
        };
        write_to(&file, &path, value)?;
        last = Some((path, file));
    }
    if let Some(program) = &plan.device_program {
        let unified = directories
            .iter()
            .position(|directory| directory.version == Version::V2);
        let Some(index) = unified else {
            return Err(Error::None);
        };
        sys::bpf::load_device_program(program)
            .and_then(|program| {
                // Attaching wants the directory open for reading, not as a mere location.
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let directory = openat(&opened[index].1, c".", flags, Mode::empty())?;
                sys::bpf::attach_device_program(&directory, &program)
            })
            .map_err(|error| Error::file("attach the device program to", &directories[index].path, error))?;
    }
    Ok(())
}

/// Where to write what of a step, if anything.
fn target<'a>(directory: &Path, step: &'a Write) -> Option<(PathBuf, &'a str)> {
    let path = directory.join(&step.file);
    match &step.otherwise {
        Otherwise::Fail => Some((path, &step.value)),
        _ if path.exists() => Some((path, &step.value)),
        Otherwise::Skip => None,
        Otherwise::Write(file, value) => Some((directory.join(file), value)),
    }
}

/// Opens what a new process enters `directories` through.
pub(crate) fn open_doors(directories: &[Directory]) -> Result<Doors, Error> {
    let mut doors = Doors::default();
    for Directory { path, version } in directories {
        match version {
            Version::V1 => {
                let tasks = path.join("tasks");
                let fd = openat(CWD, &tasks, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
                doors
                    .tasks
                    .push(fd.map_err(|error| Error::file("open", tasks, error))?);
            }
            Version::V2 => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let fd = openat(CWD, path, flags, Mode::empty());
                doors.unified = Some(fd.map_err(|error| Error::file("open", path, error))?);
            }
        }
    }
    Ok(doors)
}

/// The same for a process that joins `init`, which may have moved to a group below `directories`, as an init system or a
/// container engine does: where controllers are passed on, nobody may be in the group itself (cgroups(7)).
pub(crate) fn open_doors_beside(directories: &[Directory], init: i32) -> Result<Doors, Error> {
    let mut directories = directories.to_vec();
    for directory in &mut directories {
        if directory.version == Version::V2 && passes_on(&directory.path)? {
            let file = format!("/proc/{init}/cgroup");
            let membership = read(Path::new(&file))?;
            directory.path.extend(below(&directory.path, &membership));
        }
    }
    open_doors(&directories)
}

fn passes_on(directory: &Path) -> Result<bool, Error> {
    Ok(!read(&directory.join("cgroup.subtree_control"))?.trim().is_empty())
}

/// The part of the unified group in the lines of /proc/PID/cgroup that is below `directory`, if it is.
fn below(directory: &Path, membership: &str) -> Option<PathBuf> {
    let group = membership.lines().find_map(|line| line.strip_prefix("0::"))?;
    let name = directory.file_name()?.to_str()?;
    let (_, rest) = group.split_once(&format!("/{name}/"))?;
    Some(PathBuf::from(rest))
}

/// Removes the directories with all below them; goes on after an error and answers with the first.
///
/// The processes must have been killed: it waits for the last of them to leave.
pub(crate) fn remove(directories: &[Directory]) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    let mut first = Ok(());
    for directory in directories {
        let removed = remove_tree(&directory.path, deadline);
        first = first.and(removed.map_err(|error| Error::file("remove cgroup", &directory.path, error)));
    }
    first
}

fn remove_tree(path: &Path, deadline: Instant) -> io::Result<()> {
    let mut pause = Duration::from_micros(200);
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            // Either it has children, or its last process is still on its way out: the kernel says busy to both.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                for child in children(path)? {
                    remove_tree(&child, deadline)?;
                }
                if Instant::now() >= deadline {
                    return Err(error);
                }
                if let Err(again) = fs::remove_dir(path)
                    && again.raw_os_error() == Some(libc::EBUSY)
                {
                    sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn children(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_are_no_place_are_refused() {
        for path in ["", "/", "/../x", "a/../../b", "system.slice:shoal:x"] {
            assert!(check_path(Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(check_path(Path::new("/shoal/abc")).unwrap().len(), 2);
    }

    #[test]
    fn what_a_kernel_lacks_is_left_out_or_written_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let step = |otherwise| Write {
            hierarchy: 0,
            file: "first".to_owned(),
            value: "1".to_owned(),
            otherwise,
        };
        let second = Otherwise::Write("second".to_owned(), "2".to_owned());
        let place = |name: &str| dir.path().join(name);
        let steps = [Otherwise::Fail, Otherwise::Skip, second].map(step);
        let targets = || steps.each_ref().map(|step| target(dir.path(), step));
        let first = || Some((place("first"), "1"));
        assert_eq!(targets(), [first(), None, Some((place("second"), "2"))]);
        fs::write(place("first"), "").unwrap();
        assert_eq!(targets(), [first(), first(), first()]);
    }

    #[test]
    fn an_init_may_have_moved_below() {
        let directory = Path::new("/sys/fs/cgroup/shoal/abc");
        let below = |text| below(directory, text);
        assert_eq!(below("0::/shoal/abc/init.scope\n"), Some("init.scope".into()));
        assert_eq!(below("1:cpu:/x\n0::/shoal/abc/a/b\n"), Some("a/b".into()));
        assert_eq!(below("0::/shoal/abc\n"), None);
        assert_eq!(below("0::/elsewhere\n"), None);
    }

    #[test]
    fn a_tree_is_removed_from_its_leaves() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        let directory = Directory {
            path: dir.path().join("a"),
            version: Version::V2,
        };
        remove(std::slice::from_ref(&directory)).unwrap();
        assert!(!directory.path.exists());
        remove(&[directory]).unwrap();
    }
}
