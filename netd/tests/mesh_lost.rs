//! Connections through published ports to tasks on nodes that are lost: the client is refused when it goes on.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use common::mesh::{Mesh, Task, WEB, connect, echo, say};
use common::world;

/// Two connections through the third node, over both IP versions.
fn both_versions(mesh: &Mesh) -> [TcpStream; 2] {
    let door = mesh.node(3);
    let both: [IpAddr; 2] = [door.address().into(), door.address6().into()];
    both.map(|address| {
        let mut stream = connect(&mesh.nodes.client, address, WEB);
        say(&mut stream, "before");
        stream
    })
}

fn set_lost(mesh: &Mesh, number: u8, nodes: &[&str]) {
    let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
    mesh.node(number).wait(mesh.netd(number).set_lost(nodes)).unwrap();
}

/// It goes on, and is told that nobody knows the connection.
fn is_refused(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"on").unwrap();
    let error = stream.read(&mut [0; 8]).expect_err("nobody answers");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_client_of_a_task_on_a_lost_node_is_refused_when_it_goes_on() {
    world(|_| {
        let mesh = Mesh::new(3);
        let (lost, other) = (Task::new(1, 5), Task::new(2, 6));
        let (a, b) = (mesh.attach(&lost), mesh.attach(&other));
        echo(&a.netns, 80);
        echo(&b.netns, 80);
        // With another task that takes over, and without.
        for left in [&[other][..], &[]] {
            mesh.publish(std::slice::from_ref(&lost));
            let mut streams = both_versions(&mesh);
            mesh.publish_on(3, left);
            streams
                .iter_mut()
                .for_each(|stream| say(stream, "withdrawn alone"));
            set_lost(&mesh, 3, &["n1"]);
            streams.iter_mut().for_each(is_refused);
            set_lost(&mesh, 3, &[]);
        }
    });
}

#[test]
fn connections_to_other_nodes_and_to_the_nodes_own_tasks_go_on() {
    world(|_| {
        let (mesh, _server) = Mesh::echoing(3);
        let mut streams = both_versions(&mesh);
        let own = mesh.node(1).address();
        let mut near = connect(&mesh.nodes.client, own, WEB);
        say(&mut near, "before");
        set_lost(&mesh, 3, &["n2"]);
        set_lost(&mesh, 1, &["n3", "n2"]);
        streams.iter_mut().for_each(|stream| say(stream, "after"));
        say(&mut near, "after");
    });
}
