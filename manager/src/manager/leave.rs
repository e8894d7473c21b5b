//! How a manager ends as one: it leaves, becomes a worker, or goes on alone.

use std::sync::Arc;
use std::time::Duration;

use proto::object::Reachability;
use proto::spec::NodeRole;
use proto::wire::LeaveManagersRequest;
use proto::wire::managers_client::ManagersClient;
use proto::{Cluster, Node};
use tokio::time::{sleep, timeout};

use super::record::{self, Record};
use super::{
    Ground, InitRequest, Leader, Manager, ManagerConfig, ManagerError, bind, birth, member, raft_dir,
};
use crate::ca::Identity;
use crate::files::chain;
use crate::remote::{self, Joined, Kept, RemoteManager, explain};
use crate::state::consensus::Consensus;
use crate::state::{Reader, StoreError};
use crate::vault::Vault;

/// How long a manager that leaves waits for the others to let it go.
const FAREWELL: Duration = Duration::from_secs(5);
/// Between two attempts to get a worker's certificate.
const RETRY: Duration = Duration::from_secs(1);

impl Manager {
    /// Leaves the cluster and removes everything that was kept of it. The other managers, if they can spare this one, go on
    /// as a smaller group.
    ///
    /// # Errors
    /// [`ManagerError::Leaving`] without `force`, and those of the files.
    pub async fn leave(&self, force: bool) -> Result<(), ManagerError> {
        if !force {
            return Err(ManagerError::Leaving(self.warning()));
        }
        if self.seat.consensus().members().len() > 1 {
            match timeout(FAREWELL, self.say_good_bye()).await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => tracing::warn!("the other managers still count this one: {why}"),
                Err(_) => tracing::warn!("the other managers still count this one: no answer in time"),
            }
        }
        self.shutdown().await;
        Ok(record::erase(&self.config.state_dir)?)
    }

    /// Tells the leader that this manager goes.
    async fn say_good_bye(&self) -> Result<(), String> {
        if self.leader() == Leader::This {
            if !self.seat.consensus().can_spare(self.record.member) {
                return Err("they are too few without it".to_owned());
            }
            let marked = self
                .store
                .update(|tx| tx.modify(&self.record.node_id, Node::leave))
                .await;
            marked.map_err(|error: StoreError| chain(&error))?;
            let left = self.seat.consensus().remove(self.record.member).await;
            return left.map_err(|error| chain(&error));
        }
        let leader = self.seat.await_leader().await;
        let mut client = ManagersClient::new(self.wire.line(&leader));
        let left = client.leave(LeaveManagersRequest {}).await;
        left.map(drop).map_err(|status| explain(&status))
    }

    /// What leaving would do to the cluster.
    fn warning(&self) -> String {
        let nodes = self.store.view(|tx| tx.all::<Node>());
        let managers = nodes.iter().filter_map(|node| node.manager_status.as_ref());
        let total = managers.clone().count();
        let reachable = managers
            .filter(|status| status.reachability == Reachability::Reachable)
            .count();
        if total <= 1 {
            return "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this \
                    message."
                .to_owned();
        }
        let loses = match reachable.saturating_sub(1) * 2 > total {
            true => String::new(),
            false => format!(
                "Removing this node leaves {} managers out of {total}. Without a Raft quorum your swarm will be \
                 inaccessible. ",
                reachable.saturating_sub(1)
            ),
        };
        format!(
            "{loses}The only way to restore a swarm that has lost consensus is to reinitialize it with \
             `--force-new-cluster`. Use `--force` to suppress this message."
        )
    }

    /// Makes a worker of this manager's node, once the managers that are left have given it a worker's certificate. Asks
    /// until they do. The manager has ended then.
    ///
    /// # Errors
    /// Those of the files.
    pub async fn become_worker(&self) -> Result<(), ManagerError> {
        let state_dir = &self.config.state_dir;
        self.prepare_worker()?;
        loop {
            match remote::renew(state_dir).await {
                Ok(NodeRole::Worker) => break,
                Ok(NodeRole::Manager) => tracing::debug!("this node is still to be a manager"),
                Err(error) => {
                    let error = chain(&error);
                    tracing::info!(error, "no worker's certificate yet");
                }
            }
            sleep(RETRY).await;
        }
        self.shutdown().await;
        Ok(record::shed(state_dir)?)
    }

    /// Writes what a worker has, with the certificate of a manager.
    fn prepare_worker(&self) -> Result<(), ManagerError> {
        let dir = self.config.state_dir.join("certificates");
        let found = Identity::find(&dir, &self.vault)?;
        let (root, signed) = found.ok_or_else(|| ManagerError::Damaged(dir.clone()))?;
        let cluster = self.store.view(|tx| tx.all::<Cluster>().into_iter().next());
        let cluster = cluster.ok_or(ManagerError::NoLeader)?;
        let address = member_address(&self.record)?;
        let joined = Joined {
            cluster: cluster.id.clone(),
            node: self.record.node_id.clone(),
            role: NodeRole::Manager,
            address: address.ip(),
            managers: self.others(),
        };
        let credentials = Kept {
            root,
            cert: signed.cert,
            key: signed.key,
        };
        Ok(remote::adopt(&self.config.state_dir, &joined, &credentials)?)
    }

    fn others(&self) -> Vec<RemoteManager> {
        let members = self
            .seat
            .consensus()
            .members()
            .into_iter()
            .map(|state| state.member);
        let nodes = self.store.view(|tx| tx.all::<Node>());
        let shown = nodes.iter().filter_map(|node| {
            let status = node.manager_status.as_ref()?;
            Some((node.id.clone(), status.addr.clone()))
        });
        let known = members.map(|member| (member.node, member.address)).chain(shown);
        let mut others: Vec<RemoteManager> = Vec::new();
        for (node, address) in known.filter(|(node, _)| *node != self.record.node_id) {
            if let Ok(address) = address.parse()
                && others.iter().all(|other| other.node != node)
            {
                others.push(RemoteManager { node, address });
            }
        }
        others
    }

    /// Makes a cluster of one of what the directory's manager has kept: the others are lost. Services, networks and nodes
    /// stay; the other managers' nodes are workers' from then on.
    ///
    /// # Errors
    /// [`ManagerError::Missing`], [`ManagerError::Invalid`], and those of the files.
    pub async fn rescue(config: ManagerConfig, request: &InitRequest) -> Result<Arc<Self>, ManagerError> {
        let mut record = Record::load(&config.state_dir)?.ok_or(ManagerError::Missing)?;
        readdress(&mut record, request)?;
        let (listener, _) = bind(record.listen).await?;
        let ground = Ground {
            vault: Vault::open(&raft_dir(&config.state_dir), None)?,
            record: record.clone(),
            wire: Arc::default(),
            config: config.clone(),
            listener,
        };
        Consensus::rescue(&ground.consensus()).await?;
        record.save(&config.state_dir)?;
        drop(ground);
        let manager = Self::open(config).await?;
        manager.forget_other_managers().await?;
        Ok(manager)
    }

    async fn forget_other_managers(&self) -> Result<(), StoreError> {
        let own = &self.record.node_id;
        let update = self.store.update(|tx| {
            for node in tx.all::<Node>() {
                if node.id != *own && node.spec.role == NodeRole::Manager {
                    tx.modify(&node.id, |node: &mut Node| {
                        node.spec.role = NodeRole::Worker;
                        node.manager_status = None;
                    })?;
                }
            }
            Ok(())
        });
        update.await
    }
}

fn member_address(record: &Record) -> Result<std::net::SocketAddr, ManagerError> {
    let parsed = member(record).address.parse();
    parsed
        .map_err(|_| ManagerError::Invalid(format!("{:?} is not an IP address with a port", record.address)))
}

/// Takes over the addresses that the request says.
fn readdress(record: &mut Record, request: &InitRequest) -> Result<(), ManagerError> {
    if !request.listen_addr.is_empty() {
        record.listen = birth::listen_address(&request.listen_addr)?;
    }
    if !request.advertise_addr.is_empty() {
        record.address = birth::address(&request.advertise_addr, record.listen.port())?.to_string();
    }
    Ok(())
}
