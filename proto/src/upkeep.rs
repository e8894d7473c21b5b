//! How the tasks of a service are kept up, as far as Docker's spec has no field for it: settings in labels.
//!
//! | label | value | default |
//! |---|---|---|
//! | `shoal.restart.max-delay` | duration | the restart delay does not grow, as Docker's |
//! | `shoal.update.progress-deadline` | duration | an update waits for a new task without end |
//! | `shoal.drain.order` | `start-first`, `stop-first` | see [`DrainOrder`] |
//! | `shoal.drain.deadline` | duration; also a label of a node | 60 s |
//! | `shoal.rebalance` | `on`, `off` | `on` |
//! | `shoal.fencing.lease` | duration | tasks of a node that is cut off run on |
//!
//! Durations are Go's: `90s`, `1m30s`, `500ms`.

use std::time::Duration;

use crate::spec::Labels;

/// Lets the delay between restarts double up to this.
pub const RESTART_MAX_DELAY: &str = "shoal.restart.max-delay";
/// How long a new task of an update may take until it runs.
pub const PROGRESS_DEADLINE: &str = "shoal.update.progress-deadline";
/// Which comes first when a task leaves a drained node.
pub const DRAIN_ORDER: &str = "shoal.drain.order";
/// How long a task of a drained node waits for its replacement.
pub const DRAIN_DEADLINE: &str = "shoal.drain.deadline";
/// Whether tasks move to nodes that have come.
pub const REBALANCE: &str = "shoal.rebalance";
/// How long tasks run on without word from the managers; from then on they may be replaced.
pub const FENCING: &str = "shoal.fencing.lease";

/// Every label that [`Upkeep::read`] reads.
pub const LABELS: [&str; 6] = [
    RESTART_MAX_DELAY,
    PROGRESS_DEADLINE,
    DRAIN_ORDER,
    DRAIN_DEADLINE,
    REBALANCE,
    FENCING,
];

/// How long a task of a drained node waits for its replacement where nothing is said.
pub const DEFAULT_DRAIN_DEADLINE: Duration = Duration::from_secs(60);

/// A label whose value cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("label {label}: {value:?} is not {wanted}")]
pub struct BadSetting {
    /// Which label.
    pub label: &'static str,
    /// What it says.
    pub value: String,
    /// What it may say.
    pub wanted: &'static str,
}

/// Which comes first when a task leaves a drained node: the end of the old task or the start of the new one. Where
/// nothing is said, the manager looks at the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainOrder {
    /// The new task runs before the old one is stopped.
    StartFirst,
    /// The old task has stopped before the new one starts.
    StopFirst,
}

/// The settings of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upkeep {
    /// The delay between restarts doubles up to this.
    pub restart_max_delay: Option<Duration>,
    /// A new task of an update that does not run after this time has failed.
    pub progress_deadline: Option<Duration>,
    /// Which comes first on a drained node.
    pub drain_order: Option<DrainOrder>,
    /// After this time a task of a drained node is stopped, whether it is replaced or not.
    pub drain_deadline: Option<Duration>,
    /// Whether tasks move to nodes that have come.
    pub rebalance: bool,
    /// How long tasks run on without word from the managers.
    pub fencing: Option<Duration>,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            restart_max_delay: None,
            progress_deadline: None,
            drain_order: None,
            drain_deadline: None,
            rebalance: true,
            fencing: None,
        }
    }
}

impl Upkeep {
    /// Reads the labels of a service.
    ///
    /// # Errors
    /// A label says something else than it may.
    pub fn read(labels: &Labels) -> Result<Self, BadSetting> {
        Ok(Self {
            restart_max_delay: time(labels, RESTART_MAX_DELAY)?,
            progress_deadline: time(labels, PROGRESS_DEADLINE)?,
            drain_order: word(
                labels,
                DRAIN_ORDER,
                "start-first or stop-first",
                &[
                    ("start-first", DrainOrder::StartFirst),
                    ("stop-first", DrainOrder::StopFirst),
                ],
            )?,
            drain_deadline: time(labels, DRAIN_DEADLINE)?,
            rebalance: word(labels, REBALANCE, "on or off", &[("on", true), ("off", false)])?.unwrap_or(true),
            fencing: time(labels, FENCING)?,
        })
    }

    /// As [`Self::read`]; a label that cannot be read says nothing. For labels that are in the store: they were read
    /// before they came there.
    pub fn of(labels: &Labels) -> Self {
        let mut readable = labels.clone();
        loop {
            match Self::read(&readable) {
                Ok(upkeep) => return upkeep,
                Err(bad) => drop(readable.remove(bad.label)),
            }
        }
    }
}

/// How long a task runs on without word from the managers, by its labels: those that its service had when it was made.
pub fn fencing(labels: &Labels) -> Option<Duration> {
    duration(labels.get(FENCING)?).filter(|lease| !lease.is_zero())
}

fn time(labels: &Labels, label: &'static str) -> Result<Option<Duration>, BadSetting> {
    let Some(value) = labels.get(label) else {
        return Ok(None);
    };
    duration(value)
        .filter(|time| !time.is_zero())
        .map(Some)
        .ok_or_else(|| BadSetting {
            label,
            value: value.clone(),
            wanted: "a duration such as 1m30s or 500ms",
        })
}

fn word<T: Copy>(
    labels: &Labels,
    label: &'static str,
    wanted: &'static str,
    words: &[(&str, T)],
) -> Result<Option<T>, BadSetting> {
    let Some(value) = labels.get(label) else {
        return Ok(None);
    };
    let known = words.iter().find(|(word, _)| word == value);
    known
        .map(|(_, meaning)| Some(*meaning))
        .ok_or_else(|| BadSetting {
            label,
            value: value.clone(),
            wanted,
        })
}

/// A duration as Go writes it, without a sign: numbers with units, one behind the other. `None` for anything else, and
/// for what is longer than 292 years, as in Go.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let letters = rest.find(|other: char| !other.is_ascii_digit() && other != '.')?;
        let (number, behind) = rest.split_at(letters);
        let end = behind
            .find(|other: char| other.is_ascii_digit() || other == '.')
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        total = total.checked_add(nanoseconds(number, unit)?)?;
        rest = behind;
    }
    (!text.is_empty()).then(|| Duration::from_nanos(total.unsigned_abs()))
}

fn nanoseconds(number: &str, unit: &str) -> Option<i64> {
    let unit: i64 = match unit {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && part.is_empty() {
        return None;
    }
    let mut total = match whole {
        "" => 0,
        whole => whole.parse::<i64>().ok()?.checked_mul(unit)?,
    };
    let mut worth = unit;
    for digit in part.chars() {
        worth /= 10;
        total = total.checked_add(i64::from(digit.to_digit(10)?) * worth)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn durations_are_those_of_go() {
        let millis = |text| duration(text).map(|time| time.as_millis());
        assert_eq!(millis("1m30s"), Some(90_000));
        assert_eq!(millis("1.5s"), Some(1500));
        assert_eq!(millis(".5h"), Some(1_800_000));
        assert_eq!(millis("500ms"), Some(500));
        assert_eq!(duration("1.5us"), Some(Duration::from_nanos(1500)));
        for bad in [
            "",
            "5",
            "s",
            "-1s",
            "1x",
            "1m2",
            ".s",
            "1.2.3s",
            "1e3s",
            "999999999h",
            "1 s",
        ] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn nothing_said_is_docker_s_way_with_rebalancing() {
        assert_eq!(Upkeep::read(&Labels::new()), Ok(Upkeep::default()));
        assert!(Upkeep::default().rebalance);
    }

    #[test]
    fn every_label_is_read() {
        let read = Upkeep::read(&labels(&[
            (RESTART_MAX_DELAY, "5m"),
            (PROGRESS_DEADLINE, "30s"),
            (DRAIN_ORDER, "stop-first"),
            (DRAIN_DEADLINE, "10s"),
            (REBALANCE, "off"),
            (FENCING, "15s"),
        ]))
        .unwrap();
        let seconds = |count| Some(Duration::from_secs(count));
        let expected = Upkeep {
            restart_max_delay: seconds(300),
            progress_deadline: seconds(30),
            drain_order: Some(DrainOrder::StopFirst),
            drain_deadline: seconds(10),
            rebalance: false,
            fencing: seconds(15),
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn a_bad_value_is_refused_by_name_and_says_nothing_where_it_is_stored() {
        for (label, value) in [
            (DRAIN_DEADLINE, "soon"),
            (DRAIN_DEADLINE, "0s"),
            (REBALANCE, "maybe"),
            (DRAIN_ORDER, "first"),
            (FENCING, "0s"),
        ] {
            let bad = labels(&[(label, value), (RESTART_MAX_DELAY, "1m")]);
            let error = Upkeep::read(&bad).unwrap_err().to_string();
            assert!(error.contains(label) && error.contains(value), "{error}");
            let kept = Upkeep::of(&bad);
            assert_eq!(kept.restart_max_delay, Some(Duration::from_secs(60)));
            assert_eq!(
                (kept.drain_deadline, kept.rebalance, kept.drain_order),
                (None, true, None)
            );
        }
    }
}
