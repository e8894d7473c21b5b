//! A container whose lease runs out ends, whether or not anybody else is alive.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::harness::Setup;

/// A moment of the clock that leases count by.
fn after(time: Duration) -> u64 {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap());
    u64::try_from((now + time).as_nanos()).unwrap()
}

fn lease(until: u64, grace: Duration) -> Value {
    json!({ "until": until, "signal": 15, "grace": u64::try_from(grace.as_nanos()).unwrap() })
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_lease_that_is_extended_holds_and_one_that_is_not_ends_the_container() {
    let first = after(Duration::from_millis(600));
    let shim = Setup::script("trap 'echo told; exit 0' TERM; echo up; while :; do sleep 0.05; done")
        .shim("/lease", lease(first, HOUR))
        .start();
    let until = after(Duration::from_millis(1200));
    assert_eq!(shim.ask(json!({"lease": {"until": until}})), json!({"ok": {}}));
    let mut attached = shim.attach();
    let record = shim.wait();
    assert!(after(Duration::ZERO) >= until, "it ended before its time");
    assert!(attached.read_all().0.ends_with("told\n"));
    assert_eq!(record["exitCode"], 0);
    assert!(record["error"].as_str().unwrap().contains("lease"), "{record}");
    shim.gone();
}

#[test]
fn who_does_not_hear_is_killed_with_all_that_it_has_started() {
    let until = after(Duration::from_millis(500));
    let shim =
        Setup::script("trap '' TERM; (trap '' TERM; while :; do sleep 1; done) & while :; do sleep 1; done")
            .host_pids()
            .shim("/lease", lease(until, Duration::from_millis(300)))
            .start();
    let record = shim.wait();
    assert_eq!(record["exitCode"], 137);
    assert!(after(Duration::ZERO) >= until + 300_000_000);
    shim.gone();
}

#[test]
fn nothing_starts_on_a_lease_that_is_over_and_nothing_extends_it() {
    let shim = Setup::script("sleep 1000")
        .shim("/lease", lease(after(HOUR), Duration::ZERO))
        .start();
    assert_eq!(
        shim.ask(json!({"lease": {"until": 1}})),
        json!({"ok": {}}),
        "never shorter"
    );
    assert_eq!(shim.ask(json!({"state": {}}))["ok"]["status"], "running");
    drop(shim);
    let shim = Setup::script("sleep 1000").start();
    let refused = shim.ask(json!({"lease": {"until": after(HOUR)}}));
    assert!(
        refused["error"]["message"]
            .as_str()
            .unwrap()
            .contains("not given a lease"),
        "{refused}"
    );
    drop(shim);
    let shim = Setup::script("sleep 1000")
        .shim("/lease", lease(1, HOUR))
        .create();
    let record = shim.wait();
    assert_eq!(record["startedAt"], "0001-01-01T00:00:00Z");
    assert!(record["error"].as_str().unwrap().contains("lease"), "{record}");
    shim.gone();
}
