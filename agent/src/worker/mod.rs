//! The worker: takes assignments from a manager's dispatcher and makes containers of them.
//!
//! ```text
//! dispatcher ═Assignments═> session → Worker::apply ─┬ files, networks, directory (what tasks need)
//!                                                    └ one controller per task → engine, netd
//! controllers → reporter → session ═UpdateTaskStatus═> dispatcher
//! ```
//! - [`session`]: the conversation with the dispatcher, [`assignments`] what comes, [`reporter`] what goes
//! - [`controller`]: a task's life, decided by [`step`](step::step); [`plan`] and [`template`] turn its spec into a container
//! - [`attachments`]: places of containers that were started by hand on the cluster's networks
//! - [`lease`]: tasks that end when the managers are out of reach for too long
//! - [`inventory`]: the volumes that tasks may come back to
//! - [`preview`]: whether the tasks of a service could become containers at all, asked before it is taken in
//! - [`directory`]: which tasks receive traffic, [`withdrawal`]: whether the other nodes have forgotten one; [`networks`], [`files`]: what containers need
//!
//! Dropping a [`Worker`] stops no container: the next one finds them by their tasks.

pub mod assignments;
pub mod attachments;
pub mod controller;
pub mod directory;
pub mod files;
pub mod inventory;
pub mod lease;
pub mod networks;
pub mod overlay;
pub mod plan;
pub mod preview;
pub mod reporter;
pub mod session;
#[cfg(test)]
mod session_tests;
pub mod shared;
pub mod step;
mod tasks;
pub mod template;
pub mod withdrawal;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use manager::remote::NodeChannel;
use netd::Netd;
use proto::NodeId;
use proto::object::{DataPath, NodeDescription};
use proto::spec::NodeRole;
use proto::wire::dispatcher_client::DispatcherClient;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use crate::engine::Engine;
use crate::peer::{Members, Peers};
use crate::transfer::Fetcher;
use attachments::Attachments;
use shared::Shared;
use tasks::Tasks;
use withdrawal::Withdrawal;

/// What a worker is and works with.
#[derive(Debug)]
pub struct WorkerConfig {
    /// Who this node is.
    pub node_id: NodeId,
    /// What it says about itself.
    pub description: NodeDescription,
    /// Makes and runs containers.
    pub engine: Arc<Engine>,
    /// The node's network.
    pub netd: Arc<Netd>,
    /// The manager's dispatcher.
    pub dispatcher: DispatcherClient<NodeChannel>,
    /// How networks between nodes reach this one.
    pub data_path: watch::Receiver<DataPath>,
    /// What this host reaches otherwise than by the cluster's networks.
    pub subnets: watch::Receiver<Vec<String>>,
    /// The address under which it shall be known to the other nodes; by default that from which it speaks.
    pub advertised: Option<IpAddr>,
    /// How long a withdrawn task may finish what had been sent to it before its stop signal.
    pub drain: Duration,
    /// The other nodes: is told which they are.
    pub peers: Arc<Peers>,
}

/// A node at work.
#[derive(Debug)]
pub struct Worker {
    tasks: Arc<Tasks>,
    session: JoinHandle<()>,
    _leases: AbortOnDropHandle<()>,
    trouble: watch::Receiver<String>,
    role: watch::Receiver<Option<NodeRole>>,
}

impl Worker {
    /// Begins to hold sessions and to act on assignments.
    pub fn start(config: WorkerConfig) -> Self {
        let reporter = Arc::new(reporter::Reporter::default());
        let images = Fetcher::new(config.engine.config().storage.clone(), config.peers.clone());
        let volumes = inventory::volumes(&config.engine.config().storage);
        let session: watch::Sender<Option<String>> = watch::Sender::default();
        let contact = watch::Sender::default();
        let leases = lease::keep(config.engine.clone(), contact.subscribe());
        let shared = Arc::new(Shared {
            engine: config.engine,
            directory: directory::Directory::new(config.netd.clone(), config.node_id.clone()),
            files: files::Files::default(),
            networks: networks::Networks::new(config.netd.clone()),
            overlay: overlay::Overlay::new(
                config.netd,
                config.node_id.clone(),
                config.peers.members().clone(),
            ),
            reporter: reporter.clone(),
            hostname: config.description.hostname.clone(),
            withdrawal: Some(Withdrawal::new(config.dispatcher.clone(), session.subscribe())),
            drain: config.drain,
            members: config.peers.members().clone(),
            images,
            contact: contact.subscribe(),
        });
        let trouble = watch::Sender::default();
        let attachments = Arc::new(Attachments::new(
            shared.clone(),
            config.dispatcher.clone(),
            session.subscribe(),
            trouble.subscribe(),
        ));
        shared.engine.set_cluster_networks(attachments.clone());
        let tasks = Arc::new(Tasks::new(shared, Some(attachments)));
        let sessions = session::Sessions {
            node_id: config.node_id,
            advertised: config.advertised,
            description: config.description,
            volumes,
            data_path: config.data_path,
            subnets: config.subnets,
            client: config.dispatcher,
            reporter,
            sink: tasks.clone(),
            trouble,
            role: watch::Sender::default(),
            session,
            contact,
        };
        let (trouble, role) = (sessions.trouble.subscribe(), sessions.role.subscribe());
        Self {
            tasks,
            session: tokio::spawn(sessions.run()),
            _leases: AbortOnDropHandle::new(tokio::spawn(leases)),
            trouble,
            role,
        }
    }

    /// Why there is no session with a manager; empty while there is one.
    pub fn trouble(&self) -> watch::Receiver<String> {
        self.trouble.clone()
    }

    /// What the managers want this node to be; unknown before the first session.
    pub fn role(&self) -> watch::Receiver<Option<NodeRole>> {
        self.role.clone()
    }

    /// Ends the session for good; containers and their controllers stay.
    pub fn fall_silent(&self) {
        self.session.abort();
    }

    /// Ends the session and removes every task with its container, service and network: the node leaves its cluster.
    pub async fn leave(self) {
        self.session.abort();
        // The cluster knows already that everything of this node is gone.
        self.tasks.stop_asking();
        self.tasks.give_up_everything().await;
    }
}

/// Removes what an earlier process has left of a cluster that this node is no longer part of: it may have died while it
/// was leaving.
pub async fn clean_up(engine: Arc<Engine>, netd: Arc<Netd>) {
    let peers = Arc::default();
    let shared = Shared {
        images: Fetcher::new(engine.config().storage.clone(), peers),
        engine,
        directory: directory::Directory::new(netd.clone(), NodeId::default()),
        files: files::Files::default(),
        networks: networks::Networks::new(netd.clone()),
        overlay: overlay::Overlay::new(netd, NodeId::default(), Members::default()),
        reporter: Arc::default(),
        hostname: String::new(),
        withdrawal: None,
        drain: Duration::ZERO,
        members: Members::default(),
        contact: watch::channel(None).1,
    };
    Tasks::new(Arc::new(shared), None).give_up_everything().await;
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.session.abort();
        self.tasks.stop_asking();
        self.tasks.abandon();
    }
}
