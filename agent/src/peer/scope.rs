//! Which requests of the API are about the cluster, and are therefore the leader's to answer.

use axum::http::Method;

/// Whether a request, without its version prefix, is about the cluster. Networks are both the node's and the cluster's:
/// theirs are looked at by their names first (`GET /networks` shows both).
pub fn is_cluster_scoped(method: &Method, path: &str) -> bool {
    let mut words = path.trim_start_matches('/').split('/');
    match (words.next().unwrap_or_default(), words.next()) {
        ("swarm", Some(what)) => is_of_swarm(method, what),
        // Inspecting the swarm.
        ("swarm", None) => true,
        ("nodes" | "services" | "tasks" | "secrets" | "configs", _) => true,
        ("volumes", Some(_)) => *method == Method::POST && words.next() == Some("move"),
        // An exec of a task is held by the manager that began it.
        _ => false,
    }
}

/// Joining, leaving and unlocking are this node's own affair.
fn is_of_swarm(method: &Method, what: &str) -> bool {
    match what {
        "update" | "unlockkey" | "rebalance" => true,
        "init" | "join" | "leave" | "unlock" => false,
        // Whatever else there is to be read is the cluster's.
        _ => *method == Method::GET,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        for (method, path, expected) in [
            ("GET", "/swarm", true),
            ("POST", "/swarm/update", true),
            ("GET", "/swarm/unlockkey", true),
            ("POST", "/swarm/init", false),
            ("POST", "/swarm/join", false),
            ("POST", "/swarm/leave", false),
            ("POST", "/swarm/unlock", false),
            ("GET", "/nodes", true),
            ("POST", "/nodes/x/update", true),
            ("DELETE", "/nodes/x", true),
            ("GET", "/services", true),
            ("POST", "/services/create", true),
            ("GET", "/services/x/logs", true),
            ("GET", "/tasks", true),
            ("GET", "/tasks/x/logs", true),
            ("POST", "/tasks/x/exec", true),
            ("GET", "/secrets", true),
            ("POST", "/configs/create", true),
            ("GET", "/containers/json", false),
            ("POST", "/containers/create", false),
            ("GET", "/images/json", false),
            ("GET", "/volumes", false),
            ("POST", "/volumes/create", false),
            ("POST", "/volumes/x/move", true),
            ("POST", "/build", false),
            ("GET", "/info", false),
            ("GET", "/_ping", false),
            ("GET", "/events", false),
            ("GET", "/servicesx", false),
            ("GET", "/", false),
        ] {
            let method: Method = method.parse().unwrap();
            assert_eq!(is_cluster_scoped(&method, path), expected, "{method} {path}");
        }
    }
}
