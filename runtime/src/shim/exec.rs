//! Further processes in the container: making them, and remembering how they ended.

use super::client::{Attachment, Role};
use super::clock::Stamp;
use super::exit;
use super::poller::ProcessKey;
use super::process::{Holding, Phase, Process};
use super::protocol::{self, ExecSpec, Failure, is_exec_id};
use super::server::{Next, Server, report};
use super::stdio::Pipes;
use crate::container::{self, Created, ExecRequest, Stdio};

/// How many ended execs are remembered: health checks would otherwise add up for as long as the container lives.
const REMEMBERED: usize = 32;

impl Server {
    /// Runs a process in the container.
    pub(super) fn exec(&mut self, spec: ExecSpec) -> Result<Next, Failure> {
        self.check(&spec)?;
        let ExecSpec {
            id,
            mut process,
            open_stdin,
            attach,
        } = spec;
        if process.oom_score_adj().is_none() {
            // Else it would inherit the shim's own protection.
            process.set_oom_score_adj(Some(self.oom_score_adj));
        }
        let (stdio, pipes) = pipes(&process, open_stdin, attach)
            .map_err(|error| Failure::new(format!("make pipes for exec {id}: {error}")))?;
        let created = container::exec(&self.state, &self.id, ExecRequest { process, stdio })
            .map_err(|error| Failure::from_error(&error, error.exit_code()))?;
        let pid = created.pid.as_raw();
        let key = self.adopt_exec(id, created, pipes, open_stdin)?;
        let line = protocol::ok(&serde_json::json!({ "pid": pid }));
        if !attach {
            return Ok(Next::Close(line));
        }
        let attachment = Attachment {
            process: key,
            stdin: true,
            stdout: true,
            stderr: true,
        };
        Ok(Next::Stay(line, Role::Attached(attachment)))
    }

    fn check(&self, spec: &ExecSpec) -> Result<(), Failure> {
        if !is_exec_id(&spec.id) {
            return Err(Failure::new(
                "exec id: only letters, digits and _-. are allowed, at most 128",
            ));
        }
        if self
            .processes
            .values()
            .any(|process| process.name.as_deref() == Some(&spec.id))
        {
            return Err(Failure::new(format!("exec {} exists already", spec.id)));
        }
        match self.processes.get(&ProcessKey::INIT).map(|init| &init.phase) {
            Some(Phase::Running) => Ok(()),
            _ => Err(Failure::new("container is not running")),
        }
    }

    fn adopt_exec(
        &mut self,
        id: String,
        created: Created,
        pipes: Pipes,
        open_stdin: bool,
    ) -> Result<ProcessKey, Failure> {
        let key = ProcessKey(self.next_process);
        let pid = created.pid;
        let holding = Holding {
            open_stdin,
            ends_input: true,
        };
        let mut process = Process::adopt(&self.poller, key, created, pipes, holding).map_err(|error| {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            let _ = nix::sys::wait::waitpid(pid, None);
            Failure::new(format!("hold exec {id}: {error}"))
        })?;
        process.name = Some(id);
        process.phase = Phase::Running;
        process.started = Some(Stamp::now());
        self.processes.insert(key, process);
        self.next_process += 1;
        Ok(key)
    }

    /// An exec is dead and drained: record it, tell everybody, forget older ones.
    pub(super) fn end_exec(&mut self, key: ProcessKey) {
        let oom_killed = self.oom.as_mut().is_some_and(exit::OomCounter::has_risen);
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        let (Some(record), Some(id)) = (process.exit_record(oom_killed), &process.name) else {
            return;
        };
        if let Err(error) = exit::persist(&self.bundle, &file_name(id), &record) {
            report(&format!("record the end of exec {id}: {error}"));
        }
        process.end(record);
        self.tell(key);
        self.forget_old_execs();
    }

    fn forget_old_execs(&mut self) {
        let execs = self
            .processes
            .iter()
            .filter(|(_, process)| process.name.is_some());
        let ended: Vec<ProcessKey> = execs
            .filter(|(_, process)| process.has_ended())
            .map(|(key, _)| *key)
            .collect();
        for key in ended.iter().rev().skip(REMEMBERED) {
            let forgotten = self.processes.remove(key).and_then(|process| process.name);
            let Some(id) = forgotten else { continue };
            // Worth nothing more than a try: the whole bundle goes away in the end.
            let _ = std::fs::remove_file(self.bundle.join(file_name(&id)));
        }
    }
}

fn file_name(id: &str) -> String {
    format!("exec-{id}.json")
}

fn pipes(
    process: &oci_spec::runtime::Process,
    open_stdin: bool,
    attach: bool,
) -> std::io::Result<(Stdio, Pipes)> {
    if process.terminal() == Some(true) {
        return Ok(Pipes::terminal(
            process
                .console_size()
                .map(|size| (size.height() as u16, size.width() as u16)),
        ));
    }
    if attach {
        Pipes::piped(open_stdin)
    } else {
        Pipes::null()
    }
}
