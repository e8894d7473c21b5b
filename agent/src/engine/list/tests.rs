//! Rows of `ps`: durations, status texts and filters.

use super::*;
use crate::engine::record::tests::sample;
use crate::engine::state::Health;

#[test]
fn durations_for_people() {
    for (seconds, text) in [
        (0, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (3600 * 47, "47 hours"),
        (3600 * 72, "3 days"),
        (3600 * 24 * 15, "2 weeks"),
        (3600 * 24 * 90, "3 months"),
        (3600 * 24 * 800, "2 years"),
    ] {
        assert_eq!(human_duration(Duration::seconds(seconds)), text, "{seconds}");
    }
}

#[test]
fn status_texts() {
    let now = OffsetDateTime::now_utc();
    let mut state = ContainerState {
        started_at: Some(now - Duration::minutes(5)),
        ..Default::default()
    };
    assert_eq!(status_text(&state, now), "Created");
    state.status = Status::Running;
    state.health = Some(Health::default());
    assert_eq!(status_text(&state, now), "Up 5 minutes (health: starting)");
    state.status = Status::Exited;
    state.exit_code = 137;
    state.finished_at = Some(now - Duration::seconds(3));
    assert_eq!(status_text(&state, now), "Exited (137) 3 seconds ago");
}

fn selects(filters: &str, all: bool, change: impl FnOnce(&mut ContainerRecord)) -> bool {
    let filters = Filters::parse(Some(filters)).unwrap();
    let mut record = sample();
    change(&mut record);
    let selection = Selection {
        networks: Vec::new(),
        only_running: !all,
        exited: filters.values("exited").map(|c| c.parse().unwrap()).collect(),
        filters: &filters,
        ancestors: vec![],
        before: None,
        since: None,
        is_task: None,
    };
    selection.accepts(&record)
}

#[test]
fn filters_select() {
    assert!(!selects("{}", false, |_| {}));
    assert!(selects("{}", true, |_| {}));
    for name in ["web", "we", "/web", "^/web$", "^web$", "^/w", "eb$"] {
        assert!(
            selects(&format!("{{\"name\":[\"{name}\"]}}"), true, |_| {}),
            "{name}"
        );
    }
    assert!(!selects(r#"{"name":["^eb"]}"#, true, |_| {}));
    assert!(selects(r#"{"status":["created","exited"]}"#, true, |_| {}));
    assert!(!selects(r#"{"exited":["0"]}"#, true, |_| {}));
    assert!(selects(r#"{"exited":["0"]}"#, true, |r| r.state.status = Status::Exited));
    assert!(selects(r#"{"ancestor":["bb"]}"#, true, |_| {}));
    assert!(selects(r#"{"label":["a=1"]}"#, true, |r| drop(
        r.config.labels.insert("a".into(), "1".into())
    )));
    assert!(!selects(r#"{"label":["a=2"]}"#, true, |r| drop(
        r.config.labels.insert("a".into(), "1".into())
    )));
    assert!(selects(r#"{"health":["none"]}"#, true, |_| {}));
    assert!(selects(r#"{"network":["back"]}"#, true, |r| drop(
        r.networks.insert("back".into(), Default::default())
    )));
}
