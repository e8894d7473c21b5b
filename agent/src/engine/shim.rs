//! The agent's side of the shim: starts it, and speaks its socket protocol (`runtime::shim`): one JSON line each way.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Command;

use super::error::{Cause, EngineError, Result};
use super::id::ContainerId;

/// A shim never answers with more.
const ANSWER_LIMIT: u64 = 1 << 20;

/// How a process ended, from `exit.json` or a `wait`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ExitReport {
    pub(crate) exit_code: i32,
    pub(crate) oom_killed: bool,
    pub(crate) started_at: String,
    pub(crate) finished_at: String,
    pub(crate) error: Option<String>,
}

impl ExitReport {
    /// When the process ended; now if the shim did not say.
    pub(crate) fn finished(&self) -> OffsetDateTime {
        OffsetDateTime::parse(&self.finished_at, &Rfc3339).unwrap_or_else(|_| OffsetDateTime::now_utc())
    }
}

/// Answer to `state`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ShimState {
    pub(crate) status: String,
    pub(crate) pid: i32,
}

/// A refusal by the shim.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    pub(crate) message: String,
    /// The exit code that stands for it, if one does.
    pub(crate) code: Option<i32>,
}

/// Why the shim could not be spoken to.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("reach the shim")]
    Connect(#[source] std::io::Error),
    #[error("talk to the shim")]
    Talk(#[source] std::io::Error),
    #[error("the shim closed the connection without an answer")]
    NoAnswer,
    #[error("understand the shim's answer {0:?}")]
    Answer(String, #[source] serde_json::Error),
    #[error("start the runtime {}", .0.display())]
    Spawn(PathBuf, #[source] std::io::Error),
}

/// The shim of one container.
#[derive(Debug, Clone)]
pub(crate) struct Shim {
    bundle: PathBuf,
    id: ContainerId,
}

/// A connection on which the shim has said ok.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) reader: BufReader<OwnedReadHalf>,
    pub(crate) writer: OwnedWriteHalf,
}

impl Shim {
    pub(crate) fn new(bundle: &Path, id: &ContainerId) -> Self {
        Self {
            bundle: bundle.to_owned(),
            id: id.clone(),
        }
    }

    /// Starts the shim of a prepared bundle; returns the pid of the container's init, which waits for [`Self::start`]. The
    /// shim keeps `kept` for as long as it lives; see [`Self::kept`].
    pub(crate) async fn spawn(&self, runtime: &Path, state_dir: &Path, kept: Option<OwnedFd>) -> Result<i32> {
        let log = self.bundle.join("shim.log");
        let stderr = std::fs::File::create(&log).map_err(EngineError::file("create", &log))?;
        let mut child = Command::new(runtime)
            .arg("--root")
            .arg(state_dir)
            .args(["shim", "--bundle"])
            .args([self.bundle.as_os_str(), self.id.as_str().as_ref()])
            .stdin(kept.map_or_else(Stdio::null, Stdio::from))
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(|error| self.failed("create container")(Failure::Spawn(runtime.to_owned(), error)))?;
        let mut line = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            let read = BufReader::new(stdout.take(ANSWER_LIMIT))
                .read_until(b'\n', &mut line)
                .await;
            read.map_err(|error| self.failed("create container")(Failure::Talk(error)))?;
        }
        // The shim lives on; tokio reaps it when it ends. It is a child of init once the agent is gone.
        self.readiness(&line, &log)
    }

    fn readiness(&self, line: &[u8], log: &Path) -> Result<i32> {
        #[derive(Deserialize)]
        struct Ready {
            pid: Option<i32>,
            error: Option<String>,
            code: Option<i32>,
        }
        let refused = |message: String, code| self.failed("create container")(Refusal { message, code });
        match serde_json::from_slice(line) {
            Ok(Ready { pid: Some(pid), .. }) => Ok(pid),
            Ok(Ready {
                error: Some(message),
                code,
                ..
            }) => Err(refused(message, code)),
            _ => Err(refused(
                format!("the shim ended without a word: {}", last_words(log)),
                None,
            )),
        }
    }

    /// Lets the payload run.
    pub(crate) async fn start(&self) -> Result<()> {
        self.call("start container", json!({ "start": {} }))
            .await
            .map(drop::<Value>)
    }

    /// Lets the container run until then (nanoseconds of `CLOCK_BOOTTIME`).
    pub(crate) async fn extend_lease(&self, until: u64) -> Result<()> {
        let request = json!({ "lease": { "until": until } });
        self.call("extend the lease", request).await.map(drop::<Value>)
    }

    /// Signals the container's init, or an exec.
    pub(crate) async fn kill(&self, signal: i32, exec: Option<&str>) -> Result<()> {
        let request = json!({ "kill": { "signal": signal, "all": false, "exec": exec } });
        self.call("signal", request).await.map(drop::<Value>)
    }

    /// Tells a terminal its size.
    pub(crate) async fn resize(&self, exec: Option<&str>, rows: u16, cols: u16) -> Result<()> {
        let request = json!({ "resize": { "exec": exec, "rows": rows, "cols": cols } });
        self.call("resize", request).await.map(drop::<Value>)
    }

    pub(crate) async fn state(&self) -> Result<ShimState> {
        self.call("ask for the state", json!({ "state": {} })).await
    }

    /// Ends a shim whose container was never started.
    pub(crate) async fn shutdown(&self) -> Result<()> {
        self.call("shut down", json!({ "shutdown": {} }))
            .await
            .map(drop::<Value>)
    }

    /// Subscribes to the end of the container or an exec. The subscription holds when this returns; the answer comes later.
    pub(crate) async fn wait(&self, exec: Option<&str>) -> Result<ExitWait> {
        let stream = self.send("wait", &json!({ "wait": { "exec": exec } })).await?;
        Ok(ExitWait(stream))
    }

    /// Attaches; frames follow on the connection.
    pub(crate) async fn attach(&self, stdin: bool, stdout: bool, stderr: bool) -> Result<Connection> {
        let request =
            json!({ "attach": { "exec": null, "stdin": stdin, "stdout": stdout, "stderr": stderr } });
        self.open("attach", request)
            .await
            .map(|(connection, _)| connection)
    }

    /// Runs a process; with `attach` its streams are the connection. Returns its pid.
    pub(crate) async fn exec(
        &self,
        id: &str,
        process: Value,
        stdin: bool,
        attach: bool,
    ) -> Result<(Connection, i32)> {
        let request =
            json!({ "exec": { "id": id, "process": process, "openStdin": stdin, "attach": attach } });
        let (connection, answer) = self.open("exec", request).await?;
        let pid = answer["pid"]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok())
            .unwrap_or_default();
        Ok((connection, pid))
    }

    async fn call<T: DeserializeOwned>(&self, action: &'static str, request: Value) -> Result<T> {
        let (_, answer) = self.open(action, request).await?;
        let shown = answer.to_string();
        serde_json::from_value(answer).map_err(|e| self.failed(action)(Failure::Answer(shown, e)))
    }

    /// Sends a request and reads the answer line; the connection goes on.
    async fn open(&self, action: &'static str, request: Value) -> Result<(Connection, Value)> {
        let mut connection = self.send(action, &request).await?;
        let answer = match read_answer(&mut connection.reader).await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Err(self.failed(action)(Failure::NoAnswer)),
            Err(error) => return Err(self.failed(action)(error)),
        };
        match answer {
            Answer::Ok(value) => Ok((connection, value)),
            Answer::Error { message, code } => Err(self.failed(action)(Refusal { message, code })),
        }
    }

    async fn send(&self, action: &'static str, request: &Value) -> Result<Connection> {
        let stream = self
            .connect()
            .await
            .map_err(|e| self.failed(action)(Failure::Connect(e)))?;
        let (reader, mut writer) = stream.into_split();
        let line = format!("{request}\n");
        writer
            .write_all(line.as_bytes())
            .await
            .map_err(|e| self.failed(action)(Failure::Talk(e)))?;
        Ok(Connection {
            reader: BufReader::new(reader),
            writer,
        })
    }

    /// What the shim was given to keep: its standard input. `None` if there is no such shim.
    pub(crate) fn kept(&self) -> Option<OwnedFd> {
        let dir = std::fs::File::open(&self.bundle).ok()?;
        let shim = std::os::unix::net::UnixStream::connect(short_path(&dir)).ok()?;
        let shim = sys::socket::peer_process(&shim).ok()?;
        sys::process::duplicate_of(shim, std::io::stdin().as_raw_fd()).ok()
    }

    async fn connect(&self) -> std::io::Result<UnixStream> {
        let dir = std::fs::File::open(&self.bundle)?;
        UnixStream::connect(short_path(&dir)).await
    }

    fn failed<E: Into<Cause>>(&self, action: &'static str) -> impl FnOnce(E) -> EngineError {
        let container = self.id.to_string();
        move |source| EngineError::Shim {
            action,
            container,
            source: source.into(),
        }
    }
}

/// A pending end of a process.
#[derive(Debug)]
pub(crate) struct ExitWait(Connection);

impl ExitWait {
    /// How it ended; `None` if the shim went away without telling.
    pub(crate) async fn exit(mut self) -> Option<ExitReport> {
        match read_answer(&mut self.0.reader).await {
            Ok(Some(Answer::Ok(value))) => serde_json::from_value(value).ok(),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Ok(Value),
    Error { message: String, code: Option<i32> },
}

async fn read_answer(reader: &mut BufReader<OwnedReadHalf>) -> Result<Option<Answer>, Failure> {
    let mut line = Vec::new();
    // `take` by reference: what follows the line stays in the buffer for the attachment.
    (&mut *reader)
        .take(ANSWER_LIMIT)
        .read_until(b'\n', &mut line)
        .await
        .map_err(Failure::Talk)?;
    if line.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&line)
        .map(Some)
        .map_err(|error| Failure::Answer(String::from_utf8_lossy(&line).into_owned(), error))
}

/// The end of the shim's log, for an error message.
fn last_words(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let tail = &text[text.len().saturating_sub(1024)..];
    let words = String::from_utf8_lossy(tail).trim().replace('\n', "; ");
    if words.is_empty() {
        "nothing in its log".to_owned()
    } else {
        words
    }
}

/// Reads `exit.json` of a bundle, if it is there and whole.
pub(crate) fn read_exit(path: &Path) -> Option<ExitReport> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// The refusal inside an error of this module.
pub(crate) fn refusal(error: &EngineError) -> Option<&Refusal> {
    match error {
        EngineError::Shim { source, .. } => source.downcast_ref::<Refusal>(),
        _ => None,
    }
}

/// The socket in a bundle. A socket path holds 108 bytes (unix(7)) and a state directory may be deeper: it goes through the
/// bundle's descriptor.
fn short_path(bundle: &std::fs::File) -> String {
    format!("/proc/self/fd/{}/shim.sock", bundle.as_raw_fd())
}
