//! Questions for the world outside: asked from the host's namespace, within bounds, and each only once at a time.

mod cache;
mod exchange;
mod question;
mod reply;
mod resolv;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use cache::Cache;
use question::Key;
pub(crate) use question::{Question, UDP_MOST};
use reply::Reply;
use resolv::{Resolv, Watch};

/// Questions under way for the whole node; what comes on top is told to come again.
const CONCURRENT: usize = 1024;

/// The DNS servers of the world outside, and what they said.
#[derive(Debug, Clone)]
pub(crate) struct Upstreams(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Arc<Mutex<State>>,
    permits: Arc<Semaphore>,
    watching: Option<AbortHandle>,
}

#[derive(Debug, Default)]
struct State {
    resolv: Resolv,
    cache: Cache,
    flights: HashMap<Key, watch::Receiver<Flight>>,
}

/// `Some` once it has landed; inside, what it brought.
type Flight = Option<Option<Arc<Reply>>>;

impl Drop for Shared {
    fn drop(&mut self) {
        self.watching.iter().for_each(AbortHandle::abort);
    }
}

impl Upstreams {
    /// Fixed servers, or those of the host's `/etc/resolv.conf`.
    pub(crate) fn new(fixed: Option<Vec<SocketAddr>>, runtime: &Handle) -> Self {
        match fixed {
            Some(servers) => {
                let resolv = Resolv {
                    servers: servers.into(),
                    search: Vec::new(),
                };
                Self::with(Arc::new(Mutex::new(State::of(resolv))), None)
            }
            None => Self::following("/etc/resolv.conf".into(), runtime),
        }
    }

    fn following(file: PathBuf, runtime: &Handle) -> Self {
        // First the watch, then the reading: no change can fall between.
        let watch = Watch::new(&file);
        let state = Arc::new(Mutex::new(State::of(Resolv::read(&file))));
        let watching = match watch {
            Ok(watch) => Some(runtime.spawn(follow(watch, file, state.clone())).abort_handle()),
            Err(error) => {
                tracing::warn!(%error, file = %file.display(), "changes of the host's DNS servers will not be seen");
                None
            }
        };
        Self::with(state, watching)
    }

    fn with(state: Arc<Mutex<State>>, watching: Option<AbortHandle>) -> Self {
        Self(Arc::new(Shared {
            state,
            permits: Arc::new(Semaphore::new(CONCURRENT)),
            watching,
        }))
    }

    /// The host's search domains; none where the servers are fixed.
    pub(crate) fn search(&self) -> Vec<String> {
        lock(&self.0.state).resolv.search.clone()
    }

    /// An answer that is still good.
    pub(crate) fn known(&self, question: &Question) -> Option<Vec<u8>> {
        let (reply, age) = lock(&self.0.state).cache.get(&question.key, Instant::now())?;
        Some(reply.to(question, age))
    }

    /// Ask, unless the same is being asked already; then wait for that answer. `None`: nobody answered, or too much is
    /// under way.
    pub(crate) async fn ask(&self, question: &Question) -> Option<Vec<u8>> {
        let mut flight = self.flight(&question.key)?;
        let landed = flight.wait_for(Option::is_some).await.ok()?;
        let reply = landed.as_ref()?.as_ref()?;
        Some(reply.to(question, Duration::ZERO))
    }

    fn flight(&self, key: &Key) -> Option<watch::Receiver<Flight>> {
        let mut state = lock(&self.0.state);
        if let Some(flight) = state.flights.get(key).filter(|f| f.has_changed().is_ok()) {
            return Some(flight.clone());
        }
        let Ok(permit) = self.0.permits.clone().try_acquire_owned() else {
            tracing::debug!("{CONCURRENT} DNS questions are under way; one more was refused");
            return None;
        };
        let (land, flight) = watch::channel(None);
        state.flights.insert(key.clone(), flight.clone());
        let (key, servers) = (key.clone(), state.resolv.servers.clone());
        let shared = self.0.state.clone();
        // A task of its own: it must not end with the client that happened to be the first to ask.
        tokio::spawn(async move {
            let reply = exchange::ask(&servers, &key).await.map(Arc::new);
            lock(&shared).land(key, reply.clone(), &servers);
            land.send_replace(Some(reply));
            drop(permit);
        });
        Some(flight)
    }
}

impl State {
    fn of(resolv: Resolv) -> Self {
        Self {
            resolv,
            ..Self::default()
        }
    }

    fn land(&mut self, key: Key, reply: Option<Arc<Reply>>, servers: &Arc<[SocketAddr]>) {
        self.flights.remove(&key);
        // What servers said that are no longer ours is given to those who wait, and to nobody else.
        if let Some(reply) = reply.filter(|_| Arc::ptr_eq(servers, &self.resolv.servers)) {
            self.cache.put(key, reply, Instant::now());
        }
    }

    /// Other servers may know other answers. A file without servers is one that is being written.
    fn change(&mut self, resolv: Resolv) {
        if resolv != self.resolv && !resolv.servers.is_empty() {
            tracing::info!(servers = ?resolv.servers, "the host's DNS servers have changed");
            self.resolv = resolv;
            self.cache.clear();
        }
    }
}

async fn follow(watch: Watch, file: PathBuf, state: Arc<Mutex<State>>) {
    let changed = || lock(&state).change(Resolv::read(Path::new(&file)));
    if let Err(error) = watch.run(changed).await {
        tracing::warn!(%error, file = %file.display(), "changes of the host's DNS servers will not be seen any more");
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
