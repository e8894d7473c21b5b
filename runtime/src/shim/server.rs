//! The event loop: processes, clients, and what passes between them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::client::{Asked, Client, Received, Role};
use super::exit::OomCounter;
use super::lease::Lease;
use super::log::Log;
use super::poller::{ClientKey, Poller, ProcessKey, Token, Watched};
use super::process::{Phase, Process};
use super::protocol::{self, Failure, Request, Stream};
use super::stdio::Read;
use crate::container::{ContainerId, StateDir};

/// Size of the one buffer that everything is read into.
pub(super) const BUFFER: usize = 32 * 1024;

/// More connections than this are refused.
const MAX_CLIENTS: usize = 256;

/// Reads of one stream before others get their turn.
const READS_PER_TURN: usize = 8;

/// Reads of a dead process's stream at once: 2 MiB, more than a pipe can hold without privileges (pipe(7)). What was
/// written before the death is never lost, however late it is noticed.
const READS_AT_THE_END: usize = 64;

/// Everything that a shim has.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) state: StateDir,
    pub(super) id: ContainerId,
    pub(super) bundle: PathBuf,
    pub(super) poller: Poller,
    /// Gone when the container has ended.
    pub(super) listener: Option<Watched<UnixListener>>,
    pub(super) processes: BTreeMap<ProcessKey, Process>,
    pub(super) clients: BTreeMap<ClientKey, Client>,
    pub(super) log: Log,
    pub(super) oom: Option<OomCounter>,
    /// Until when the container may run; `None`: for ever.
    pub(super) lease: Option<Lease>,
    /// Whether the death of init leaves the other processes alive.
    pub(super) shares_pid_namespace: bool,
    /// What an exec gets that names none.
    pub(super) oom_score_adj: i32,
    pub(super) buffer: Box<[u8]>,
    pub(super) next_process: u32,
    pub(super) next_client: u32,
}

impl Server {
    /// Serves until the container has ended and everybody has been told.
    pub(super) fn run(mut self) -> std::io::Result<()> {
        while !self.is_finished() {
            for (token, flags) in self.poller.wait(self.timeout())? {
                self.handle(token, flags);
            }
            self.settle();
        }
        Ok(())
    }

    /// Process id of the container's init.
    pub(super) fn init_pid(&self) -> i32 {
        self.processes
            .get(&ProcessKey::INIT)
            .map_or(0, |init| init.pid.as_raw())
    }

    fn is_finished(&self) -> bool {
        self.clients.is_empty() && self.processes.values().all(Process::has_ended)
    }

    fn handle(&mut self, token: Token, flags: EventFlags) {
        match token {
            Token::Listener => self.accept(),
            Token::Exit(key) => self.on_exit(key),
            Token::Output(key, stream) => self.on_output(key, stream),
            Token::Input(key) => {
                if let Some(process) = self.processes.get_mut(&key) {
                    process.flush_input();
                }
            }
            Token::Client(key) => self.on_client(key, flags),
            Token::Lease => self.on_lease(),
        }
    }

    /// After a round of events: let go of what is over, and wait for what matters next.
    fn settle(&mut self) {
        let now = Instant::now();
        self.end_drained(now);
        self.clients
            .retain(|_, client| !client.is_done() && client.deadline().is_none_or(|deadline| deadline > now));
        let processes = &self.processes;
        self.clients.retain(|_, client| {
            let full = match client.role {
                Role::Attached(attachment) => processes
                    .get(&attachment.process)
                    .is_some_and(Process::input_is_full),
                _ => false,
            };
            client.refresh(full).is_ok()
        });
        for (key, process) in &mut self.processes {
            let congested = self
                .clients
                .values()
                .any(|client| client.is_congested() && client.attachment(*key).is_some());
            process.hold_back(congested);
        }
    }

    /// Until the first deadline; `None` if only events matter.
    fn timeout(&self) -> Option<Duration> {
        let draining = self.processes.values().filter_map(|process| match process.phase {
            // Init also waits for its execs, beyond its own output.
            Phase::Draining { until, .. } => Some(until),
            _ => None,
        });
        let clients = self.clients.values().filter_map(Client::deadline);
        let first = draining.chain(clients).min()?;
        Some(first.saturating_duration_since(Instant::now()))
    }

    fn accept(&mut self) {
        while let Some(listener) = &self.listener {
            match listener.fd().accept() {
                Ok(_) if self.clients.len() >= MAX_CLIENTS => {}
                Ok((stream, _)) => {
                    let key = ClientKey(self.next_client);
                    self.next_client = self.next_client.wrapping_add(1);
                    if let Ok(client) = Client::accept(&self.poller, key, stream) {
                        self.clients.insert(key, client);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn on_client(&mut self, key: ClientKey, flags: EventFlags) {
        let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        if flags.contains(EventFlags::IN) {
            self.receive(key, gone);
        }
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        let flushed = !flags.contains(EventFlags::OUT) || client.flush().is_ok();
        if gone || !flushed {
            self.clients.remove(&key);
        }
    }

    /// Reads what a client has sent: one portion, or everything if it is `gone`.
    fn receive(&mut self, key: ClientKey, gone: bool) {
        while let Some(client) = self.clients.get_mut(&key) {
            match client.receive(&mut self.buffer) {
                Received::Bytes(count) => self.take(key, count),
                Received::NothingYet => return,
                Received::End => {
                    if !gone {
                        self.end_of_input(key);
                    }
                    return;
                }
            }
            if !gone {
                return;
            }
        }
    }

    /// A client has sent the first `count` bytes of the buffer.
    fn take(&mut self, key: ClientKey, count: usize) {
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        match &client.role {
            Role::Asking { .. } => match client.add_to_request(&self.buffer[..count]) {
                Asked::Complete { line, rest } => self.respond(key, &line, &rest),
                Asked::TooLong => self.reply(key, Err(Failure::new("request is longer than 1 MiB"))),
                Asked::Incomplete => {}
            },
            Role::Attached(attachment) => {
                if let Some(process) = self.processes.get_mut(&attachment.process) {
                    process.write_input(&self.buffer[..count]);
                }
            }
            Role::Waiting { .. } | Role::Leaving => {}
        }
    }

    fn end_of_input(&mut self, key: ClientKey) {
        let Some(Role::Attached(attachment)) = self.clients.get(&key).map(|client| &client.role) else {
            return;
        };
        if let Some(process) = self
            .processes
            .get_mut(&attachment.process)
            .filter(|_| attachment.stdin)
        {
            process.client_ended_input();
        }
    }

    /// Answers a request; `rest` came after it and is input if the client is attached now.
    fn respond(&mut self, key: ClientKey, line: &[u8], rest: &[u8]) {
        let answer = serde_json::from_slice::<Request>(line)
            .map_err(|error| Failure::new(format!("bad request: {error}")))
            .and_then(|request| self.perform(request));
        self.reply(key, answer);
        let client = self.clients.get(&key);
        if let Some(Role::Attached(attachment)) = client.map(|client| &client.role)
            && let Some(process) = self.processes.get_mut(&attachment.process)
            && attachment.stdin
        {
            process.write_input(rest);
        }
    }

    fn reply(&mut self, key: ClientKey, answer: Result<Next, Failure>) {
        let (line, role) = match answer {
            Ok(Next::Close(line)) => (line, Role::Leaving),
            Ok(Next::Stay(line, role)) => (line, role),
            Err(failure) => (protocol::error(&failure), Role::Leaving),
        };
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        client.role = role;
        if client.say(&line).is_err() {
            self.clients.remove(&key);
        }
    }

    /// Passes on what a process has written: to the log, then to those who are attached.
    pub(super) fn on_output(&mut self, key: ProcessKey, stream: Stream) {
        let Self {
            processes,
            clients,
            log,
            buffer,
            ..
        } = self;
        let Some(process) = processes.get_mut(&key) else {
            return;
        };
        let Some(index) = process.outputs.iter().position(|output| output.stream == stream) else {
            return;
        };
        let reads = if process.is_alive() {
            READS_PER_TURN
        } else {
            READS_AT_THE_END
        };
        for _ in 0..reads {
            let count = match process.outputs[index].read(buffer) {
                Read::Bytes(count) => count,
                Read::NothingYet => return,
                Read::End => {
                    process.outputs.remove(index);
                    if key == ProcessKey::INIT {
                        log.end(stream);
                    }
                    return;
                }
            };
            if key == ProcessKey::INIT {
                log.append(stream, &buffer[..count]);
            }
            if show(clients, key, stream, &buffer[..count]) && process.is_alive() {
                return;
            }
        }
    }
}

/// Gives output to all who are attached; whether one of them cannot keep up.
fn show(clients: &mut BTreeMap<ClientKey, Client>, key: ProcessKey, stream: Stream, bytes: &[u8]) -> bool {
    let mut congested = false;
    clients.retain(|_, client| {
        if client.attachment(key).is_none() {
            return true;
        }
        let alive = client.show(stream, bytes).is_ok();
        congested |= alive && client.is_congested();
        alive
    });
    congested
}

/// What happens to a connection whose request could be answered.
#[derive(Debug)]
pub(super) enum Next {
    /// It gets this line and is closed.
    Close(Vec<u8>),
    /// It gets this line, or none yet, and stays.
    Stay(Vec<u8>, Role),
}

/// Says something on stderr, which the agent keeps as the shim's own log; it may be gone.
pub(super) fn report(message: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "shim: {message}");
}
