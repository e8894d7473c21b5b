//! The words spoken on `<bundle>/shim.sock`, and the records left on disk.
//!
//! A unix stream socket. The client sends one request, a JSON object on one line; the shim answers with one line,
//! `{"ok":{…}}` or `{"error":{"message":"…","code":n}}` (`code`, where there is one, is the exit code that stands for
//! the error), and closes the connection, except where noted. A request line is at most 1 MiB. Unknown requests and
//! unknown keys are errors. Where a request takes `"exec"`, `null` or its absence means the container itself.
//!
//! | request | answer |
//! |---|---|
//! | `{"start":{}}` | `{}` once the payload was executed. An error if it could not be: the container has then finished, with `code` (126, 127, else 128) as its exit code in exit.json |
//! | `{"kill":{"signal":15,"all":false,"exec":"id"}}` | `{}`; `all` signals every process of the container |
//! | `{"resize":{"exec":"id","rows":24,"cols":80}}` | `{}`; an error if there is no terminal |
//! | `{"exec":{"id":"id","process":{OCI process},"openStdin":false,"attach":false}}` | `{"pid":n}`; an error with `code` 126 or 127 if the program could not be executed. With `attach` the connection goes on as an attachment to all streams, and not a byte of output is missed; without, output is discarded |
//! | `{"attach":{"exec":"id","stdin":true,"stdout":true,"stderr":true}}` | `{}`, then the connection is an attachment |
//! | `{"closeStdin":{"exec":"id"}}` | `{}`; the process reads end-of-file after what was sent before |
//! | `{"wait":{"exec":"id"}}` | blocks until the process has ended and its output is drained, then an [`ExitRecord`] |
//! | `{"state":{}}` | a [`StateReport`] |
//! | `{"lease":{"until":n}}` | `{}`; the container's lease lasts until then (nanoseconds of `CLOCK_BOOTTIME`). An error if it has none or it has run out |
//! | `{"shutdown":{}}` | ends a shim whose container was not started (its init is killed); `{}` when nothing of it is left. An error while the container runs |
//!
//! **Attachment.** Shim to client: frames of Docker's stdcopy, `[1|2, 0, 0, 0, length as u32 big-endian]` and the
//! payload; a terminal's output is type 1. Client to shim: raw bytes for stdin. The client's half-close (shutdown of
//! its writing side) ends its input: the container's stdin is closed if it has `stdinOnce`, an exec's always is, a
//! terminal never. Closing the connection altogether detaches and leaves stdin as it is, so that the death of the
//! agent is no end of input; a client that wants both uses `closeStdin` or waits for the shim to close. The shim closes
//! the connection when the process has ended and all of its output was sent. A client that falls behind holds the
//! process up for as long as it keeps reading; one that reads nothing for five seconds is dropped.
//!
//! **On disk**, each written beside, synced and renamed before anybody is told: `<bundle>/exit.json` and
//! `<bundle>/exec-<id>.json`, both an [`ExitRecord`]. After exit.json is there the shim deletes the OCI state and the
//! cgroup, removes the socket, answers whoever waits and exits. Of ended execs the newest 32 are remembered. A client
//! that comes while the shim leaves is refused or sees its connection reset: exit.json is there then.

use serde::{Deserialize, Serialize};

use crate::process::chain;

/// Longest request line in bytes.
pub(super) const MAX_REQUEST: usize = 1024 * 1024;

/// Which of a process's outputs; the discriminant is the frame type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout = 1,
    Stderr = 2,
}

impl Stream {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A request line.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Request {
    Start {},
    Kill {
        signal: i32,
        #[serde(default)]
        all: bool,
        #[serde(default)]
        exec: Option<String>,
    },
    Resize {
        #[serde(default)]
        exec: Option<String>,
        rows: u16,
        cols: u16,
    },
    Exec(Box<ExecSpec>),
    Attach(Attach),
    CloseStdin {
        #[serde(default)]
        exec: Option<String>,
    },
    Wait {
        #[serde(default)]
        exec: Option<String>,
    },
    State {},
    Lease {
        until: u64,
    },
    Shutdown {},
}

/// A further process to run.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ExecSpec {
    pub(super) id: String,
    pub(super) process: oci_spec::runtime::Process,
    #[serde(default)]
    pub(super) open_stdin: bool,
    #[serde(default)]
    pub(super) attach: bool,
}

/// Which streams a client wants.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attach {
    #[serde(default)]
    pub(super) exec: Option<String>,
    #[serde(default)]
    pub(super) stdin: bool,
    #[serde(default)]
    pub(super) stdout: bool,
    #[serde(default)]
    pub(super) stderr: bool,
}

/// How a process ended. Times are RFC 3339 with nanoseconds; year 1 stands for never.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExitRecord {
    /// The status, or 128 + signal.
    pub(super) exit_code: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) signal: Option<i32>,
    /// Whether the kernel killed any process of the container for lack of memory.
    pub(super) oom_killed: bool,
    pub(super) started_at: String,
    pub(super) finished_at: String,
    /// Why the payload could not be started, or what went wrong at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// The answer to `state`.
#[derive(Debug, Serialize)]
pub(super) struct StateReport {
    /// `created`, `running` or `stopped`.
    pub(super) status: &'static str,
    pub(super) pid: i32,
    pub(super) execs: Vec<ExecReport>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExecReport {
    pub(super) id: String,
    pub(super) pid: i32,
    pub(super) running: bool,
    pub(super) exit_code: Option<i32>,
}

/// A refusal; `code` is the exit code that stands for it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Failure {
    pub(super) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<i32>,
}

impl Failure {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: None,
        }
    }

    /// An error with all of its causes in one line.
    pub(super) fn from_error(error: &dyn std::error::Error, code: Option<i32>) -> Self {
        Self {
            message: chain(error),
            code,
        }
    }
}

/// An answer line.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Reply<'a, T> {
    Ok(T),
    Error(&'a Failure),
}

/// `{"ok":body}` and a newline.
pub(super) fn ok(body: &impl Serialize) -> Vec<u8> {
    line(&Reply::Ok(body))
}

/// `{"ok":{}}` and a newline.
pub(super) fn done() -> Vec<u8> {
    b"{\"ok\":{}}\n".to_vec()
}

/// `{"error":failure}` and a newline.
pub(super) fn error(failure: &Failure) -> Vec<u8> {
    line::<()>(&Reply::Error(failure))
}

fn line<T: Serialize>(reply: &Reply<'_, T>) -> Vec<u8> {
    // These types have string keys only, so that rendering them cannot fail.
    let mut line = serde_json::to_vec(reply).unwrap_or_default();
    line.push(b'\n');
    line
}

/// The header of a frame. Payloads are at most one read long, far below 4 GiB.
pub(super) fn frame_header(stream: Stream, length: usize) -> [u8; 8] {
    let [a, b, c, d] = (length as u32).to_be_bytes();
    [stream as u8, 0, 0, 0, a, b, c, d]
}

/// Whether `id` can be the id of an exec: it becomes part of a file name.
pub(super) fn is_exec_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    !id.is_empty() && id.len() <= 128 && id.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> serde_json::Result<Request> {
        serde_json::from_str(text)
    }

    #[test]
    fn requests_as_agreed() {
        assert!(matches!(parse(r#"{"start":{}}"#), Ok(Request::Start {})));
        assert!(matches!(
            parse(r#"{"kill":{"signal":15,"all":false,"exec":null}}"#),
            Ok(Request::Kill {
                signal: 15,
                all: false,
                exec: None
            })
        ));
        assert!(matches!(
            parse(r#"{"resize":{"exec":"x","rows":24,"cols":80}}"#),
            Ok(Request::Resize {
                exec: Some(_),
                rows: 24,
                cols: 80
            })
        ));
        assert!(matches!(
            parse(r#"{"wait":{}}"#),
            Ok(Request::Wait { exec: None })
        ));
        assert!(matches!(
            parse(r#"{"lease":{"until":7}}"#),
            Ok(Request::Lease { until: 7 })
        ));
        assert!(matches!(
            parse(r#"{"closeStdin":{}}"#),
            Ok(Request::CloseStdin { exec: None })
        ));
        let exec = r#"{"exec":{"id":"e","process":{"cwd":"/","args":["true"],"user":{"uid":0,"gid":0}},"attach":true}}"#;
        assert!(matches!(parse(exec), Ok(Request::Exec(spec)) if spec.attach && !spec.open_stdin));
    }

    #[test]
    fn junk_is_refused() {
        for junk in [
            "",
            "{}",
            "[]",
            r#"{"begin":{}}"#,
            r#"{"start":{"now":true}}"#,
            r#"{"kill":{}}"#,
            "null",
        ] {
            assert!(parse(junk).is_err(), "{junk}");
        }
    }

    #[test]
    fn answers_are_one_line() {
        let failure = Failure {
            message: "a \"b\"\nc".into(),
            code: Some(127),
        };
        assert_eq!(
            error(&failure),
            b"{\"error\":{\"message\":\"a \\\"b\\\"\\nc\",\"code\":127}}\n"
        );
        assert_eq!(ok(&serde_json::json!({"pid": 1})), b"{\"ok\":{\"pid\":1}}\n");
    }

    #[test]
    fn exec_ids_are_file_names() {
        assert!(is_exec_id("0f.a-b_c"));
        for bad in ["", "a/b", "ä", &"x".repeat(129)] {
            assert!(!is_exec_id(bad), "{bad}");
        }
    }

    #[test]
    fn frames_are_those_of_stdcopy() {
        assert_eq!(frame_header(Stream::Stderr, 0x0102), [2, 0, 0, 0, 0, 0, 1, 2]);
    }
}
