//! A shim with a busybox container, and the client side of its protocol.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

/// A guard against hanging for ever; nothing is expected to come near it.
const GUARD: Duration = Duration::from_secs(60);

/// What a test wants of its container.
pub(crate) struct Setup {
    spec: Value,
    shim: Value,
    dir: tempfile::TempDir,
    id: String,
}

/// A running shim. Dropping it leaves nothing behind.
pub(crate) struct Shim {
    dir: tempfile::TempDir,
    id: String,
    child: Child,
    /// The first line that the shim said.
    pub(crate) greeting: Value,
}

impl Setup {
    /// A container that runs `sh -c script`.
    pub(crate) fn script(script: &str) -> Self {
        Self::command(&["/bin/sh", "-c", script])
    }

    /// A container that runs `args`.
    pub(crate) fn command(args: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!(
            "shim-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = tempfile::Builder::new().prefix("shoal-shim-").tempdir().unwrap();
        let spec = spec(args, &format!("/shoal-test-{id}"));
        let log = dir.path().join("container.log");
        let shim = json!({"id": id, "terminal": false, "log": {"driver": "json-file", "path": log}});
        Self { spec, shim, dir, id }
    }

    /// Sets a key of shim.json.
    pub(crate) fn shim(mut self, pointer: &str, value: Value) -> Self {
        set(&mut self.shim, pointer, value);
        self
    }

    /// Sets a key of config.json, by JSON pointer.
    pub(crate) fn spec(mut self, pointer: &str, value: Value) -> Self {
        set(&mut self.spec, pointer, value);
        self
    }

    pub(crate) fn terminal(self) -> Self {
        self.spec("/process/terminal", json!(true))
            .shim("/terminal", json!(true))
    }

    /// With an open stdin that ends with the first client's.
    pub(crate) fn interactive(self) -> Self {
        self.shim("/openStdin", json!(true))
            .shim("/stdinOnce", json!(true))
    }

    /// Without a PID namespace of its own.
    pub(crate) fn host_pids(mut self) -> Self {
        let namespaces = self
            .spec
            .pointer_mut("/linux/namespaces")
            .and_then(Value::as_array_mut)
            .unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
        self
    }

    /// Starts the shim, which creates the container.
    pub(crate) fn create(self) -> Shim {
        let bundle = self.dir.path().join("bundle");
        make_rootfs(&bundle.join("rootfs"));
        fs::write(bundle.join("config.json"), self.spec.to_string()).unwrap();
        fs::write(bundle.join("shim.json"), self.shim.to_string()).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_runtime"))
            .args(["--root".as_ref(), self.dir.path().join("state").as_os_str()])
            .args([
                "shim".as_ref(),
                "--bundle".as_ref(),
                bundle.as_os_str(),
                self.id.as_ref(),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(self.dir.path().join("shim.log")).unwrap())
            .spawn()
            .unwrap();
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        let greeting = serde_json::from_str(&said).unwrap_or_else(|_| panic!("the shim said {said:?}"));
        Shim {
            dir: self.dir,
            id: self.id,
            child,
            greeting,
        }
    }

    /// Creates and starts the container.
    pub(crate) fn start(self) -> Shim {
        let shim = self.create();
        assert!(shim.greeting["pid"].is_i64(), "{}", shim.greeting);
        assert_eq!(shim.ask(json!({"start": {}})), json!({"ok": {}}));
        shim
    }
}

impl Shim {
    pub(crate) fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    /// Process id of the container's init.
    pub(crate) fn pid(&self) -> i32 {
        self.greeting["pid"].as_i64().unwrap() as i32
    }

    pub(crate) fn shim_pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.bundle().join("shim.sock")).unwrap();
        stream.set_read_timeout(Some(GUARD)).unwrap();
        stream
    }

    /// One request, its answer, and the connection.
    pub(crate) fn open(&self, request: Value) -> (Value, Connection) {
        let mut connection = self.send(request);
        (connection.answer(), connection)
    }

    /// Sends a request whose answer is still to come.
    pub(crate) fn send(&self, request: Value) -> Connection {
        let mut stream = self.connect();
        writeln!(stream, "{request}").unwrap();
        Connection {
            reader: BufReader::new(stream),
        }
    }

    pub(crate) fn ask(&self, request: Value) -> Value {
        self.open(request).0
    }

    pub(crate) fn attach(&self) -> Connection {
        let (answer, connection) =
            self.open(json!({"attach": {"stdin": true, "stdout": true, "stderr": true}}));
        assert_eq!(answer, json!({"ok": {}}));
        connection
    }

    /// Runs `sh -c script` in the container, attached.
    pub(crate) fn exec(&self, id: &str, script: &str) -> Connection {
        let (answer, connection) = self.open(exec_request(id, script, true));
        assert!(answer["ok"]["pid"].is_i64(), "{answer}");
        connection
    }

    /// Waits for the container to end. As every client must, it expects to come too late: then there is exit.json.
    pub(crate) fn wait(&self) -> Value {
        let mut line = String::new();
        let asked = UnixStream::connect(self.bundle().join("shim.sock")).and_then(|mut stream| {
            stream.set_read_timeout(Some(GUARD))?;
            stream.write_all(b"{\"wait\":{}}\n")?;
            BufReader::new(stream).read_line(&mut line)
        });
        match asked {
            Ok(length) if length > 0 => serde_json::from_str::<Value>(&line).unwrap()["ok"].clone(),
            _ => self.exit_json().expect("the shim is gone without a record"),
        }
    }

    /// Waits for an exec to end.
    pub(crate) fn wait_exec(&self, id: &str) -> Value {
        let answer = self.ask(json!({"wait": {"exec": id}}));
        assert!(answer["ok"].is_object(), "{answer}");
        answer["ok"].clone()
    }

    pub(crate) fn exit_json(&self) -> Option<Value> {
        let text = fs::read(self.bundle().join("exit.json")).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.path().join("container.log")
    }

    /// The log's messages as stream and text.
    pub(crate) fn log(&self) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.log_path()).unwrap();
        let message = |line: &str| {
            let message: Value = serde_json::from_str(line).unwrap();
            assert!(message["time"].as_str().unwrap().ends_with('Z'));
            let field = |name: &str| message[name].as_str().unwrap().to_owned();
            (field("stream"), field("log"))
        };
        text.lines().map(message).collect()
    }

    /// Waits for the shim itself to end, and checks that it left nothing.
    pub(crate) fn gone(mut self) {
        assert!(self.child.wait().unwrap().success(), "{}", self.own_log());
        assert!(!self.bundle().join("shim.sock").exists());
        assert_eq!(
            fs::read_dir(self.dir.path().join("state")).unwrap().count(),
            0,
            "OCI state"
        );
        for cgroup in self.cgroups() {
            assert!(!cgroup.exists(), "{}", cgroup.display());
        }
        assert_eq!(self.own_log(), "");
    }

    /// What the shim wrote to its stderr.
    pub(crate) fn own_log(&self) -> String {
        fs::read_to_string(self.dir.path().join("shim.log")).unwrap()
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let base = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(base).unwrap().map(|entry| entry.unwrap().path());
        hierarchies
            .chain([base.to_owned()])
            .map(|base| base.join(format!("shoal-test-{}", self.id)))
            .collect()
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            if let Some(pid) = self.greeting["pid"].as_i64() {
                // It is a child of the shim, which has not ended, so that the number is still its own.
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid as i32),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            // A shim that hangs would be a failure anyway; it must not outlive the test.
            for _ in 0..100 {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A connection after its request.
pub(crate) struct Connection {
    reader: BufReader<UnixStream>,
}

impl Connection {
    pub(crate) fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("the shim answered {line:?}"))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).unwrap();
    }

    /// A second handle, to write while this one reads.
    pub(crate) fn try_clone(&self) -> UnixStream {
        self.reader.get_ref().try_clone().unwrap()
    }

    pub(crate) fn end_input(&self) {
        self.reader.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    /// The next frame, or `None` at the end.
    pub(crate) fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 8];
        match self.reader.read_exact(&mut header) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return None,
            other => other.unwrap(),
        }
        assert_eq!(header[1..4], [0; 3]);
        let length = u32::from_be_bytes(header[4..].try_into().unwrap());
        let mut payload = vec![0; length as usize];
        self.reader.read_exact(&mut payload).unwrap();
        Some((header[0], payload))
    }

    /// Reads output until it contains `text`; returns what came.
    pub(crate) fn read_until(&mut self, text: &str) -> String {
        let mut all = String::new();
        while !all.contains(text) {
            let (_, payload) = self
                .frame()
                .unwrap_or_else(|| panic!("the stream ended after {all:?}"));
            all.push_str(&String::from_utf8_lossy(&payload));
        }
        all
    }

    /// Everything to the end: stdout and stderr.
    pub(crate) fn read_all(&mut self) -> (String, String) {
        let mut all = [Vec::new(), Vec::new()];
        while let Some((stream, payload)) = self.frame() {
            all[usize::from(stream) - 1].extend(payload);
        }
        let [stdout, stderr] = all.map(|bytes| String::from_utf8(bytes).unwrap());
        (stdout, stderr)
    }
}

pub(crate) fn exec_request(id: &str, script: &str, attach: bool) -> Value {
    json!({"exec": {"id": id, "process": process(&["/bin/sh", "-c", script]), "openStdin": true, "attach": attach}})
}

fn process(args: &[&str]) -> Value {
    json!({"terminal": false, "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/",
        "env": ["PATH=/bin", "TERM=xterm"]})
}

fn spec(args: &[&str], cgroup: &str) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": process(args),
        "root": {"path": "rootfs", "readonly": false},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
        },
    })
}

fn make_rootfs(root: &Path) {
    for dir in ["bin", "proc", "dev", "tmp"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "cat", "echo", "sleep", "head", "tr", "yes", "stty", "true", "dd", "seq", "tail", "printf",
    ] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
}

fn set(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for key in pointer.split('/').skip(1) {
        at = &mut at[key];
    }
    *at = value;
}
