//! The bundle of a container on disk: `config.json` (OCI) and `shim.json` (root file system, stdio, log).

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use storage::OverlayPaths;

use super::check;
use super::error::{EngineError, Result};
use super::lease::BootTime;
use super::record::{ContainerRecord, Paths};
use super::{kill, signals};

/// `shim.json`, as `runtime::shim` reads it.
///
/// # Errors
/// Malformed log options, which the checks of creation would have refused too.
pub(crate) fn shim_config(
    record: &ContainerRecord,
    paths: &Paths,
    overlay: &OverlayPaths,
    lease: Option<BootTime>,
) -> Result<Value> {
    let (max_size, max_file) = check::log_limits(&record.host_config)?;
    let mut log = json!({ "driver": record.host_config.log_config.driver, "path": paths.log() });
    if let Some(size) = max_size {
        log["maxSize"] = json!(size);
        log["maxFile"] = json!(max_file.unwrap_or(1));
    }
    let mut config = json!({
        "id": record.id,
        "rootfs": { "overlay": { "lower": overlay.lower, "upper": overlay.upper, "work": overlay.work, "options": [] } },
        "terminal": record.config.tty,
        "openStdin": record.config.open_stdin,
        "stdinOnce": record.config.stdin_once,
        "log": log,
    });
    let [rows, cols] = record.host_config.console_size;
    if record.config.tty && rows > 0 && cols > 0 {
        config["consoleSize"] = json!([rows, cols]);
    }
    if let Some(until) = lease {
        config["lease"] = end_of_lease(record, until)?;
    }
    Ok(config)
}

/// When and how the container ends if its lease is not extended: as it ends when it is stopped.
fn end_of_lease(record: &ContainerRecord, until: BootTime) -> Result<Value> {
    let grace = record.config.stop_timeout.unwrap_or(kill::DEFAULT_GRACE);
    let grace = Duration::from_secs(u64::try_from(grace).unwrap_or_default());
    Ok(json!({
        "until": until.nanoseconds(),
        "signal": signals::parse_or(&record.config.stop_signal, signals::SIGTERM)?,
        "grace": u64::try_from(grace.as_nanos()).unwrap_or(u64::MAX),
    }))
}

/// Writes both documents. The bundle ends with the boot: nothing is synced.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn write(bundle: &Path, config: &Value, shim: &Value) -> Result<()> {
    for (name, document) in [("config.json", config), ("shim.json", shim)] {
        let path = bundle.join(name);
        std::fs::write(&path, document.to_string()).map_err(EngineError::file("write", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::check::with_defaults;
    use crate::engine::record::tests::sample;

    #[test]
    fn the_shim_learns_of_terminal_and_log_limits() {
        let mut record = sample();
        record.host_config = with_defaults(record.host_config);
        record.host_config.console_size = [24, 80];
        record
            .host_config
            .log_config
            .config
            .insert("max-size".into(), "1k".into());
        let paths = Paths::new("/r".as_ref(), "/run".as_ref(), &record.id);
        let overlay = OverlayPaths {
            lower: vec!["/l".into()],
            upper: "/u".into(),
            work: "/w".into(),
        };
        let config = shim_config(&record, &paths, &overlay, None).unwrap();
        assert_eq!(
            (&config["log"]["maxSize"], &config["log"]["maxFile"]),
            (&json!(1024), &json!(1))
        );
        assert!(config.get("consoleSize").is_none(), "no terminal, no size");
        record.config.tty = true;
        assert_eq!(
            shim_config(&record, &paths, &overlay, None).unwrap()["consoleSize"],
            json!([24, 80])
        );
        assert!(config.get("lease").is_none());
        record.config.stop_timeout = Some(3);
        let until = BootTime::now();
        assert_eq!(
            shim_config(&record, &paths, &overlay, Some(until)).unwrap()["lease"],
            json!({ "until": until.nanoseconds(), "signal": 15, "grace": 3_000_000_000u64 })
        );
    }
}
