//! Volumes and tasks belong together: a task whose data is on a node goes back to that node.
//!
//! A named volume of the driver `local` is a directory of one node. Docker's scheduler does not look at it: a database
//! whose node is drained starts elsewhere on an empty volume of the same name. Here such a volume *binds* a task if the
//! data in it is the task's own:
//!
//! - the service has one replica (or is a job of one task): the data is the service's;
//! - or the volume's name holds `{{.Task.Slot}}`: each replica has a volume, and goes back to it.
//!
//! Several replicas that name one volume are not bound. On several nodes they never shared it: Docker makes one on each
//! node, so what is in it is a cache or a copy, and to bind them would put all replicas on one node in place of
//! spreading them. The same holds for services with one task on each node. Free are also anonymous volumes, other drivers, volumes
//! with options of a driver (the data is where `device` says), and those with the label `shoal.volume=free`.
//!
//! A bound task goes only to nodes that hold the volume; of several to the one that its slot had last, because that one
//! has the latest data. If no such node can take it, it waits and says where the data is. If no node holds the volume, it
//! goes anywhere, best to where its slot was before. A node holds a volume if it says so, or if a task with it is there:
//! two services that share a new volume come together.

use std::collections::HashMap;

use proto::spec::{Mount, MountType};
use proto::{Node, NodeId, Service, ServiceId, Task, Timestamp};

/// The label of a volume that says whether it binds tasks.
pub const LABEL: &str = "shoal.volume";
/// The label's value that lets tasks go anywhere.
pub const FREE: &str = "free";

/// Beginning of a label of a node: the volume whose name follows is on its way to the node that is the label's value.
/// Until it has arrived, tasks with it wait.
pub const LEAVING: &str = "shoal.volume.leaving.";

/// A slot of a service.
type Slot = (ServiceId, u64);

/// Which node holds which volume, and where slots with volumes were last.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    /// For how many reasons a node holds a volume.
    holders: HashMap<String, HashMap<NodeId, u32>>,
    last: HashMap<Slot, (Timestamp, NodeId)>,
    /// Volumes that are on their way from these nodes.
    leaving: HashMap<NodeId, Vec<String>>,
}

/// A local volume of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Local {
    name: String,
    /// Whether the name is the slot's own.
    of_slot: bool,
}

/// Whether the task has a volume of its own, which tasks that are else alike do not have.
pub(crate) fn has_own(task: &Task) -> bool {
    mounts(task).any(|mount| mount.source.contains("{{")) && locals(task).any(|local| local.of_slot)
}

/// The volumes that bind the task.
pub(crate) fn binding(task: &Task, service: Option<&Service>) -> Vec<String> {
    let single = task.slot != 0 && service.is_some_and(is_single);
    locals(task)
        .filter(|local| single || local.of_slot)
        .map(|local| local.name)
        .collect()
}

/// Whether the task has the volume mounted, whoever else may have it.
pub(crate) fn mounts_volume(task: &Task, volume: &str) -> bool {
    mounts(task)
        .filter_map(|mount| expand(&mount.source, task))
        .any(|local| local.name == volume)
}

fn is_single(service: &Service) -> bool {
    let job = service.spec.mode.replicated_job.as_ref();
    let count = job.map(|job| job.total_completions.unwrap_or(1));
    count
        .or_else(|| service.spec.mode.replicas())
        .is_some_and(|count| count <= 1)
}

impl Volumes {
    /// Learns of a node, and how it was known before.
    pub(crate) fn note_node(&mut self, old: Option<&Node>, new: Option<&Node>) {
        self.note_leaving(old, new);
        if let (Some(old), Some(new)) = (old, new)
            && old.description.volumes == new.description.volumes
        {
            return;
        }
        let names = |node: Option<&Node>| {
            node.map(|node| node.description.volumes.clone())
                .unwrap_or_default()
        };
        let Some(id) = new.or(old).map(|node| node.id.clone()) else {
            return;
        };
        names(new).into_iter().for_each(|name| self.hold(name, &id));
        names(old).iter().for_each(|name| self.release(name, &id));
    }

    /// A volume of the task that is on its way.
    pub(crate) fn on_its_way(&self, task: &Task) -> Option<&str> {
        let mut leaving = self.leaving.values().flatten();
        leaving
            .find(|volume| mounts_volume(task, volume))
            .map(String::as_str)
    }

    fn note_leaving(&mut self, old: Option<&Node>, new: Option<&Node>) {
        if let Some(old) = old {
            self.leaving.remove(&old.id);
        }
        let Some(node) = new else { return };
        let names = node
            .spec
            .labels
            .keys()
            .filter_map(|key| key.strip_prefix(LEAVING));
        let names: Vec<String> = names.map(str::to_owned).collect();
        if !names.is_empty() {
            self.leaving.insert(node.id.clone(), names);
        }
    }

    /// A task is placed on the node.
    pub(crate) fn place(&mut self, task: &Task, node: &NodeId) {
        for local in locals(task) {
            self.hold(local.name, node);
            self.remember(task, node);
        }
    }

    /// The task is on the node no more. What it has left there the node tells.
    pub(crate) fn unplace(&mut self, task: &Task, node: &NodeId) {
        locals(task).for_each(|local| self.release(&local.name, node));
    }

    /// A task that has ended, as an earlier manager left it: where it was is where its data is.
    pub(crate) fn recall(&mut self, task: &Task) {
        if !task.node_id.is_empty() && locals(task).next().is_some() {
            self.remember(task, &task.node_id);
        }
    }

    /// The service is gone; its volumes stay where they are.
    pub(crate) fn forget(&mut self, service: &ServiceId) {
        self.last.retain(|(of, _), _| of != service);
    }

    /// Where the task's slot was before.
    pub(crate) fn last(&self, task: &Task) -> Option<&NodeId> {
        self.last
            .get(&(task.service_id.clone(), task.slot))
            .map(|(_, node)| node)
    }

    /// The nodes that may take a task of the slot that `last` had, because of the volume; none if every node may.
    pub(crate) fn holders(&self, volume: &str, last: Option<&NodeId>) -> Vec<NodeId> {
        let Some(holders) = self.holders.get(volume) else {
            return Vec::new();
        };
        if let Some(last) = last.filter(|last| holders.contains_key(*last)) {
            return vec![last.clone()];
        }
        let mut nodes: Vec<_> = holders.keys().cloned().collect();
        nodes.sort();
        nodes
    }

    fn remember(&mut self, task: &Task, node: &NodeId) {
        let slot = (task.service_id.clone(), task.slot);
        let (made, last) = self.last.entry(slot).or_default();
        if task.meta.created_at >= *made {
            (*made, *last) = (task.meta.created_at, node.clone());
        }
    }

    fn hold(&mut self, volume: String, node: &NodeId) {
        *self
            .holders
            .entry(volume)
            .or_default()
            .entry(node.clone())
            .or_default() += 1;
    }

    fn release(&mut self, volume: &str, node: &NodeId) {
        let Some(holders) = self.holders.get_mut(volume) else {
            return;
        };
        if let Some(reasons) = holders.get_mut(node) {
            *reasons -= 1;
            if *reasons == 0 {
                holders.remove(node);
            }
        }
        if holders.is_empty() {
            self.holders.remove(volume);
        }
    }
}

fn mounts(task: &Task) -> impl Iterator<Item = &Mount> {
    let container = task.spec.container_spec.iter();
    container
        .flat_map(|container| &container.mounts)
        .filter(|mount| mount.kind == MountType::Volume && !mount.source.is_empty())
}

/// The task's named local volumes that are not free.
fn locals(task: &Task) -> impl Iterator<Item = Local> {
    mounts(task)
        .filter(|mount| !is_free(mount))
        .filter_map(|mount| expand(&mount.source, task))
}

fn is_free(mount: &Mount) -> bool {
    let Some(options) = &mount.volume_options else {
        return false;
    };
    let elsewhere = options
        .driver_config
        .as_ref()
        .is_some_and(|driver| !["", "local"].contains(&driver.name.as_str()) || !driver.options.is_empty());
    elsewhere || options.labels.get(LABEL).is_some_and(|value| value == FREE)
}

/// The volume's name; `None` if only the node can tell.
fn expand(source: &str, task: &Task) -> Option<Local> {
    if !source.contains("{{") {
        return Some(Local {
            name: source.to_owned(),
            of_slot: false,
        });
    }
    let mut name = source.to_owned();
    for (placeholder, value) in [
        (".Task.Slot", task.slot.to_string()),
        (".Service.Name", task.service_name.clone()),
    ] {
        for form in [
            format!("{{{{{placeholder}}}}}"),
            format!("{{{{ {placeholder} }}}}"),
        ] {
            name = name.replace(&form, &value);
        }
    }
    // In services with one task on each node the slot is the node.
    let of_slot = source.contains(".Task.Slot");
    let unknown = name.contains("{{") || (of_slot && task.slot == 0);
    (!unknown).then_some(Local { name, of_slot })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(source: &str) -> Task {
        let mount = Mount {
            source: source.into(),
            ..Mount::default()
        };
        let mut task = Task {
            slot: 3,
            service_name: "db".into(),
            service_id: "s".into(),
            ..Task::default()
        };
        std::sync::Arc::make_mut(&mut task.spec)
            .container_spec
            .get_or_insert_default()
            .mounts
            .push(mount);
        task
    }

    fn service(replicas: u64) -> Service {
        let mut service = Service::default();
        service.spec.mode = proto::spec::ServiceMode::replicated(replicas);
        service
    }

    #[test]
    fn the_only_replica_is_bound_and_several_are_not() {
        let names = |source, replicas| binding(&task(source), Some(&service(replicas)));
        assert_eq!(names("data", 1), ["data"]);
        assert!(names("data", 3).is_empty(), "a cache: replicas spread");
        assert!(names("", 1).is_empty(), "an anonymous volume");
        assert_eq!(names("data-{{.Task.Slot}}", 3), ["data-3"]);
        assert_eq!(names("{{ .Service.Name }}-{{.Task.Slot}}", 3), ["db-3"]);
        assert!(names("data-{{.Node.Hostname}}", 1).is_empty());
        assert!(binding(&task("data"), None).is_empty());
        let mut global = task("data");
        global.slot = 0;
        assert!(binding(&global, Some(&service(1))).is_empty());
        assert!(has_own(&task("data-{{.Task.Slot}}")) && !has_own(&task("data")));
    }

    #[test]
    fn volumes_that_hold_no_data_of_the_node_are_free() {
        let mut labelled = task("data");
        let options = |task: &mut Task| {
            let mount = &mut std::sync::Arc::make_mut(&mut task.spec)
                .container_spec
                .as_mut()
                .unwrap()
                .mounts[0];
            mount.volume_options.get_or_insert_default().clone()
        };
        let mut free = options(&mut labelled);
        free.labels.insert(LABEL.into(), FREE.into());
        let mut nfs = options(&mut labelled);
        let device = ("device".to_owned(), ":/export".to_owned());
        nfs.driver_config.get_or_insert_default().options.extend([device]);
        for options in [free, nfs] {
            let mut task = task("data");
            std::sync::Arc::make_mut(&mut task.spec)
                .container_spec
                .as_mut()
                .unwrap()
                .mounts[0]
                .volume_options = Some(options);
            assert!(binding(&task, Some(&service(1))).is_empty());
        }
    }

    #[test]
    fn the_node_that_the_slot_had_last_has_the_latest_data() {
        let (mut volumes, task) = (Volumes::default(), task("data"));
        let node = |id: &str, held: &[&str]| {
            let mut node = Node {
                id: id.into(),
                ..Node::default()
            };
            node.description.volumes = held.iter().map(|&name| name.to_owned()).collect();
            node
        };
        assert!(volumes.holders("data", None).is_empty());
        let (one, two) = (node("n1", &["data"]), node("n2", &["data", "other"]));
        volumes.note_node(None, Some(&one));
        volumes.note_node(None, Some(&two));
        assert_eq!(volumes.holders("data", None).len(), 2);
        volumes.place(&task, &"n2".into());
        volumes.unplace(&task, &"n2".into());
        assert_eq!(volumes.last(&task), Some(&NodeId::from("n2")));
        assert_eq!(volumes.holders("data", volumes.last(&task)), [NodeId::from("n2")]);
        volumes.note_node(Some(&two), Some(&node("n2", &["other"])));
        assert_eq!(
            volumes.holders("data", volumes.last(&task)),
            [NodeId::from("n1")],
            "it was moved"
        );
        volumes.note_node(Some(&one), None);
        assert!(volumes.holders("data", None).is_empty());
    }
}
