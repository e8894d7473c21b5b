//! How long members of consensus wait for each other.

use std::ops::Range;
use std::time::Duration;

/// How long members of consensus wait for each other. All of them must use the same.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Between two signs of life of a leader.
    pub heartbeat: Duration,
    /// Who has heard of a leader helps nobody else to lead for this long. Longer than a heartbeat takes to arrive, shorter
    /// than `election`.
    pub lease: Duration,
    /// Who has not heard of a leader for a time from this range, drawn anew each time, wants to lead.
    pub election: Range<Duration>,
    /// A leader that most members have not answered for this long gives up.
    pub lost: Duration,
    /// A leader whose log has not moved for this long, though something is to be written, lets others lead.
    pub stuck: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            lease: Duration::from_millis(400),
            election: Duration::from_millis(500)..Duration::from_millis(1000),
            lost: Duration::from_millis(1500),
            stuck: Duration::from_secs(10),
        }
    }
}
