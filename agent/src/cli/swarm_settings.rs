//! The settings of a swarm that `swarm init` and `swarm update` share.

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::compose;

/// Flags that become part of the cluster's spec.
#[derive(Debug, Default, Args)]
pub(crate) struct Settings {
    /// Enable manager autolocking (requiring an unlock key to start a stopped manager)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    autolock: Option<bool>,
    /// Validity period for node certificates (ns|us|ms|s|m|h)
    #[arg(long)]
    cert_expiry: Option<String>,
    /// Dispatcher heartbeat period (ns|us|ms|s|m|h)
    #[arg(long)]
    dispatcher_heartbeat: Option<String>,
    /// Specifications of one or more certificate signing endpoints
    #[arg(long)]
    external_ca: Vec<String>,
    /// Number of additional Raft snapshots to retain
    #[arg(long)]
    max_snapshots: Option<u64>,
    /// Number of log entries between Raft snapshots
    #[arg(long)]
    snapshot_interval: Option<u64>,
    /// Task history retention limit
    #[arg(long)]
    task_history_limit: Option<i64>,
}

impl Settings {
    /// Writes what was given into a spec.
    pub(crate) fn apply(&self, spec: &mut Value) -> Result<()> {
        refuse_external(&self.external_ca)?;
        let duration = |word: &Option<String>| {
            let word = word.as_deref().map(compose::duration);
            word.transpose().map_err(anyhow::Error::msg)
        };
        for (part, field, value) in [
            (
                "EncryptionConfig",
                "AutoLockManagers",
                self.autolock.map(|on| json!(on)),
            ),
            (
                "CAConfig",
                "NodeCertExpiry",
                duration(&self.cert_expiry)?.map(|time| json!(time)),
            ),
            (
                "Dispatcher",
                "HeartbeatPeriod",
                duration(&self.dispatcher_heartbeat)?.map(|time| json!(time)),
            ),
            (
                "Raft",
                "KeepOldSnapshots",
                self.max_snapshots.map(|count| json!(count)),
            ),
            (
                "Raft",
                "SnapshotInterval",
                self.snapshot_interval.map(|count| json!(count)),
            ),
            (
                "Orchestration",
                "TaskHistoryRetentionLimit",
                self.task_history_limit.map(|count| json!(count)),
            ),
        ] {
            if let Some(value) = value {
                spec[part][field] = value;
            }
        }
        Ok(())
    }

    /// Whether managers shall lock, where that was said.
    pub(crate) fn autolock(&self) -> Option<bool> {
        self.autolock
    }
}

/// Certificates are signed by the managers alone.
pub(crate) fn refuse_external(endpoints: &[String]) -> Result<()> {
    if !endpoints.is_empty() {
        bail!(
            "--external-ca is not supported: the managers sign the nodes' certificates themselves. To have them signed under a \
             root of your own, bring it with its key: `swarm ca --rotate --ca-cert FILE --ca-key FILE`"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_fields_and_leave_the_others() {
        let settings = Settings {
            autolock: Some(false),
            cert_expiry: Some("2h".into()),
            max_snapshots: Some(2),
            ..Settings::default()
        };
        let mut spec = json!({"CAConfig": {"ForceRotate": 3}, "Raft": null});
        settings.apply(&mut spec).unwrap();
        let expected = json!({
            "CAConfig": {"ForceRotate": 3, "NodeCertExpiry": 7_200_000_000_000_i64},
            "EncryptionConfig": {"AutoLockManagers": false},
            "Raft": {"KeepOldSnapshots": 2},
        });
        assert_eq!(spec, expected);
        let wrong = Settings {
            dispatcher_heartbeat: Some("soon".into()),
            ..Settings::default()
        };
        assert!(wrong.apply(&mut spec).unwrap_err().to_string().contains("soon"));
        let external = Settings {
            external_ca: vec!["protocol=cfssl".into()],
            ..Settings::default()
        };
        assert!(
            external
                .apply(&mut spec)
                .unwrap_err()
                .to_string()
                .contains("swarm ca --rotate --ca-cert")
        );
    }
}
