//! What `info` says of the swarm.

use std::fmt::{self, Write as _};

use serde_json::Value;

use super::human;

/// Nanoseconds of a second.
const SECOND: i64 = 1_000_000_000;

/// The block `Swarm`, in Docker's lines.
pub(super) fn block(swarm: &Value) -> String {
    let mut text = String::new();
    // Nothing fails that is written to a string.
    let _ = write(&mut text, swarm);
    text
}

fn write(out: &mut String, swarm: &Value) -> fmt::Result {
    writeln!(out, " Swarm: {}", word(&swarm["LocalNodeState"]))?;
    if swarm["LocalNodeState"] != "active" {
        return Ok(());
    }
    writeln!(out, "  NodeID: {}", word(&swarm["NodeID"]))?;
    if swarm["Error"] != "" {
        writeln!(out, "  Error: {}", word(&swarm["Error"]))?;
    }
    writeln!(out, "  Is Manager: {}", swarm["ControlAvailable"])?;
    // Without a leader nobody says how the cluster is set.
    if swarm["ControlAvailable"] == true && swarm["Error"] == "" {
        cluster(out, swarm)?;
    }
    writeln!(out, "  Node Address: {}", word(&swarm["NodeAddr"]))?;
    let mut managers: Vec<&str> = array(&swarm["RemoteManagers"])
        .iter()
        .map(|manager| word(&manager["Addr"]))
        .collect();
    managers.sort_unstable();
    writeln!(out, "  Manager Addresses:")?;
    managers
        .iter()
        .try_for_each(|manager| writeln!(out, "   {manager}"))
}

fn cluster(out: &mut String, swarm: &Value) -> fmt::Result {
    let cluster = &swarm["Cluster"];
    writeln!(out, "  ClusterID: {}", word(&cluster["ID"]))?;
    writeln!(out, "  Managers: {}", swarm["Managers"])?;
    writeln!(out, "  Nodes: {}", swarm["Nodes"])?;
    let pools = array(&cluster["DefaultAddrPool"]);
    let pools: String = pools.iter().map(|pool| format!("{}  ", word(pool))).collect();
    writeln!(out, "  Default Address Pool: {pools}")?;
    writeln!(out, "  SubnetSize: {}", cluster["SubnetSize"])?;
    writeln!(out, "  Data Path Port: {}", cluster["DataPathPort"])?;
    settings(out, &cluster["Spec"])?;
    writeln!(
        out,
        "  Root Rotation In Progress: {}",
        cluster["RootRotationInProgress"]
    )
}

fn settings(out: &mut String, spec: &Value) -> fmt::Result {
    let number = |value: &Value| value.as_i64().unwrap_or_default();
    let period = |value: &Value| human::duration(number(value) / SECOND);
    let (raft, ca) = (&spec["Raft"], &spec["CAConfig"]);
    writeln!(out, "  Orchestration:")?;
    let history = number(&spec["Orchestration"]["TaskHistoryRetentionLimit"]);
    writeln!(out, "   Task History Retention Limit: {history}")?;
    writeln!(out, "  Raft:")?;
    writeln!(out, "   Snapshot Interval: {}", number(&raft["SnapshotInterval"]))?;
    let kept = number(&raft["KeepOldSnapshots"]);
    writeln!(out, "   Number of Old Snapshots to Retain: {kept}")?;
    writeln!(out, "   Heartbeat Tick: {}", number(&raft["HeartbeatTick"]))?;
    writeln!(out, "   Election Tick: {}", number(&raft["ElectionTick"]))?;
    writeln!(out, "  Dispatcher:")?;
    let heartbeat = period(&spec["Dispatcher"]["HeartbeatPeriod"]);
    writeln!(out, "   Heartbeat Period: {heartbeat}")?;
    writeln!(out, "  CA Configuration:")?;
    writeln!(out, "   Expiry Duration: {}", period(&ca["NodeCertExpiry"]))?;
    writeln!(out, "   Force Rotate: {}", number(&ca["ForceRotate"]))?;
    let locked = spec["EncryptionConfig"]["AutoLockManagers"] == true;
    writeln!(out, "  Autolock Managers: {locked}")
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
