//! Create, start, state, kill, delete, run, exec, list, ps; and that nothing is left.

mod common;

use std::fs;
use std::path::Path;

use common::{Bundle, eventually};
use serde_json::json;

#[test]
fn a_container_lives_through_its_states() {
    let bundle = Bundle::new(&["sh", "-c", "echo started; sleep 1000"]);
    assert_eq!(bundle.status(), None);
    bundle.create().expect(0);
    assert_eq!(bundle.status().as_deref(), Some("created"));
    bundle.create().expect_failure("exists already");
    bundle.runtime(&["start", &bundle.id]).expect(0);
    assert_eq!(bundle.status().as_deref(), Some("running"));
    bundle
        .runtime(&["start", &bundle.id])
        .expect_failure("it is running");
    bundle
        .runtime(&["delete", &bundle.id])
        .expect_failure("it is running");
    assert!(bundle.runtime(&["list", "--quiet"]).stdout.contains(&bundle.id));
    let pids: Vec<i64> =
        serde_json::from_str(&bundle.runtime(&["ps", "--format=json", &bundle.id]).stdout).unwrap();
    assert!(pids.contains(&bundle.pid()));
    bundle.runtime(&["kill", &bundle.id, "KILL"]).expect(0);
    eventually(|| bundle.status().as_deref() == Some("stopped"));
    bundle
        .runtime(&["kill", &bundle.id])
        .expect_failure("it is stopped");
    bundle.exec(&[], &["true"]).expect_failure("it is stopped");
    bundle.runtime(&["delete", &bundle.id]).expect(0);
    bundle.assert_nothing_left();
    bundle
        .runtime(&["delete", &bundle.id])
        .expect_failure("does not exist");
    bundle.runtime(&["delete", "--force", &bundle.id]).expect(0);
}

#[test]
fn run_answers_with_the_exit_code_and_leaves_nothing() {
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 0)] {
        let bundle = Bundle::new(&["sh", "-c", script]);
        // The first process of a PID namespace cannot kill itself.
        bundle.run().expect(code);
        bundle.assert_nothing_left();
    }
}

#[test]
fn a_payload_ended_by_a_signal_is_128_and_the_signal() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    let mut child = {
        bundle.write();
        let args = ["run", "--bundle", bundle.bundle().to_str().unwrap(), &bundle.id].map(str::to_owned);
        bundle.command().args(args).spawn().unwrap()
    };
    eventually(|| bundle.status().as_deref() == Some("running"));
    bundle.runtime(&["kill", &bundle.id, "9"]).expect(0);
    assert_eq!(child.wait().unwrap().code(), Some(137));
    bundle.assert_nothing_left();
}

#[test]
fn a_program_that_cannot_be_executed_is_told_to_start() {
    for (program, code, text) in [
        (
            "nosuch",
            127,
            "exec: \"nosuch\": executable file not found in $PATH",
        ),
        ("/nosuch", 127, "no such file or directory"),
        ("/etc", 126, "permission denied"),
        ("/script", 126, "exec format error"),
    ] {
        let bundle = Bundle::new(&[program]);
        fs::create_dir(bundle.rootfs().join("etc")).unwrap();
        fs::write(bundle.rootfs().join("script"), "no shebang").unwrap();
        common::host(
            "chmod",
            &["755", bundle.rootfs().join("script").to_str().unwrap()],
        );
        bundle.run().expect(code).expect_failure(text);
        bundle.create().expect(0);
        bundle
            .runtime(&["start", &bundle.id])
            .expect(code)
            .expect_failure(text);
        assert_eq!(bundle.status().as_deref(), Some("stopped"));
        bundle.runtime(&["delete", &bundle.id]).expect(0);
        bundle.assert_nothing_left();
    }
}

#[test]
fn exec_joins_everything_and_answers_with_the_exit_code() {
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.config["process"]["env"] = json!(["PATH=/bin", "A=b"]);
    bundle.create().expect(0);
    bundle.runtime(&["start", &bundle.id]).expect(0);
    assert_eq!(bundle.exec(&[], &["sh", "-c", "exit 7"]).code, 7);
    bundle
        .exec(&[], &["nosuch"])
        .expect(127)
        .expect_failure("not found in $PATH");
    bundle.exec(&[], &["/bin"]).expect(126);
    for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let inside = bundle
            .exec(&[], &["readlink", &format!("/proc/self/ns/{kind}")])
            .expect(0)
            .stdout;
        let init = fs::read_link(format!("/proc/{}/ns/{kind}", bundle.pid())).unwrap();
        assert_eq!(Path::new(inside.trim()), init);
    }
    assert_eq!(
        bundle.exec(&["-e", "C=d"], &["sh", "-c", "echo $A$C"]).stdout,
        "bd\n"
    );
    assert_eq!(bundle.exec(&["--cwd", "/proc"], &["pwd"]).stdout, "/proc\n");
    let id = bundle
        .exec(&["-u", "1000:5", "-g", "7"], &["id"])
        .expect(0)
        .stdout;
    assert_eq!(id, "uid=1000 gid=5 groups=7\n");
    bundle
        .exec(&["-u", "root"], &["id"])
        .expect_failure("no user or group number");
    for pid in bundle
        .exec(&[], &["sh", "-c", "cat /proc/self/cgroup"])
        .stdout
        .lines()
    {
        assert!(pid.ends_with(":/"), "{pid} is not the container's own cgroup");
    }
}

#[test]
fn delete_by_force_ends_a_running_container_and_its_children() {
    let bundle = Bundle::new(&["sh", "-c", "sleep 1000 & sleep 1000"]);
    bundle.create().expect(0);
    bundle.runtime(&["start", &bundle.id]).expect(0);
    bundle.exec(&["--detach"], &["sleep", "1000"]).expect(0);
    bundle.runtime(&["delete", "--force", &bundle.id]).expect(0);
    bundle.assert_nothing_left();
}

#[test]
fn without_a_pid_namespace_delete_ends_what_init_left_behind() {
    let mut bundle = Bundle::new(&["sh", "-c", "sleep 1000 & exit 0"]);
    bundle.config["linux"]["namespaces"] = json!([{"type": "mount"}]);
    bundle.config["hostname"] = json!("");
    bundle.without_mount("/dev/mqueue").without_mount("/sys");
    bundle.without_mount("/sys/fs/cgroup");
    bundle.run().expect(0);
    bundle.assert_nothing_left();
}

#[test]
fn a_failed_create_leaves_nothing() {
    let mut bundle = Bundle::new(&["true"]);
    bundle.mount("/x", "bind", Path::new("/nosuch/source"), &["bind"]);
    bundle.create().expect_failure("/nosuch/source");
    bundle.assert_nothing_left();
    bundle.config["mounts"][7] =
        json!({"destination": "/x", "type": "tmpfs", "source": "x", "options": ["nosuchoption=1"]});
    bundle.create().expect_failure("nosuchoption");
    bundle.assert_nothing_left();
    bundle.config["mounts"].as_array_mut().unwrap().pop();
    bundle.config["process"]["oomScoreAdj"] = json!(2000);
    bundle.create().expect_failure("oomScoreAdj");
    bundle.assert_nothing_left();
    bundle.config["hooks"] = json!({"poststart": [{"path": "/bin/true"}]});
    bundle
        .create()
        .expect_failure("hooks.poststart is not implemented");
    bundle.assert_nothing_left();
}

#[test]
fn a_killed_create_is_cleaned_up_by_force() {
    // What a crash before the record leaves: a directory; and after it: a record of cgroups, with no process.
    let bundle = Bundle::new(&["true"]);
    let home = bundle.dir.path().join("state").join(&bundle.id);
    fs::create_dir_all(&home).unwrap();
    bundle.runtime(&["delete", "--force", &bundle.id]).expect(0);
    assert!(!home.exists());
    let (directory, version) = if Path::new("/sys/fs/cgroup/pids").exists() {
        (format!("/sys/fs/cgroup/pids/{}", bundle.id), "v1")
    } else {
        (format!("/sys/fs/cgroup/{}", bundle.id), "v2")
    };
    fs::create_dir_all(&directory).unwrap();
    fs::create_dir_all(&home).unwrap();
    let record = json!({
        "bundle": "/", "pid": 0, "startTime": 0, "namespaces": 0,
        "cgroups": [{"path": directory, "version": version}],
    });
    fs::write(home.join("state.json"), record.to_string()).unwrap();
    bundle.runtime(&["delete", "--force", &bundle.id]).expect(0);
    bundle.assert_nothing_left();
}

#[test]
fn two_starts_at_once_are_one() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.create().expect(0);
    let starts: Vec<_> = (0..8)
        .map(|_| {
            bundle
                .command()
                .args(["start", &bundle.id])
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    let succeeded = starts
        .into_iter()
        .filter_map(|mut start| start.wait().ok())
        .filter(|status| status.success());
    assert_eq!(succeeded.count(), 1);
    assert_eq!(bundle.status().as_deref(), Some("running"));
}

#[test]
fn the_pid_file_has_the_process() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.write();
    let file = bundle.dir.path().join("pid");
    let (dir, file_name) = (bundle.bundle(), file.to_str().unwrap());
    bundle
        .runtime(&[
            "run",
            "-d",
            "--pid-file",
            file_name,
            "-b",
            dir.to_str().unwrap(),
            &bundle.id,
        ])
        .expect(0);
    assert_eq!(fs::read_to_string(&file).unwrap(), bundle.pid().to_string());
}

/// `create` is killed at forty moments of its life; whatever it left, force takes it away, and the name is free again.
#[test]
fn a_create_killed_anywhere_leaves_nothing_that_force_does_not_remove() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.write();
    let mut interrupted = 0;
    for step in 0..40 {
        let dir = bundle.bundle();
        let mut create = bundle
            .command()
            .args(["create", "--bundle", dir.to_str().unwrap(), &bundle.id])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(400 * step));
        let _ = create.kill();
        interrupted += usize::from(!create.wait().unwrap().success());
        let status = bundle.status();
        assert!(
            matches!(status.as_deref(), None | Some("creating" | "created" | "stopped")),
            "killed after {step} steps it is {status:?}"
        );
        bundle.runtime(&["delete", "--force", &bundle.id]).expect(0);
        bundle.assert_nothing_left();
    }
    assert!(interrupted > 0, "none was killed in time");
    bundle.create().expect(0);
}
