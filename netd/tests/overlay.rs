//! Networks that span nodes: real packets between containers of several nodes, and everything that goes wrong with such
//! networks elsewhere.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use common::cluster::{Cluster, Task};
use common::{call_udp, world};

/// Both over TCP and UDP; each sees the other's own address.
fn talk(from: &Task, to: &Task) {
    let said = format!("{} {}", to.id, from.address());
    assert_eq!(from.call(to.address(), 80).unwrap(), said);
    assert_eq!(call_udp(&from.netns, to.address(), 80).unwrap(), said);
}

#[test]
fn containers_of_all_nodes_talk_in_both_directions() {
    for v6 in [false, true] {
        world(|w| {
            let c = Cluster::new(w, &[1500, 1500, 1500], v6);
            let tasks = [
                c.task(0, "a", "10.9.0.10"),
                c.task(1, "b", "10.9.0.11"),
                c.task(2, "c", "10.9.1.12"),
            ];
            let _servers = tasks.each_ref().map(|task| task.serve(80, &task.id));
            for from in &tasks {
                for to in tasks.iter().filter(|to| to.id != from.id) {
                    talk(from, to);
                }
            }
        });
    }
}
