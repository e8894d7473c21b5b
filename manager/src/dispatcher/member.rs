//! Where the tasks of other nodes are, as a node must know that shares a network with them.
//!
//! From the moment that a task has a node its addresses are in use, and until it has ended connections to it may be open.
//! Whether it answers for its service is another matter: see `endpoint`.

use proto::object::{MemberAttachment, NetworkAttachment, NetworkMember};
use proto::{NetworkId, Task, TaskState};

/// The task, on the networks of which `known` holds; `None` if it is on none of them.
pub(super) fn of(task: &Task, known: impl Fn(&NetworkId) -> bool) -> Option<NetworkMember> {
    if !is_member(task) {
        return None;
    }
    let attachments = task.networks_attachments.iter();
    let attachments: Vec<_> = attachments
        .filter(|on| known(&on.network.id))
        .map(|on| attachment(task, on))
        .collect();
    (!attachments.is_empty()).then(|| NetworkMember {
        task_id: task.id.clone(),
        node_id: task.node_id.clone(),
        attachments,
    })
}

/// Whether the task is to be found on its networks: it has a node, and has not ended.
pub(super) fn is_member(task: &Task) -> bool {
    !task.node_id.is_empty()
        && !task.networks_attachments.is_empty()
        && task.status.state >= TaskState::Assigned
        && !task.status.state.is_terminal()
}

/// Whether nodes that know the one task must be told of the other.
pub(super) fn moved(one: Option<&Task>, two: Option<&Task>) -> bool {
    let one = one.filter(|task| is_member(task));
    let two = two.filter(|task| is_member(task));
    match (one, two) {
        (Some(one), Some(two)) => {
            !same_places(&one.networks_attachments, &two.networks_attachments)
                || leaves_its_address(one) != leaves_its_address(two)
        }
        (one, two) => one.is_some() != two.is_some(),
    }
}

/// Whether the task shall stop and its address goes to the task that replaces it: if its node is lost, at once.
pub(super) fn leaves_its_address(task: &Task) -> bool {
    task.desired_state > TaskState::Complete && task.spec.has_fixed_address()
}

fn same_places(one: &[NetworkAttachment], two: &[NetworkAttachment]) -> bool {
    let same = |one: &NetworkAttachment, two: &NetworkAttachment| {
        one.network.id == two.network.id && one.addresses == two.addresses
    };
    one.len() == two.len() && one.iter().zip(two).all(|(one, two)| same(one, two))
}

fn attachment(task: &Task, on: &NetworkAttachment) -> MemberAttachment {
    let bare = |address: &String| address.split('/').next()?.parse().ok();
    let container = task.attachment();
    MemberAttachment {
        network_id: on.network.id.clone(),
        addresses: on.addresses.iter().filter_map(bare).collect(),
        // A service's task is found through its service.
        names: container.map(|_| on.aliases.clone()).unwrap_or_default(),
        mac_address: container
            .map(|container| container.mac_address.clone())
            .unwrap_or_default(),
    }
}
