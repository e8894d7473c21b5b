//! Volumes that move from one node to another, as far as the managers have a part in it: their tasks are held.
//!
//! A label of the node that gives the volume away says so, for as long as it takes: it outlives the leader, and the
//! scheduler lets tasks with the volume wait while it is there.

use std::sync::Arc;

use proto::object::NodeState;
use proto::spec::Availability;
use proto::{Node, Task, TaskState};

use super::{Control, ControlError, Result, lookup};
use crate::scheduler::volumes::{LEAVING, mounts_volume};
use crate::state::{Filter, Key, Kind, Reader, WriteTx};

/// A volume on its way.
#[derive(Debug, Clone)]
pub struct VolumeMove {
    /// Its name.
    pub volume: String,
    /// The node that gives it, as it was when the move began.
    pub from: Arc<Node>,
    /// The node that gets it.
    pub to: Arc<Node>,
}

impl VolumeMove {
    /// Whether an earlier attempt has moved it already, and only the end is missing.
    pub fn is_done(&self) -> bool {
        holds(&self.to, &self.volume) && !holds(&self.from, &self.volume)
    }

    fn label(&self) -> String {
        label(&self.volume)
    }
}

impl Control {
    /// Begins to move a volume to a node, or goes on with a move that was interrupted. `from` may be left out where only
    /// one node has the volume.
    ///
    /// # Errors
    /// [`ControlError::FailedPrecondition`] where a node cannot take part, [`ControlError::InvalidArgument`] where the
    /// volume is on none or several, and those of [`Self::node`].
    pub async fn begin_volume_move(&self, volume: &str, from: Option<&str>, to: &str) -> Result<VolumeMove> {
        self.store
            .update(|tx| {
                let to = lookup::object::<Node>(tx, to)?;
                let from = source(tx, volume, from, &to)?;
                check(volume, &from, &to)?;
                let moving = VolumeMove {
                    volume: volume.to_owned(),
                    from,
                    to,
                };
                let (key, value) = (moving.label(), moving.to.id.to_string());
                tx.modify(&moving.from.id, |node: &mut Node| {
                    node.spec.labels.insert(key, value);
                })?;
                Ok::<_, ControlError>(moving)
            })
            .await
    }

    /// Stops the tasks that use the volume on both nodes; returns when they have stopped.
    ///
    /// # Errors
    /// [`ControlError::FailedPrecondition`] when one of the nodes is lost meanwhile.
    pub async fn stop_volume_users(&self, moving: &VolumeMove) -> Result<()> {
        let filter = Filter::kinds(&[Kind::Task, Kind::Node]);
        let ((), mut events) = self.store.view_and_watch(filter, |_| ());
        loop {
            let users = self.volume_users(moving)?;
            if users.is_empty() {
                return Ok(());
            }
            // The scheduler may have placed one while the move began.
            let wanted = users
                .iter()
                .filter(|task| task.desired_state < TaskState::Shutdown);
            let wanted: Vec<_> = wanted.map(|task| task.id.clone()).collect();
            if !wanted.is_empty() {
                let stop = |task: &mut Task| task.desired_state = task.desired_state.max(TaskState::Shutdown);
                let stopped = self.store.update(|tx| {
                    let mut all = wanted.iter();
                    all.try_for_each(|id| tx.modify(id, stop))
                });
                stopped.await?;
            }
            events.next().await.ok_or_else(closing)?;
        }
    }

    /// Returns when the nodes say that the volume has come and gone.
    ///
    /// # Errors
    /// [`ControlError::NotFound`] when one of them is removed.
    pub async fn volume_has_moved(&self, moving: &VolumeMove) -> Result<()> {
        let ((), mut events) = self.store.view_and_watch(Filter::kinds(&[Kind::Node]), |_| ());
        loop {
            let (from, to) = (
                self.node(moving.from.id.as_str())?,
                self.node(moving.to.id.as_str())?,
            );
            if holds(&to, &moving.volume) && !holds(&from, &moving.volume) {
                return Ok(());
            }
            events.next().await.ok_or_else(closing)?;
        }
    }

    /// The tasks may go on, wherever the volume is now.
    ///
    /// # Errors
    /// [`ControlError::Unavailable`].
    pub async fn end_volume_move(&self, moving: &VolumeMove) -> Result<()> {
        let key = moving.label();
        self.store
            .update(|tx| match tx.get::<Node>(&moving.from.id) {
                // A node that was removed holds nothing any more.
                None => Ok(()),
                Some(_) => Ok::<_, ControlError>(tx.modify(&moving.from.id, |node: &mut Node| {
                    node.spec.labels.remove(&key);
                })?),
            })
            .await
    }

    /// The tasks with the volume that have not ended on the two nodes.
    fn volume_users(&self, moving: &VolumeMove) -> Result<Vec<Arc<Task>>> {
        for node in [&moving.from, &moving.to] {
            ready(&*self.node(node.id.as_str())?)?;
        }
        Ok(self.store.view(|tx| {
            let nodes = [&moving.from.id, &moving.to.id];
            let tasks = nodes.map(|id| tx.by_key::<Task>(Key::Node(id.to_string())));
            let mut tasks = tasks.concat();
            tasks.retain(|task| !task.status.state.is_terminal() && mounts_volume(task, &moving.volume));
            tasks
        }))
    }
}

/// The node that has the volume: the one that was said, the one that is giving it away, or the only one.
fn source(tx: &WriteTx<'_>, volume: &str, from: Option<&str>, to: &Node) -> Result<Arc<Node>> {
    let key = label(volume);
    if let Some(from) = from {
        let from = lookup::object::<Node>(tx, from)?;
        return match holds(&from, volume) || from.spec.labels.contains_key(&key) {
            true => Ok(from),
            false => Err(ControlError::invalid(format!(
                "node {} has no volume {volume}",
                name(&from)
            ))),
        };
    }
    let nodes = tx.all::<Node>();
    if let Some(giving) = nodes.iter().find(|node| node.spec.labels.contains_key(&key)) {
        return Ok(giving.clone());
    }
    let having: Vec<&Arc<Node>> = nodes.iter().filter(|node| holds(node, volume)).collect();
    let others: Vec<&Arc<Node>> = having.iter().copied().filter(|node| node.id != to.id).collect();
    match others.as_slice() {
        [only] => Ok((*only).clone()),
        [] if having.is_empty() => Err(ControlError::invalid(format!("no node has a volume {volume}"))),
        [] => Err(precondition(format!(
            "volume {volume} is on node {} already",
            name(to)
        ))),
        several => {
            let names: Vec<&str> = several.iter().map(|node| name(node)).collect();
            Err(ControlError::invalid(format!(
                "volume {volume} is on several nodes ({}): say from which with --from",
                names.join(", ")
            )))
        }
    }
}

fn check(volume: &str, from: &Node, to: &Node) -> Result<()> {
    if from.id == to.id {
        return Err(precondition(format!(
            "volume {volume} is on node {} already",
            name(to)
        )));
    }
    let other = from
        .spec
        .labels
        .get(&label(volume))
        .filter(|id| **id != to.id.to_string());
    if let Some(id) = other {
        return Err(precondition(format!(
            "volume {volume} is on its way to node {id}: finish that first, with `volume mv {volume} {id}`"
        )));
    }
    ready(from)?;
    ready(to)?;
    match to.spec.availability {
        Availability::Active => Ok(()),
        other => Err(precondition(format!(
            "node {} is not available for tasks: its availability is {other}",
            name(to)
        ))),
    }
}

fn ready(node: &Node) -> Result<()> {
    match node.status.state {
        NodeState::Ready => Ok(()),
        state => Err(precondition(format!("node {} is {state}", name(node)))),
    }
}

fn holds(node: &Node, volume: &str) -> bool {
    node.description.volumes.iter().any(|held| held == volume)
}

fn label(volume: &str) -> String {
    format!("{LEAVING}{volume}")
}

fn name(node: &Node) -> &str {
    match node.description.hostname.as_str() {
        "" => node.id.as_str(),
        hostname => hostname,
    }
}

fn precondition(text: String) -> ControlError {
    ControlError::FailedPrecondition(text)
}

fn closing() -> ControlError {
    precondition("this manager is ending".to_owned())
}

#[cfg(test)]
mod tests {
    use proto::spec::{ContainerSpec, Mount};

    use super::*;
    use crate::state::Store;

    async fn cluster(nodes: &[(&str, &[&str])]) -> Control {
        let control = Control::new(Store::in_memory());
        for (id, volumes) in nodes {
            let mut node = Node {
                id: (*id).into(),
                ..Node::default()
            };
            node.status.state = NodeState::Ready;
            node.description.hostname = format!("host-{id}");
            node.description.volumes = volumes.iter().map(|&name| name.to_owned()).collect();
            control.store.update(|tx| tx.create(node)).await.unwrap();
        }
        control
    }

    async fn refused(control: &Control, from: Option<&str>, to: &str) -> String {
        let begun = control.begin_volume_move("data", from, to).await;
        begun.unwrap_err().to_string()
    }

    async fn change(control: &Control, id: &str, change: impl Fn(&mut Node)) {
        control.store.update(|tx| tx.modify(id, change)).await.unwrap();
    }

    #[tokio::test]
    async fn a_move_that_cannot_be_is_refused_by_name() {
        let control = cluster(&[("a", &["data"]), ("b", &["data"]), ("c", &[])]).await;
        let several = "volume data is on several nodes (host-a, host-b): say from which with --from";
        assert_eq!(refused(&control, None, "c").await, several);
        assert_eq!(
            refused(&control, Some("c"), "a").await,
            "node host-c has no volume data"
        );
        assert_eq!(
            refused(&control, Some("a"), "a").await,
            "volume data is on node host-a already"
        );
        let none = control.begin_volume_move("none", None, "a").await.unwrap_err();
        assert_eq!(none.to_string(), "no node has a volume none");
        change(&control, "c", |node| node.spec.availability = Availability::Drain).await;
        assert!(
            refused(&control, Some("a"), "c")
                .await
                .contains("availability is drain")
        );
        change(&control, "c", |node| node.status.state = NodeState::Down).await;
        assert_eq!(refused(&control, Some("a"), "c").await, "node host-c is down");
        for node in control.nodes() {
            assert!(node.spec.labels.is_empty(), "a refusal holds tasks");
        }
    }

    #[tokio::test]
    async fn a_move_that_was_interrupted_goes_on_and_ends() {
        let control = cluster(&[("a", &["data"]), ("b", &[]), ("c", &[])]).await;
        let moving = control.begin_volume_move("data", None, "host-b").await.unwrap();
        assert!(!moving.is_done());
        assert!(
            refused(&control, None, "c")
                .await
                .contains("on its way to node b")
        );
        let waiting = {
            let (control, moving) = (control.clone(), moving.clone());
            tokio::spawn(async move { control.volume_has_moved(&moving).await })
        };
        change(&control, "b", |node| {
            node.description.volumes = vec!["data".into()]
        })
        .await;
        change(&control, "a", |node| node.description.volumes.clear()).await;
        waiting.await.unwrap().unwrap();
        let again = control.begin_volume_move("data", None, "b").await.unwrap();
        assert!(again.is_done() && again.from.id == moving.from.id);
        control.end_volume_move(&again).await.unwrap();
        assert!(control.node("a").unwrap().spec.labels.is_empty());
        assert_eq!(
            refused(&control, None, "b").await,
            "volume data is on node host-b already"
        );
    }

    #[tokio::test]
    async fn tasks_of_the_volume_are_stopped_and_awaited_and_no_others() {
        let control = cluster(&[("a", &["data"]), ("b", &[])]).await;
        let task = |id: &str, volume: &str| {
            let mount = Mount {
                source: volume.into(),
                ..Mount::default()
            };
            let mut task = Task {
                id: id.into(),
                node_id: "a".into(),
                desired_state: TaskState::Running,
                ..Task::default()
            };
            task.status.state = TaskState::Running;
            Arc::make_mut(&mut task.spec).container_spec = Some(ContainerSpec {
                mounts: vec![mount],
                ..ContainerSpec::default()
            });
            task
        };
        let (user, other) = (task("user", "data"), task("other", "more"));
        let made = control
            .store
            .update(|tx| tx.create(user).and_then(|()| tx.create(other)));
        made.await.unwrap();
        let moving = control.begin_volume_move("data", None, "b").await.unwrap();
        let mut stopping = Box::pin(control.stop_volume_users(&moving));
        for _ in 0..10 {
            assert!(futures::poll!(&mut stopping).is_pending());
            tokio::task::yield_now().await;
        }
        assert_eq!(control.task("user").unwrap().desired_state, TaskState::Shutdown);
        assert_eq!(control.task("other").unwrap().desired_state, TaskState::Running);
        let ended = |task: &mut Task| task.status.state = TaskState::Shutdown;
        control.store.update(|tx| tx.modify("user", ended)).await.unwrap();
        stopping.await.unwrap();
    }
}
