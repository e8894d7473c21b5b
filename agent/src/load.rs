//! How busy this machine is at the moment, as heartbeats tell it to the managers.

use std::fs;

use proto::wire::NodeLoad;

/// How busy the machine is; `None` if the kernel does not say.
pub fn now(cpus: usize) -> Option<NodeLoad> {
    let loadavg = fs::read_to_string("/proc/loadavg").ok()?;
    of(&loadavg, &fs::read_to_string("/proc/meminfo").ok()?, cpus)
}

/// From the texts of `/proc/loadavg` and `/proc/meminfo`. The average over a minute is steady enough to go by.
fn of(loadavg: &str, meminfo: &str, cpus: usize) -> Option<NodeLoad> {
    let waiting: f64 = loadavg.split_whitespace().next()?.parse().ok()?;
    let kib = |key: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let (all, available) = (kib("MemTotal:")?, kib("MemAvailable:")?);
    let used = all.saturating_sub(available) * 100 / all.max(1);
    Some(NodeLoad {
        // A float becomes the nearest whole number that there is.
        cpu_percent: (waiting * 100.0 / cpus.max(1) as f64) as u32,
        memory_percent: u32::try_from(used).unwrap_or(100),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_become_percent() {
        let meminfo = "MemTotal:       1000 kB\nMemFree:  10 kB\nMemAvailable:    250 kB\n";
        let load = NodeLoad {
            cpu_percent: 150,
            memory_percent: 75,
        };
        assert_eq!(of("3.00 1.00 0.50 2/300 12345\n", meminfo, 2), Some(load));
        assert_eq!(of("", meminfo, 2), None);
        assert_eq!(of("1.0", "MemTotal: 5 kB\n", 2), None);
        assert!(now(1).is_some(), "this machine says it");
    }
}
