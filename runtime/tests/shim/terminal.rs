//! Containers and execs with a terminal.

use serde_json::json;

use super::harness::{Setup, exec_request};

#[test]
fn a_container_with_a_terminal() {
    let shim = Setup::script("stty size; read line; echo \"<$line>\"; stty size; test -t 1 && exit 8")
        .terminal()
        .interactive()
        .shim("/consoleSize", json!([24, 80]))
        .create();
    let mut attached = shim.attach();
    assert_eq!(shim.ask(json!({"start": {}})), json!({"ok": {}}));
    attached.read_until("24 80\r\n");
    assert_eq!(
        shim.ask(json!({"resize": {"rows": 50, "cols": 132}})),
        json!({"ok": {}})
    );
    attached.write(b"hello\n");
    let rest = attached.read_until("50 132\r\n");
    assert!(rest.contains("<hello>\r\n"), "{rest:?}");
    assert_eq!(attached.frame(), None);
    assert_eq!(shim.exit_json().unwrap()["exitCode"], 8);
    assert!(
        shim.log()
            .iter()
            .any(|(stream, text)| stream == "stdout" && text == "<hello>\r\n")
    );
    shim.gone();
}

#[test]
fn an_exec_with_a_terminal_is_resized_on_its_own() {
    let shim = Setup::script("cat").interactive().start();
    let mut request = exec_request("tty", "stty size; read line; stty size; exit 3", true);
    request["exec"]["process"]["terminal"] = json!(true);
    request["exec"]["process"]["consoleSize"] = json!({"height": 11, "width": 22});
    let (answer, mut exec) = shim.open(request);
    assert!(answer["ok"]["pid"].is_i64(), "{answer}");
    exec.read_until("11 22\r\n");
    assert_eq!(
        shim.ask(json!({"resize": {"exec": "tty", "rows": 33, "cols": 44}})),
        json!({"ok": {}})
    );
    exec.write(b"\n");
    exec.read_until("33 44\r\n");
    assert_eq!(exec.frame(), None);
    assert_eq!(shim.wait_exec("tty")["exitCode"], 3);
}

#[test]
fn control_c_is_a_signal() {
    let shim = Setup::script("trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done")
        .terminal()
        .interactive()
        .create();
    let mut attached = shim.attach();
    assert_eq!(shim.ask(json!({"start": {}})), json!({"ok": {}}));
    attached.read_until("ready");
    attached.write(b"\x03");
    attached.read_until("caught");
    assert_eq!(attached.frame(), None);
    assert_eq!(shim.exit_json().unwrap()["exitCode"], 5);
}

#[test]
fn a_terminal_survives_its_client() {
    let shim = Setup::script("read a; read b; echo \"$a-$b\"")
        .terminal()
        .interactive()
        .start();
    let mut first = shim.attach();
    first.write(b"one\n");
    first.read_until("one");
    first.end_input();
    drop(first);
    let mut second = shim.attach();
    second.write(b"two\n");
    second.read_until("one-two");
    shim.wait();
}
