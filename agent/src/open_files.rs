//! The daemon's limit of open files: three per container, so the usual soft limit of 1024 would end at some hundreds.
//! Containers start with the limit that the daemon was started with: programs that close every possible descriptor,
//! or use select(2), suffer from a great one.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

static STARTED_WITH: OnceLock<(u64, u64)> = OnceLock::new();

/// Raises the soft limit to the hard one (getrlimit(2), RLIMIT_NOFILE).
///
/// # Errors
/// The kernel refuses.
pub fn raise() -> nix::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let _ = STARTED_WITH.set((soft, hard));
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

/// Soft and hard limit of this process before it raised them; none if it never did.
pub fn started_with() -> Option<(u64, u64)> {
    STARTED_WITH.get().copied()
}
