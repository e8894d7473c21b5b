//! Two agents on one machine, each in a network namespace of its own, do not see each other (law 7).

use anyhow::Result;
use integration::{Agent, eventually};

#[test]
fn two_agents_share_nothing() -> Result<()> {
    let (one, two) = (Agent::start_swarm()?, Agent::start_swarm()?);
    for (agent, word) in [(&one, "first"), (&two, "second")] {
        agent.build_busybox()?;
        let serve = format!("mkdir /www; echo {word} > /www/index.html; httpd -f -p 80 -h /www");
        // The same names, the same ports.
        agent.cli_ok(&[
            "service",
            "create",
            "--name",
            "web",
            "--replicas",
            "2",
            "-p",
            "8080:80",
            "bb",
            "sh",
            "-c",
            &serve,
        ])?;
        agent.cli_ok(&["run", "-d", "--name", "same", "bb", "sleep", "1000"])?;
    }
    for (agent, word) in [(&one, "first\n"), (&two, "second\n")] {
        eventually("the port answers", || agent.host.get("127.0.0.1:8080", "/"))?;
        for _ in 0..6 {
            assert_eq!(agent.host.get("127.0.0.1:8080", "/")?, word);
        }
        assert_eq!(agent.get("/containers/json")?.as_array().map(Vec::len), Some(3));
    }
    // Each tells of its own host: of a namespace that a test may write to.
    for value in ["0", "1"] {
        one.host
            .enter(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", value))??;
        assert_eq!(one.get("/info")?["IPv4Forwarding"], value == "1");
    }
    // One goes with everything that it has; the other does not notice.
    drop(one);
    assert_eq!(two.host.get("127.0.0.1:8080", "/")?, "second\n");
    Ok(())
}
