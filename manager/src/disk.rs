//! Work on the disk, away from the threads that must not wait for it.
//!
//! A simulation puts a disk of its own before it for its thread: one that takes virtual time, and that does nothing any more
//! for a process which is dead.

use std::cell::RefCell;
use std::io;
use std::path::Path;

use futures::future::BoxFuture;
use tokio::task::spawn_blocking;

thread_local! {
    static SIMULATED: RefCell<Option<Box<dyn SimulatedDisk>>> = const { RefCell::new(None) };
}

/// When, and whether, work on a disk is done in a simulation.
pub trait SimulatedDisk: 'static {
    /// Returns when work on the directory is to be done; an error if it never is.
    fn ready(&self, dir: &Path) -> BoxFuture<'static, io::Result<()>>;
}

/// Gives this thread another disk until the guard is dropped. For simulations that run in one thread.
#[must_use]
pub fn simulate(disk: impl SimulatedDisk) -> Simulated {
    SIMULATED.with_borrow_mut(|current| *current = Some(Box::new(disk)));
    Simulated(())
}

/// The thread's own disk lasts as long as this.
#[derive(Debug)]
pub struct Simulated(());

impl Drop for Simulated {
    fn drop(&mut self) {
        SIMULATED.with_borrow_mut(|current| *current = None);
    }
}

/// Does work that waits for the directory's disk. Once begun it is done, even if the caller stops waiting.
///
/// # Errors
/// The work has panicked, or the runtime ends.
pub(crate) async fn work<T: Send + 'static>(
    dir: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let ready = SIMULATED.with_borrow(|disk| disk.as_ref().map(|disk| disk.ready(dir)));
    match ready {
        Some(ready) => {
            // As with the real one, nobody who stops waiting stops it.
            let done = tokio::spawn(async move { ready.await.map(|()| work()) });
            done.await?
        }
        None => Ok(spawn_blocking(work).await?),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::FutureExt;

    use super::*;

    struct Dead;

    impl SimulatedDisk for Dead {
        fn ready(&self, _: &Path) -> BoxFuture<'static, io::Result<()>> {
            async { Err(io::Error::other("dead")) }.boxed()
        }
    }

    #[tokio::test]
    async fn the_disk_of_a_dead_process_does_nothing() {
        let done = Arc::new(AtomicBool::new(false));
        let put = || {
            let done = done.clone();
            move || done.store(true, Ordering::SeqCst)
        };
        let dead = simulate(Dead);
        assert!(work(Path::new("/"), put()).await.is_err());
        assert!(!done.load(Ordering::SeqCst));
        drop(dead);
        assert!(work(Path::new("/"), put()).await.is_ok());
        assert!(done.load(Ordering::SeqCst));
    }
}
