//! The engine with real containers: the runtime, its shims, storage and network, as root in namespaces of the test's own.

mod home;

use std::sync::Arc;
use std::time::Duration;

use agent::api::types::config::HealthConfig;
use agent::api::types::exec::{ExecConfig, ExecStart};
use agent::api::types::host_config::RestartPolicy;
use agent::engine::{
    AttachOptions, AttachStream, CreateContainer, Engine, EngineError, HealthStatus, InjectedFile,
    LogOptions, RemoveOptions, Status, StdStream, WaitCondition,
};
use futures::StreamExt;
use home::{at_home, discard, shell};
use tokio::io::AsyncWriteExt;

const ALL: AttachOptions = AttachOptions {
    stdin: true,
    stdout: true,
    stderr: true,
};

async fn output_of(mut stream: AttachStream, which: StdStream) -> String {
    let mut text = Vec::new();
    while let Some(chunk) = stream.output.next().await {
        if chunk.stream == which {
            text.extend_from_slice(&chunk.bytes);
        }
    }
    String::from_utf8(text).unwrap()
}

async fn log_of(engine: &Engine, name: &str, follow: bool) -> String {
    let options = LogOptions {
        stdout: true,
        stderr: true,
        follow,
        ..Default::default()
    };
    let lines: Vec<_> = engine.logs(name, options).await.unwrap().collect().await;
    lines
        .iter()
        .map(|entry| String::from_utf8_lossy(&entry.line).into_owned())
        .collect()
}

/// Runs to the end and returns exit code and log.
async fn run(engine: &Arc<Engine>, request: CreateContainer) -> (i32, String) {
    let id = engine.create(request).await.unwrap().id.to_string();
    let exit = engine.wait(&id, WaitCondition::NextExit).unwrap();
    engine.start(&id).await.unwrap();
    let code = exit.await.code;
    let log = log_of(engine, &id, false).await;
    discard(engine, &id).await;
    (code, log)
}

async fn exec(engine: &Arc<Engine>, name: &str, user: &str, words: &[&str]) -> (i64, String) {
    let config = ExecConfig {
        cmd: Some(words.iter().map(|w| (*w).to_owned()).collect()),
        user: user.into(),
        attach_stdout: true,
        attach_stderr: true,
        ..Default::default()
    };
    let id = engine.exec_create(name, config).await.unwrap();
    let mut stop = engine.events();
    let stream = engine
        .exec_start(id.as_str(), ExecStart::default())
        .await
        .unwrap()
        .unwrap();
    let output = output_of(stream, StdStream::Stdout).await;
    while engine.exec_inspect(id.as_str()).await.unwrap().running {
        stop.recv().await.unwrap();
    }
    (
        engine.exec_inspect(id.as_str()).await.unwrap().exit_code.unwrap(),
        output,
    )
}

#[test]
fn a_container_lives_and_leaves_nothing() {
    at_home(|home| {
        home.agent(async |engine| {
            let id = engine
                .create(shell("life", "echo out; echo err >&2; exit 7"))
                .await
                .unwrap()
                .id;
            let attached = engine.attach("life", ALL).await.unwrap();
            let exit = engine.wait("life", WaitCondition::NextExit).unwrap();
            engine.start("life").await.unwrap();
            assert_eq!(output_of(attached, StdStream::Stderr).await, "err\n");
            assert_eq!(exit.await.code, 7);
            let shown = engine.inspect(id.short(), true).await.unwrap();
            assert_eq!(
                (shown.name.as_str(), shown.state.status.as_str()),
                ("/life", "exited")
            );
            let log = log_of(&engine, "life", false).await;
            assert!(log.contains("out\n") && log.contains("err\n"), "{log}");
            discard(&engine, "life").await;
            assert!(matches!(
                engine.inspect("life", false).await,
                Err(EngineError::NoSuchContainer(_))
            ));
            assert_eq!(home.leftovers(), Vec::<std::path::PathBuf>::new());
        });
    });
}

#[test]
fn input_reaches_the_process_and_ends() {
    at_home(|home| {
        home.agent(async |engine| {
            let mut request = shell("cat", "cat; echo end");
            request.config.open_stdin = true;
            request.config.stdin_once = true;
            engine.create(request).await.unwrap();
            let mut attached = engine.attach("cat", ALL).await.unwrap();
            engine.start("cat").await.unwrap();
            let mut input = attached.input.take().unwrap();
            input.write_all(b"typed\n").await.unwrap();
            input.shutdown().await.unwrap();
            assert_eq!(output_of(attached, StdStream::Stdout).await, "typed\nend\n");
            discard(&engine, "cat").await;
        });
    });
}

#[test]
fn exec_runs_as_asked_and_tells_its_code() {
    at_home(|home| {
        home.agent(async |engine| {
            engine.create(shell("host", "sleep 1000")).await.unwrap();
            let missing = engine
                .exec_create(
                    "host",
                    ExecConfig {
                        cmd: Some(vec!["id".into()]),
                        ..Default::default()
                    },
                )
                .await;
            assert!(
                matches!(missing, Err(EngineError::Conflict(_))),
                "not running yet"
            );
            engine.start("host").await.unwrap();
            assert!(matches!(
                engine.start("host").await,
                Err(EngineError::Unchanged(_))
            ));
            let (code, text) = exec(&engine, "host", "app", &["id"]).await;
            assert_eq!(
                (code, text.trim()),
                (0, "uid=1000(app) gid=1001 groups=10(wheel),1001")
            );
            assert_eq!(exec(&engine, "host", "", &["sh", "-c", "exit 5"]).await.0, 5);
            let (code, text) = exec(&engine, "host", "", &["nosuch"]).await;
            assert!(code == 127 && text.contains("nosuch"), "{code} {text}");
            let top = engine.top("host", "").await.unwrap();
            assert!(
                top.processes.iter().any(|row| row[7] == "sleep 1000"),
                "{:?}",
                top.processes
            );
            // Whoever waited learns how this life ended, even if the next one has begun.
            let exit = engine.wait("host", WaitCondition::NextExit).unwrap();
            engine.stop("host", Some(0), None).await.unwrap();
            engine.start("host").await.unwrap();
            assert_eq!(exit.await.code, 137);
            discard(&engine, "host").await;
        });
    });
}

#[test]
fn a_stop_by_hand_quiets_the_restart_policy() {
    at_home(|home| {
        home.agent(async |engine| {
            let mut request = shell("keep", "trap '' TERM; while :; do sleep 1; done");
            request.host_config.restart_policy = RestartPolicy {
                name: "always".into(),
                ..Default::default()
            };
            engine.create(request).await.unwrap();
            engine.start("keep").await.unwrap();
            engine.stop("keep", Some(0), None).await.unwrap();
            let state = engine.watch("keep").unwrap().borrow().clone();
            assert_eq!(
                (state.status, state.exit_code, state.restart_count),
                (Status::Exited, 137, 0)
            );
            assert!(matches!(
                engine.stop("keep", None, None).await,
                Err(EngineError::Unchanged(_))
            ));
            // A death that nobody asked for is followed by a new life.
            engine.start("keep").await.unwrap();
            let mut watch = engine.watch("keep").unwrap();
            let pid = watch.borrow_and_update().pid;
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
                .unwrap();
            let again = watch
                .wait_for(|s| s.status == Status::Running && s.pid != pid)
                .await
                .unwrap()
                .clone();
            assert_eq!(again.restart_count, 1);
            discard(&engine, "keep").await;
            assert_eq!(home.leftovers(), Vec::<std::path::PathBuf>::new());
        });
    });
}

#[test]
fn on_failure_gives_up_after_its_count() {
    at_home(|home| {
        home.agent(async |engine| {
            let mut request = shell("fail", "exit 3");
            request.host_config.restart_policy = RestartPolicy {
                name: "on-failure".into(),
                maximum_retry_count: 2,
            };
            engine.create(request).await.unwrap();
            let mut watch = engine.watch("fail").unwrap();
            engine.start("fail").await.unwrap();
            let state = watch.wait_for(|s| s.exits == 3).await.unwrap().clone();
            assert_eq!(
                (state.status, state.restart_count, state.exit_code),
                (Status::Exited, 2, 3)
            );
            discard(&engine, "fail").await;
        });
    });
}

#[test]
fn probes_decide_over_health() {
    at_home(|home| {
        home.agent(async |engine| {
            let mut request = shell("sick", "sleep 1000");
            request.config.healthcheck = Some(HealthConfig {
                test: vec!["CMD-SHELL".into(), "echo looked; test -f /tmp/well".into()],
                interval: 50_000_000,
                retries: 2,
                ..Default::default()
            });
            engine.create(request).await.unwrap();
            let mut events = engine.events();
            let mut watch = engine.watch("sick").unwrap();
            engine.start("sick").await.unwrap();
            let is = |wanted| {
                move |s: &agent::engine::ContainerState| s.health.as_ref().is_some_and(|h| h.status == wanted)
            };
            let state = watch.wait_for(is(HealthStatus::Unhealthy)).await.unwrap().clone();
            assert_eq!(state.health.unwrap().log[0].output, "looked\n");
            exec(&engine, "sick", "", &["touch", "/tmp/well"]).await;
            watch.wait_for(is(HealthStatus::Healthy)).await.unwrap();
            let mut verdicts = Vec::new();
            while verdicts
                .last()
                .is_none_or(|last| last != "health_status: healthy")
            {
                let action = events.recv().await.unwrap().action;
                verdicts.extend(Some(action).filter(|action| action.starts_with("health_status")));
            }
            assert_eq!(verdicts, ["health_status: unhealthy", "health_status: healthy"]);
            discard(&engine, "sick").await;
        });
    });
}

#[test]
fn a_new_agent_takes_containers_back() {
    at_home(|home| {
        let mut pids = Vec::new();
        home.agent(async |engine| {
            let lines = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done";
            for request in [
                shell("talks", lines),
                shell("ends", "sleep 1; exit 9"),
                shell("never", "true"),
            ] {
                engine.create(request).await.unwrap();
            }
            let mut rm = shell("gone", "sleep 1");
            rm.host_config.auto_remove = true;
            engine.create(rm).await.unwrap();
            for name in ["talks", "ends", "gone"] {
                engine.start(name).await.unwrap();
            }
            pids.push(engine.watch("talks").unwrap().borrow().pid);
        });
        std::thread::sleep(Duration::from_secs(3));
        // What a kill in the middle of a creation leaves.
        let half = home.path("root/containers").join("f".repeat(64));
        std::fs::create_dir(&half).unwrap();
        home.agent(async |engine| {
            let state = |name: &str| engine.watch(name).unwrap().borrow().clone();
            assert_eq!(
                (state("talks").status, state("talks").pid),
                (Status::Running, pids[0])
            );
            assert_eq!(
                (state("ends").status, state("ends").exit_code),
                (Status::Exited, 9)
            );
            assert_eq!(state("never").status, Status::Created);
            assert!(engine.watch("gone").is_err(), "--rm is honoured after the fact");
            assert!(!half.exists());
            assert_eq!(
                exec(&engine, "talks", "", &["echo", "still"]).await,
                (0, "still\n".to_owned())
            );
            engine.kill("talks", "KILL").await.unwrap();
            engine.wait("talks", WaitCondition::NotRunning).unwrap().await;
            let log = log_of(&engine, "talks", false).await;
            let numbers: Vec<usize> = log
                .lines()
                .map(|l| l.trim_start_matches("line ").parse().unwrap())
                .collect();
            assert!(
                numbers.len() > 20 && numbers.iter().copied().eq(1..=numbers.len()),
                "a line was lost"
            );
            for name in ["talks", "ends", "never"] {
                discard(&engine, name).await;
            }
            assert_eq!(home.leftovers(), Vec::<std::path::PathBuf>::new());
        });
    });
}

#[test]
fn volumes_are_seeded_and_secrets_are_files() {
    at_home(|home| {
        home.agent(async |engine| {
            let mut request = shell(
                "vols",
                "cat /data/seed /run/secrets/key; stat -c '%a %u %g' /run/secrets/key; echo x > /data/new",
            );
            request.host_config.binds = vec!["named:/data".into()];
            request.config.volumes.insert("/anon".into(), Default::default());
            request.files = vec![InjectedFile {
                target: "/run/secrets/key".into(),
                content: "sesame\n".into(),
                uid: 1000,
                gid: 1001,
                mode: 0o440,
            }];
            let (code, log) = run(&engine, request).await;
            assert_eq!(
                (code, log.as_str()),
                (0, "from the image\nsesame\n440 1000 1001\n")
            );
            let mut again = shell("vols", "cat /data/new");
            again.host_config.binds = vec!["named:/data:ro".into()];
            assert_eq!(run(&engine, again).await, (0, "x\n".to_owned()));
            let volumes = engine.config().storage.volumes().list().unwrap();
            assert_eq!(
                volumes.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(),
                ["named"]
            );
            let mut kept = shell("kept", "true");
            kept.files = vec![InjectedFile {
                target: "/key".into(),
                content: "sesame\n".into(),
                uid: 0,
                gid: 0,
                mode: 0o400,
            }];
            let id = engine.create(kept).await.unwrap().id;
            let record = home
                .path("root/containers")
                .join(id.as_str())
                .join("container.json");
            assert!(!std::fs::read_to_string(record).unwrap().contains("sesame"));
            discard(&engine, "kept").await;
        });
    });
}

#[test]
fn failures_are_named_and_leave_nothing() {
    at_home(|home| {
        home.agent(async |engine| {
            let mut request = shell("bad", "true");
            request.config.image = "absent".into();
            assert_eq!(
                engine.create(request).await.unwrap_err().to_string(),
                "No such image: absent:latest"
            );
            let mut request = shell("bad", "true");
            request.host_config.binds = vec!["../up:/x".into()];
            assert!(engine.create(request).await.is_err());
            assert_eq!(home.leftovers(), Vec::<std::path::PathBuf>::new());

            engine.create(shell("taken", "sleep 1000")).await.unwrap();
            let conflict = engine.create(shell("taken", "true")).await.unwrap_err();
            assert!(matches!(conflict, EngineError::Conflict(_)), "{conflict}");
            engine.start("taken").await.unwrap();
            let refused = engine
                .remove("taken", RemoveOptions::default())
                .await
                .unwrap_err();
            assert!(refused.to_string().contains("container is running"), "{refused}");
            discard(&engine, "taken").await;

            let mut request = shell("user", "true");
            request.config.user = "stranger".into();
            engine.create(request).await.unwrap();
            let unknown = engine.start("user").await.unwrap_err();
            assert!(unknown.to_string().contains("stranger"), "{unknown}");
            assert_eq!(engine.watch("user").unwrap().borrow().status, Status::Created);
            discard(&engine, "user").await;

            let mut request = shell("what", "");
            request.config.cmd = Some(vec!["nosuch".into()]);
            engine.create(request).await.unwrap();
            let error = engine.start("what").await.unwrap_err();
            assert!(
                matches!(error, EngineError::StartFailed { code: 127, .. }),
                "{error}"
            );
            discard(&engine, "what").await;
            assert_eq!(home.leftovers(), Vec::<std::path::PathBuf>::new());
        });
    });
}

#[test]
fn following_a_log_ends_with_the_container() {
    at_home(|home| {
        home.agent(async |engine| {
            engine
                .create(shell("speaks", "for i in 1 2 3; do echo $i; sleep 0.2; done"))
                .await
                .unwrap();
            engine.start("speaks").await.unwrap();
            assert_eq!(log_of(&engine, "speaks", true).await, "1\n2\n3\n");
            discard(&engine, "speaks").await;
        });
    });
}
