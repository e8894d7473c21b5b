//! Output and input: the log, attached clients, clients that do not keep up.

use std::io::Write;

use serde_json::json;

use super::harness::Setup;

#[test]
fn streams_are_kept_apart_in_the_log_and_for_clients() {
    let shim = Setup::script("cat; echo out; echo err >&2; printf unfinished")
        .interactive()
        .start();
    let mut both = shim.attach();
    let (_, mut only_err) = shim.open(json!({"attach": {"stderr": true}}));
    both.end_input();
    assert_eq!(both.read_all(), ("out\nunfinished".into(), "err\n".into()));
    assert_eq!(only_err.read_all(), (String::new(), "err\n".into()));
    let mut log = shim.log();
    log.sort();
    let line = |stream: &str, text: &str| (stream.to_owned(), text.to_owned());
    assert_eq!(
        log,
        [
            line("stderr", "err\n"),
            line("stdout", "out\n"),
            line("stdout", "unfinished")
        ]
    );
    shim.gone();
}

#[test]
fn the_log_needs_nobody() {
    let shim = Setup::script("seq 1 1000").start();
    shim.wait();
    let expected: String = (1..=1000).map(|n| format!("{n}\n")).collect();
    assert_eq!(
        shim.log().into_iter().map(|(_, text)| text).collect::<String>(),
        expected
    );
}

#[test]
fn driver_none_keeps_nothing_but_clients_see_all() {
    let shim = Setup::script("cat; echo hello")
        .interactive()
        .shim("/log", json!({"driver": "none"}))
        .start();
    let mut attached = shim.attach();
    attached.end_input();
    assert_eq!(attached.read_all().0, "hello\n");
    assert!(!shim.log_path().exists());
    shim.gone();
}

#[test]
fn input_reaches_the_process_and_ends_with_the_client() {
    let shim = Setup::script("cat; echo end").interactive().start();
    let mut attached = shim.attach();
    let text = "x".repeat(79) + "\n";
    let mut writer = attached.try_clone();
    let sent = text.repeat(20_000);
    let expected = sent.clone() + "end\n";
    // More than any buffer between here and there and back holds.
    let sender = std::thread::spawn(move || {
        writer.write_all(sent.as_bytes()).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let (received, _) = attached.read_all();
    sender.join().unwrap();
    assert!(
        received == expected,
        "{} of {} bytes came back",
        received.len(),
        expected.len()
    );
    shim.gone();
}

#[test]
fn without_stdin_once_the_end_of_a_client_is_not_the_end_of_input() {
    let shim = Setup::script("cat; echo end")
        .shim("/openStdin", json!(true))
        .start();
    for text in ["one\n", "two\n"] {
        let mut attached = shim.attach();
        attached.write(text.as_bytes());
        attached.end_input();
        attached.read_until(text);
    }
    let mut attached = shim.attach();
    assert_eq!(shim.ask(json!({"closeStdin": {}})), json!({"ok": {}}));
    assert_eq!(attached.read_all().0, "end\n");
}

#[test]
fn without_open_stdin_there_is_no_input() {
    let shim = Setup::script("cat; echo end").start();
    shim.wait();
    assert_eq!(shim.log(), [("stdout".into(), "end\n".into())]);
}

#[test]
fn a_stuck_client_costs_no_log_line() {
    let line = "0123456789abcdef".repeat(16);
    let shim = Setup::script(&format!("cat; yes {line} | head -c 10485760; echo; echo end"))
        .interactive()
        .start();
    let stuck = shim.attach();
    let mut waiting = shim.send(json!({"wait": {}}));
    assert_eq!(shim.ask(json!({"closeStdin": {}})), json!({"ok": {}}));
    // Nobody reads `stuck`, and more comes than fits into all buffers on the way.
    assert_eq!(waiting.answer()["ok"]["exitCode"], 0);
    let log = shim.log();
    assert_eq!(
        log.iter().map(|(_, text)| text.len()).sum::<usize>(),
        10_485_760 + 1 + 4
    );
    assert_eq!(log.last().unwrap().1, "end\n");
    drop(stuck);
    shim.gone();
}

#[test]
fn a_slow_client_that_reads_on_misses_nothing() {
    let shim = Setup::script("cat; yes 0123456789abcdef | head -c 4194304")
        .interactive()
        .start();
    let mut slow = shim.attach();
    let mut quick = shim.attach();
    assert_eq!(shim.ask(json!({"closeStdin": {}})), json!({"ok": {}}));
    let quick = std::thread::spawn(move || quick.read_all().0.len());
    let mut received = 0;
    let mut turn = 0;
    while let Some((_, payload)) = slow.frame() {
        received += payload.len();
        turn += 1;
        if turn % 16 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
    assert_eq!(received, 4_194_304);
    assert_eq!(quick.join().unwrap(), 4_194_304);
    shim.gone();
}

#[test]
fn rotation_loses_only_what_is_old() {
    let shim = Setup::script("seq 1 20000")
        .shim("/log/maxSize", json!(200_000))
        .shim("/log/maxFile", json!(3))
        .start();
    shim.wait();
    let files: Vec<_> = ["", ".1", ".2"]
        .map(|suffix| format!("{}{suffix}", shim.log_path().display()))
        .into();
    let mut kept: Vec<String> = Vec::new();
    for file in files.iter().rev() {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.len() < 210_000, "{file}");
        kept.extend(text.lines().map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).unwrap();
            message["log"].as_str().unwrap().to_owned()
        }));
    }
    let all: Vec<String> = (1..=20000).map(|n| format!("{n}\n")).collect();
    assert!(all.ends_with(&kept) && kept.len() > 3000, "{} lines", kept.len());
    assert!(!std::path::Path::new(&format!("{}.3", shim.log_path().display())).exists());
}

#[test]
fn very_long_lines_are_cut_as_in_docker() {
    let shim = Setup::script("head -c 40000 /dev/zero | tr '\\0' x; echo; echo next")
        .spec(
            "/linux/devices",
            json!([{"path": "/dev/zero", "type": "c", "major": 1, "minor": 5}]),
        )
        .start();
    shim.wait();
    let lengths: Vec<usize> = shim.log().iter().map(|(_, text)| text.len()).collect();
    assert_eq!(lengths, [16384, 16384, 40000 - 2 * 16384 + 1, 5]);
}
