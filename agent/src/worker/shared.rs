//! What all task controllers of a worker share.

use std::sync::Arc;
use std::time::Duration;

use super::directory::Directory;
use super::files::Files;
use super::lease::Contact;
use super::networks::Networks;
use super::overlay::Overlay;
use super::reporter::Reporter;
use super::withdrawal::Withdrawal;
use crate::engine::Engine;
use crate::peer::Members;
use crate::transfer::Fetcher;

/// The rooms that a controller works with.
#[derive(Debug)]
pub struct Shared {
    /// Makes and runs containers.
    pub engine: Arc<Engine>,
    /// Who may receive traffic.
    pub directory: Directory,
    /// Secrets and configs.
    pub files: Files,
    /// The cluster's networks on this node.
    pub networks: Networks,
    /// The other nodes and their tasks, for the networks that span nodes.
    pub overlay: Overlay,
    /// Statuses on their way to the manager.
    pub reporter: Arc<Reporter>,
    /// Name of this node in placeholders.
    pub hostname: String,
    /// Whether the other nodes have forgotten a task; nobody can be asked without a cluster.
    pub withdrawal: Option<Withdrawal>,
    /// How long a withdrawn task may finish what had been sent to it before its stop signal.
    pub drain: Duration,
    /// Brings images that this node lacks.
    pub images: Fetcher,
    /// The cluster's nodes.
    pub members: Members,
    /// When this node had contact with the managers last.
    pub contact: Contact,
}
