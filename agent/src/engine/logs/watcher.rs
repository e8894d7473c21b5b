//! One inotify instance for all followers: the kernel allows few instances (128 per user) but many watches.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;

use crate::engine::container::lock;
use crate::engine::error::{EngineError, Result};

/// Room for the events of one read; one event with a name needs at most 272 bytes (inotify(7)).
const BUFFER: usize = 4096;

/// Tells followers that something in a directory was written.
#[derive(Debug)]
pub(crate) struct LogWatcher(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inotify: OwnedFd,
    /// By watch descriptor.
    directories: Mutex<HashMap<i32, watch::Sender<u64>>>,
}

impl LogWatcher {
    /// Begins listening.
    ///
    /// # Errors
    /// The kernel gives no inotify instance.
    pub(crate) fn start() -> Result<Self> {
        let failed = |error: std::io::Error| EngineError::file("watch", "/")(error);
        let inotify =
            inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let reading = inotify.try_clone().map_err(failed)?;
        // To tokio an inotify descriptor is what a pipe is: something to read from when it is ready.
        let events = Receiver::from_owned_fd_unchecked(reading).map_err(failed)?;
        let shared = Arc::new(Shared {
            inotify,
            directories: Mutex::default(),
        });
        let weak = Arc::downgrade(&shared);
        tokio::spawn(async move {
            let mut buffer = [0; BUFFER];
            while events.readable().await.is_ok() {
                let Some(shared) = weak.upgrade() else { return };
                if let Ok(length) = events.try_read(&mut buffer) {
                    shared.pass_on(&buffer[..length]);
                }
            }
        });
        Ok(Self(shared))
    }

    /// Ticks at every write in `directory` from now on.
    ///
    /// # Errors
    /// The directory cannot be watched.
    pub(crate) fn subscribe(&self, directory: &Path) -> Result<watch::Receiver<u64>> {
        let events = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        let mut directories = lock(&self.0.directories);
        let added = inotify::add_watch(&self.0.inotify, directory, events);
        let added = added.map_err(|error| EngineError::file("watch", directory)(error.into()))?;
        // The kernel gives one descriptor per directory, however often it is added.
        Ok(directories.entry(added).or_default().subscribe())
    }
}

impl Shared {
    fn pass_on(&self, events: &[u8]) {
        let mut directories = lock(&self.directories);
        for (descriptor, mask) in parse(events) {
            if mask & ReadFlags::IGNORED.bits() != 0 {
                directories.remove(&descriptor);
            } else if let Some(listeners) = directories.get(&descriptor) {
                listeners.send_modify(|ticks| *ticks = ticks.wrapping_add(1));
                if listeners.receiver_count() == 0 {
                    // Nobody follows any more. The kernel may have removed it already, with its directory.
                    let _ = inotify::remove_watch(&self.inotify, descriptor);
                    directories.remove(&descriptor);
                }
            }
        }
    }
}

/// Watch descriptor and mask of each `struct inotify_event`: i32 wd, u32 mask, u32 cookie, u32 len, name of len bytes.
fn parse(mut events: &[u8]) -> Vec<(i32, u32)> {
    let mut parsed = Vec::new();
    while let Some((head, rest)) = events.split_first_chunk::<16>() {
        let word = |at: usize| [head[at], head[at + 1], head[at + 2], head[at + 3]];
        parsed.push((i32::from_ne_bytes(word(0)), u32::from_ne_bytes(word(4))));
        let name = u32::from_ne_bytes(word(12)) as usize;
        events = rest.get(name..).unwrap_or_default();
    }
    parsed
}
