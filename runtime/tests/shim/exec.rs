//! Further processes in a container.

use serde_json::json;

use super::harness::{Setup, exec_request};

#[test]
fn an_exec_has_streams_and_a_status_of_its_own() {
    let shim = Setup::script("cat").interactive().start();
    let mut exec = shim.exec("e1", "read line; echo \"out $line\"; echo err >&2; exit 9");
    let state = shim.ask(json!({"state": {}}));
    assert_eq!(state["ok"]["execs"][0]["id"], "e1");
    assert_eq!(state["ok"]["execs"][0]["running"], true);
    exec.write(b"hello\n");
    assert_eq!(exec.read_all(), ("out hello\n".into(), "err\n".into()));
    // The end of the stream means that the status is known.
    assert_eq!(shim.wait_exec("e1")["exitCode"], 9);
    let state = shim.ask(json!({"state": {}}));
    assert_eq!(state["ok"]["execs"][0]["running"], false);
    assert_eq!(state["ok"]["execs"][0]["exitCode"], 9);
    assert!(shim.bundle().join("exec-e1.json").exists());
    assert!(shim.log().is_empty(), "it is not the container's output");
}

#[test]
fn the_end_of_input_ends_an_execs_input() {
    let shim = Setup::script("cat").interactive().start();
    let mut exec = shim.exec("e", "cat; echo end");
    exec.write(b"text\n");
    exec.end_input();
    assert_eq!(exec.read_all().0, "text\nend\n");
}

#[test]
fn a_detached_exec_runs_and_is_remembered() {
    let shim = Setup::script("cat").interactive().start();
    let answer = shim.ask(exec_request("e", "echo lost; exit 2", false));
    assert!(answer["ok"]["pid"].is_i64());
    assert_eq!(shim.wait_exec("e")["exitCode"], 2);
    let again = shim.ask(exec_request("e", "true", false));
    assert!(
        again["error"]["message"].as_str().unwrap().contains("exists"),
        "{again}"
    );
}

#[test]
fn a_failed_exec_says_why_and_with_which_code() {
    let shim = Setup::script("cat").interactive().start();
    for (program, code) in [("nosuch", 127), ("/tmp", 126)] {
        let request = json!({"exec": {"id": "e", "attach": true, "process":
            {"args": [program], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]}}});
        let answer = shim.ask(request);
        assert_eq!(answer["error"]["code"], code, "{answer}");
        assert!(
            answer["error"]["message"].as_str().unwrap().contains(program),
            "{answer}"
        );
    }
    assert_eq!(shim.ask(json!({"state": {}}))["ok"]["execs"], json!([]));
}

#[test]
fn execs_are_killed_alone_and_die_with_the_container() {
    let shim = Setup::script("cat").interactive().start();
    let mut first = shim.exec("first", "sleep 1000");
    let mut second = shim.exec("second", "sleep 1000");
    assert_eq!(
        shim.ask(json!({"kill": {"signal": 15, "exec": "first"}})),
        json!({"ok": {}})
    );
    assert_eq!(first.read_all().0, "");
    assert_eq!(shim.wait_exec("first")["exitCode"], 143);
    let mut waiting = shim.send(json!({"wait": {"exec": "second"}}));
    shim.ask(json!({"closeStdin": {}}));
    assert_eq!(waiting.answer()["ok"]["exitCode"], 137);
    second.read_all();
    let record = std::fs::read_to_string(shim.bundle().join("exec-second.json")).unwrap();
    assert!(record.contains("137"), "{record}");
    shim.gone();
}

#[test]
fn a_background_child_does_not_hold_an_exec_for_ever() {
    let shim = Setup::script("cat").interactive().start();
    let mut exec = shim.exec("e", "sleep 1000 & echo started; exit 6");
    assert_eq!(exec.read_all().0, "started\n");
    assert_eq!(shim.wait_exec("e")["exitCode"], 6);
}

#[test]
fn only_the_newest_execs_are_remembered() {
    let shim = Setup::script("cat").interactive().start();
    for number in 0..40 {
        shim.exec(&format!("e{number}"), "true").read_all();
    }
    let state = shim.ask(json!({"state": {}}));
    assert_eq!(state["ok"]["execs"].as_array().unwrap().len(), 32);
    assert!(shim.bundle().join("exec-e39.json").exists());
    assert!(!shim.bundle().join("exec-e0.json").exists());
}

#[test]
fn an_exec_needs_a_running_container() {
    let shim = Setup::script("cat").create();
    let answer = shim.ask(exec_request("e", "true", true));
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("not running"),
        "{answer}"
    );
    let shim = Setup::script("cat").interactive().start();
    let answer = shim.ask(exec_request("../e", "true", true));
    assert!(
        answer["error"]["message"].as_str().unwrap().contains("exec id"),
        "{answer}"
    );
}
