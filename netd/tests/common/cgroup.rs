//! A cgroup whose sockets are balanced. Containers are processes in cgroups of their own; here they are threads, so the
//! cgroup is a threaded one (cgroups(7)): a thread enters it alone, and the threads that it makes are born there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::eventually;

/// How many there are in this process, and where the process was before the first.
static USERS: Mutex<(usize, String)> = Mutex::new((0, String::new()));
static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Removed when dropped; the threads in it must have ended.
pub struct TestCgroup(PathBuf);

impl TestCgroup {
    pub fn new() -> Self {
        let mut users = USERS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let base = base();
        if users.0 == 0 {
            let own = fs::read_to_string("/proc/self/cgroup").unwrap();
            users.1 = own
                .lines()
                .find_map(|line| line.strip_prefix("0::"))
                .unwrap()
                .to_owned();
            fs::create_dir(&base).expect("tests of netd need root");
            fs::write(base.join("cgroup.procs"), "0").unwrap();
        }
        users.0 += 1;
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = base.join(number.to_string());
        fs::create_dir(&path).unwrap();
        fs::write(path.join("cgroup.type"), "threaded").unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The calling thread enters.
    pub fn enter(&self) {
        fs::write(self.0.join("cgroup.threads"), "0").unwrap();
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        // The kernel lets a thread that was joined leave a moment later.
        eventually("the cgroup is empty", || fs::remove_dir(&self.0).is_ok());
        let mut users = USERS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        users.0 -= 1;
        if users.0 == 0 {
            let home = hierarchy().join(users.1.trim_start_matches('/'));
            fs::write(home.join("cgroup.procs"), "0").unwrap();
            eventually("the process has left", || fs::remove_dir(base()).is_ok());
        }
    }
}

fn base() -> PathBuf {
    hierarchy().join(format!("shoal-test-{}", std::process::id()))
}

/// Where the unified hierarchy is mounted.
fn hierarchy() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut lines = mounts.lines().map(|line| line.split(' ').skip(1));
    let unified = lines.find_map(|mut words| {
        let (point, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(point))
    });
    unified.expect("this machine has no unified cgroup hierarchy")
}
