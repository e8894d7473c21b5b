//! From created to gone: start, signals, exit codes and records, what survives and what is left.

use std::fs;
use std::io::{Read, Write};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::harness::Setup;

#[test]
fn an_exit_code_is_on_disk_before_anyone_is_told() {
    let shim = Setup::script("cat; exit 7").interactive().create();
    assert_eq!(shim.ask(json!({"state": {}}))["ok"]["status"], "created");
    let mut waiting = shim.send(json!({"wait": {}}));
    let attached = shim.attach();
    assert_eq!(shim.ask(json!({"start": {}})), json!({"ok": {}}));
    let state = shim.ask(json!({"state": {}}));
    assert_eq!(
        state["ok"],
        json!({"status": "running", "pid": shim.pid(), "execs": []})
    );
    assert_eq!(shim.exit_json(), None);
    attached.end_input();
    let record = waiting.answer()["ok"].clone();
    assert_eq!(shim.exit_json().as_ref(), Some(&record));
    assert_eq!(record["exitCode"], 7);
    assert_eq!(record["oomKilled"], false);
    assert_eq!(record.get("signal"), None);
    assert!(record["startedAt"].as_str() < record["finishedAt"].as_str());
    shim.gone();
}

#[test]
fn signals_reach_the_container_and_its_record() {
    let shim = Setup::script("trap 'echo got it; exit 3' TERM; echo ready; cat")
        .interactive()
        .create();
    let mut attached = shim.attach();
    assert_eq!(shim.ask(json!({"start": {}})), json!({"ok": {}}));
    attached.read_until("ready");
    assert_eq!(shim.ask(json!({"kill": {"signal": 15}})), json!({"ok": {}}));
    // The shell runs its trap when cat is gone.
    attached.end_input();
    assert_eq!(attached.read_all().0, "got it\n");
    let shim = Setup::script("sleep 1000").start();
    let mut waiting = shim.send(json!({"wait": {}}));
    assert_eq!(shim.ask(json!({"kill": {"signal": 9}})), json!({"ok": {}}));
    let record = waiting.answer()["ok"].clone();
    assert_eq!((&record["exitCode"], &record["signal"]), (&json!(137), &json!(9)));
    shim.gone();
}

#[test]
fn kill_all_reaches_every_process() {
    let shim = Setup::script(
        "trap '' USR1; (trap 'echo child; exit' USR1; echo up; while :; do sleep 0.1; done) & wait",
    )
    .start();
    let mut attached = shim.attach();
    while !shim.log().iter().any(|(_, line)| line == "up\n") {
        std::thread::yield_now();
    }
    let signal = Signal::SIGUSR1 as i32;
    assert_eq!(
        shim.ask(json!({"kill": {"signal": signal, "all": true}})),
        json!({"ok": {}})
    );
    assert!(attached.read_all().0.ends_with("child\n"));
}

#[test]
fn a_program_that_is_not_there_is_127_and_one_that_is_no_program_126() {
    for (program, code) in [("/bin/nosuch", 127), ("nosuch", 127), ("/tmp", 126)] {
        let shim = Setup::command(&[program]).create();
        let answer = shim.ask(json!({"start": {}}));
        assert_eq!(answer["error"]["code"], code, "{answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(program), "{message}");
        let record = shim.exit_json().unwrap();
        assert_eq!(record["exitCode"], code);
        assert_eq!(record["error"], message);
        assert_eq!(record["startedAt"], "0001-01-01T00:00:00Z");
        shim.gone();
    }
}

#[test]
fn a_container_that_cannot_be_created_leaves_nothing() {
    let shim = Setup::command(&["/bin/true"])
        .spec("/root/path", json!("nowhere"))
        .create();
    let message = shim.greeting["error"].as_str().unwrap();
    assert!(message.contains("nowhere"), "{message}");
    assert!(!shim.bundle().join("shim.sock").exists());
}

#[test]
fn a_container_that_was_never_started_can_be_shut_down() {
    let shim = Setup::command(&["/bin/true"]).create();
    assert_eq!(shim.ask(json!({"shutdown": {}})), json!({"ok": {}}));
    assert!(!shim.bundle().join("shim.sock").exists());
    shim.gone();
    let shim = Setup::script("sleep 1000").start();
    let answer = shim.ask(json!({"shutdown": {}}));
    assert!(
        answer["error"]["message"].as_str().unwrap().contains("running"),
        "{answer}"
    );
}

#[test]
fn signals_for_the_shim_do_not_lose_the_container() {
    let shim = Setup::command(&["/bin/cat"]).interactive().start();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        kill(Pid::from_raw(shim.shim_pid()), signal).unwrap();
    }
    let mut attached = shim.attach();
    attached.write(b"still here\n");
    attached.read_until("still here");
    let status = fs::read_to_string(format!("/proc/{}/status", shim.pid())).unwrap();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:\t"))
        .unwrap();
    // The first 31; beyond are those that the C library and the caller of the tests use.
    let ignored = u64::from_str_radix(mask, 16).unwrap() & 0x7fff_ffff;
    assert_eq!(ignored, 0, "the payload ignores no signal");
}

#[test]
fn the_payload_is_not_protected_from_the_oom_killer() {
    let shim = Setup::script("cat").interactive().start();
    let score = |pid: i32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(score(shim.shim_pid()), lowest_score());
    assert_eq!(score(shim.pid()), "0\n");
    assert_eq!(shim.exec("e", "cat /proc/self/oom_score_adj").read_all().0, "0\n");
}

/// What asking for -998 gives here: it takes CAP_SYS_RESOURCE.
fn lowest_score() -> String {
    let script = "echo -998 >/proc/self/oom_score_adj; cat /proc/self/oom_score_adj";
    let output = std::process::Command::new("/bin/busybox")
        .args(["sh", "-c", script])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn running_out_of_memory_is_recorded() {
    let shim = Setup::script("x=$(dd if=/dev/zero bs=1M count=64 | tr '\\0' x); echo survived")
        .spec(
            "/linux/resources",
            json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}}),
        )
        .spec(
            "/linux/devices",
            json!([{"path": "/dev/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666}]),
        )
        .start();
    let record = shim.wait();
    assert_eq!(record["oomKilled"], true, "{record} {:?}", shim.log());
    assert_eq!(record["exitCode"], 137);
    shim.gone();
}

#[test]
fn the_death_of_the_agent_ends_nothing() {
    let shim = Setup::script("cat; exit 4").interactive().start();
    // The agent goes away with everything that it had open.
    let mut attached = shim.attach();
    attached.write(b"one\n");
    attached.read_until("one");
    let waiting = shim.send(json!({"wait": {}}));
    drop((attached, waiting));
    // It comes back.
    let mut attached = shim.attach();
    attached.write(b"two\n");
    attached.read_until("two");
    attached.end_input();
    assert_eq!(shim.wait()["exitCode"], 4);
    assert_eq!(
        shim.log(),
        [
            ("stdout".into(), "one\n".into()),
            ("stdout".into(), "two\n".into())
        ]
    );
    shim.gone();
}

#[test]
fn processes_that_outlive_init_hold_up_nothing() {
    // In a PID namespace of others, init's death kills nobody.
    let shim = Setup::script("sleep 1000 & echo parent; exit 5")
        .host_pids()
        .start();
    let record = shim.wait();
    assert_eq!(record["exitCode"], 5);
    assert_eq!(shim.log(), [("stdout".into(), "parent\n".into())]);
    shim.gone();
}

#[test]
fn nonsense_is_answered_and_does_no_harm() {
    let shim = Setup::script("cat").interactive().start();
    for request in [
        json!({}),
        json!({"begin": {}}),
        json!({"kill": {"signal": 900}}),
        json!({"start": {}}),
    ] {
        let answer = shim.ask(request.clone());
        assert!(answer["error"]["message"].is_string(), "{request}: {answer}");
    }
    for request in [
        json!({"wait": {"exec": "x"}}),
        json!({"resize": {"rows": 1, "cols": 1}}),
    ] {
        assert!(shim.ask(request)["error"]["message"].is_string());
    }
    let mut stream = shim.connect();
    // A shim that refuses in the middle may close before everything is sent.
    let _ = stream.write_all(&vec![b'x'; 2 << 20]);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(
        answer.is_empty() || answer.contains("longer than 1 MiB"),
        "{answer}"
    );
    drop(shim.connect());
    assert_eq!(shim.ask(json!({"state": {}}))["ok"]["status"], "running");
}

#[test]
fn a_silent_connection_does_not_keep_the_shim() {
    let shim = Setup::script("cat").interactive().start();
    let silent = shim.connect();
    shim.ask(json!({"closeStdin": {}}));
    shim.wait();
    shim.gone();
    drop(silent);
}

#[test]
fn clients_that_come_and_go_leave_nothing() {
    let shim = Setup::script("cat").interactive().start();
    let descriptors = || {
        fs::read_dir(format!("/proc/{}/fd", shim.shim_pid()))
            .unwrap()
            .count()
    };
    shim.ask(json!({"state": {}}));
    let before = descriptors();
    for round in 0..200 {
        drop(shim.attach());
        drop(shim.send(json!({"wait": {}})));
        if round % 20 == 0 {
            drop(shim.exec(&format!("e{round}"), "exit 0"));
        }
    }
    // An exec that nobody reads ends all the same.
    (0..200)
        .step_by(20)
        .for_each(|round| drop(shim.wait_exec(&format!("e{round}"))));
    // What the last answers left behind is closed a few events later.
    let settled =
        (0..1000).any(|_| shim.ask(json!({"state": {}}))["ok"].is_object() && descriptors() <= before);
    assert!(settled, "{} descriptors, {before} before", descriptors());
}

#[test]
fn a_shim_is_small() {
    let shim = Setup::script("cat").interactive().start();
    shim.exec("e", "true").read_all();
    let maps = fs::read_to_string(format!("/proc/{}/smaps", shim.shim_pid())).unwrap();
    let (mut of_program, mut kilobytes) = (false, 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Private_Dirty:") if !of_program => {
                kilobytes += words.next().unwrap().parse::<u32>().unwrap()
            }
            // The first line of a mapping ends in what is mapped. What the program's image costs depends on how it was
            // built: a release build has 260 kB of relocated pointers.
            Some(first) if !first.ends_with(':') => of_program = line.contains('/'),
            _ => {}
        }
    }
    assert!((1..768).contains(&kilobytes), "{kilobytes} kB of heap and stack");
}
