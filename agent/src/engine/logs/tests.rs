//! Reading and following log files that grow, rotate and end.

use super::reader::Position;
use super::*;
use crate::engine::state::ContainerState;
use std::io::Write;
use std::path::{Path, PathBuf};
use tokio::sync::watch;

fn line(number: usize, stream: &str) -> String {
    let time = OffsetDateTime::from_unix_timestamp(1_700_000_000 + number as i64).unwrap();
    let time = time
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap();
    format!("{{\"log\":\"line {number}\\n\",\"stream\":\"{stream}\",\"time\":\"{time}\"}}\n")
}

fn append(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// Lines 0 to 2 in the oldest of three files, 3 to 5 in the next, 6 to 8 in the newest; every third on stderr.
fn rotated_log(dir: &Path) -> PathBuf {
    let path = dir.join("x-json.log");
    for number in 0..9 {
        let file = reader::rotated(&path, 2 - number as u32 / 3);
        append(
            &file,
            &line(number, if number % 3 == 2 { "stderr" } else { "stdout" }),
        );
    }
    path
}

fn options() -> LogOptions {
    LogOptions {
        stdout: true,
        stderr: true,
        ..Default::default()
    }
}

async fn history(path: &Path, options: LogOptions) -> (Vec<String>, Option<Position>) {
    let (sender, mut receiver) = mpsc::channel(READ_AHEAD);
    let history = History {
        path: path.to_owned(),
        filter: Filter(options),
        sender,
    };
    let position = tokio::task::spawn_blocking(move || history.read()).await.unwrap();
    let mut lines = Vec::new();
    while let Ok(entry) = receiver.try_recv() {
        lines.push(
            String::from_utf8(entry.line.to_vec())
                .unwrap()
                .trim_start_matches("line ")
                .trim()
                .to_owned(),
        );
    }
    (lines, position)
}

async fn read(path: &Path, options: LogOptions) -> String {
    history(path, options).await.0.join(" ")
}

#[tokio::test]
async fn rotated_files_read_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = rotated_log(dir.path());
    assert_eq!(read(&path, options()).await, "0 1 2 3 4 5 6 7 8");
    assert_eq!(
        read(
            &path,
            LogOptions {
                stderr: false,
                ..options()
            }
        )
        .await,
        "0 1 3 4 6 7"
    );
    assert_eq!(read(&dir.path().join("none"), options()).await, "");
}

#[tokio::test]
async fn a_tail_counts_accepted_lines_over_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = rotated_log(dir.path());
    for (tail, expected) in [
        (0, ""),
        (1, "8"),
        (3, "6 7 8"),
        (4, "5 6 7 8"),
        (9, "0 1 2 3 4 5 6 7 8"),
        (99, "0 1 2 3 4 5 6 7 8"),
    ] {
        assert_eq!(
            read(
                &path,
                LogOptions {
                    tail: Some(tail),
                    ..options()
                }
            )
            .await,
            expected,
            "{tail}"
        );
    }
    assert_eq!(
        read(
            &path,
            LogOptions {
                tail: Some(2),
                stdout: false,
                ..options()
            }
        )
        .await,
        "5 8"
    );
}

#[tokio::test]
async fn a_tail_longer_than_a_block() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x-json.log");
    append(&path, &(0..5000).map(|n| line(n, "stdout")).collect::<String>());
    let lines = history(
        &path,
        LogOptions {
            tail: Some(200),
            ..options()
        },
    )
    .await
    .0;
    assert_eq!(
        (lines.len(), lines[0].as_str(), lines[199].as_str()),
        (200, "4800", "4999")
    );
}

#[tokio::test]
async fn time_limits_and_torn_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = rotated_log(dir.path());
    let at = |n: i64| Some(OffsetDateTime::from_unix_timestamp(1_700_000_000 + n).unwrap());
    assert_eq!(
        read(
            &path,
            LogOptions {
                since: at(2),
                until: at(4),
                ..options()
            }
        )
        .await,
        "2 3 4"
    );
    append(&path, "not json\n{\"log\":\"half");
    assert_eq!(
        read(
            &path,
            LogOptions {
                tail: Some(1),
                ..options()
            }
        )
        .await,
        "8"
    );
}

#[tokio::test]
async fn following_crosses_rotations_and_ends_with_the_container() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x-json.log");
    append(&path, &line(0, "stdout"));
    let watcher = LogWatcher::start().unwrap();
    let written = watcher.subscribe(dir.path()).unwrap();
    let running = ContainerState {
        status: Status::Running,
        ..Default::default()
    };
    let (state, watched) = watch::channel(running);
    let (sender, mut lines) = mpsc::channel(READ_AHEAD);
    let history = History {
        path: path.clone(),
        filter: Filter(options()),
        sender,
    };
    let position = tokio::task::spawn_blocking(move || history.read())
        .await
        .unwrap()
        .unwrap();
    let follower = tokio::spawn(follow::follow(position, watched, written));

    let mut next = async || String::from_utf8(lines.recv().await.unwrap().line.to_vec()).unwrap();
    assert_eq!(next().await, "line 0\n");
    append(&path, &line(1, "stdout"));
    assert_eq!(next().await, "line 1\n");
    append(&path, &line(2, "stdout"));
    std::fs::rename(&path, reader::rotated(&path, 1)).unwrap();
    append(&path, &line(3, "stdout"));
    assert_eq!(next().await, "line 2\n");
    assert_eq!(next().await, "line 3\n");
    append(&path, &line(4, "stdout"));
    state.send_modify(|state| state.status = Status::Exited);
    assert_eq!(next().await, "line 4\n");
    follower.await.unwrap();
    assert!(lines.recv().await.is_none());
}
