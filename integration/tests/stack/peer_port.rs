//! The port between nodes: who is heard there, and who is not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::node_client::{Caller, PORT};
use integration::{Cluster, eventually};

const MANAGER: &str = "10.99.0.1";
const WORKER: &str = "10.99.0.3";

fn id(cluster: &Cluster, name: &str) -> Result<String> {
    let node = cluster.node(name)?;
    Ok(node["ID"].as_str().context("a node without ID")?.to_owned())
}

/// What only managers may ask.
const MANAGERS_ONLY: &[(&str, &str)] = &[
    ("GET", "/v1/logs?service=x&stdout=1"),
    ("GET", "/v1/events?until=1"),
    ("POST", "/v1/tasks/x/exec"),
    ("GET", "/api/v1.44/services"),
    ("POST", "/api/swarm/update"),
    ("GET", "/api/containers/json"),
];

#[test]
fn a_worker_is_heard_as_a_worker_until_it_is_removed() -> Result<()> {
    let cluster = Cluster::joined(3)?;
    let nodes = [
        (MANAGER, id(&cluster, "node1")?),
        (WORKER, id(&cluster, "node3")?),
    ];
    let worker = Caller::of(cluster.worker());
    for (address, id) in &nodes {
        let answer = eventually("the node knows the other", || {
            let (status, text) = worker.call(address, id, "GET", "/v1/ping")?;
            ensure!(status == 200, "{text}");
            Ok(text)
        })?;
        assert!(answer.contains(id), "{answer}");
        for (method, path) in MANAGERS_ONLY {
            let (status, text) = worker.call(address, id, method, path)?;
            assert_eq!(status, 403, "{method} {path} at {address}: {text}");
            assert!(text.contains("the node's role does not allow this"), "{text}");
        }
        assert_eq!(worker.call(address, id, "GET", "/v1/nosuch")?.0, 404);
    }

    let me = id(&cluster, "node2")?;
    cluster.manager().cli_ok(&["node", "rm", "--force", &me])?;
    for (address, id) in &nodes {
        eventually("the removed node is refused", || {
            let (status, text) = worker.call(address, id, "GET", "/v1/ping")?;
            ensure!(status == 403, "{text}");
            ensure!(text.contains("is not part of the cluster"), "{text}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn strangers_are_not_heard_and_keep_nobody_out() -> Result<()> {
    let cluster = Cluster::joined(3)?;
    let other = Cluster::joined(2)?;
    let target = id(&cluster, "node3")?;
    let worker = Caller::of(cluster.worker());
    eventually("the worker is heard", || {
        let (status, text) = worker.call(WORKER, &target, "GET", "/v1/ping")?;
        ensure!(status == 200, "{text}");
        Ok(())
    })?;
    let nobody = Caller {
        shown: None,
        ..worker
    };
    let foreign = Caller {
        shown: Some(other.worker()),
        ..worker
    };
    for stranger in [nobody, foreign] {
        let heard = stranger.call(WORKER, &target, "GET", "/v1/ping");
        assert!(heard.is_err(), "a stranger is heard: {heard:?}");
    }
    // Nor is the other's node believed to be this one.
    let wrong = worker.call(WORKER, &id(&cluster, "node1")?, "GET", "/v1/ping");
    assert!(wrong.is_err(), "one node is taken for another: {wrong:?}");

    let silent = cluster.worker().host.enter(|| -> Result<Vec<TcpStream>> {
        let mut streams = Vec::new();
        for number in 0..300 {
            let mut stream = TcpStream::connect((WORKER, PORT))?;
            if number % 3 == 0 {
                // Who has been sent away already does not hear it.
                let _ = stream.write_all(b"GET /v1/ping HTTP/1.1\r\nHost: x\r\n\r\n");
            }
            streams.push(stream);
        }
        Ok(streams)
    })??;
    // From another machine, while the strangers are still there.
    let third = Caller::of(&cluster.nodes[2]);
    let (status, text) = third.call(WORKER, &target, "GET", "/v1/ping")?;
    assert_eq!(status, 200, "{text}");
    for mut stream in silent {
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut heard = Vec::new();
        // Reset or closed; a time-out would be an error of another kind.
        if let Err(error) = stream.read_to_end(&mut heard) {
            let kind = error.kind();
            assert_eq!(kind, std::io::ErrorKind::ConnectionReset, "{error}");
        }
        assert!(!heard.starts_with(b"HTTP"), "somebody is answered in clear");
    }
    // Half a request is not waited for.
    let half = worker.say(WORKER, &target, b"GET /v1/ping HTTP/1.1\r\nHost:");
    assert!(half.map_or(true, |text| !text.contains(" 200 ")));
    let (status, text) = worker.call(WORKER, &target, "GET", "/v1/ping")?;
    assert_eq!(status, 200, "{text}");
    Ok(())
}
