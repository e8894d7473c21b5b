//! Changes of the cluster's objects as Docker's events of scope `swarm`. There are none for tasks, as in Docker.

use std::collections::BTreeMap;
use std::sync::Arc;

use manager::state::{Change, Event, Filter, Kind, Store};
use proto::{Node, Service};

use crate::engine::Engine;

/// One event: kind, action, id, attributes.
type Told = (&'static str, &'static str, String, BTreeMap<String, String>);

/// Forwards until the store is closed.
pub(super) async fn forward(store: Store, engine: Arc<Engine>) {
    let kinds = [
        Kind::Service,
        Kind::Node,
        Kind::Network,
        Kind::Secret,
        Kind::Config,
    ];
    let mut changes = store.watch(Filter::kinds(&kinds));
    while let Some(change) = changes.next().await {
        if let Some((kind, action, id, attributes)) = tell(&change) {
            engine.publish_event("swarm", kind, action, &id, attributes);
        }
    }
}

fn tell(event: &Event) -> Option<Told> {
    match event {
        Event::Service(change) => service(change),
        Event::Node(change) => node(change),
        Event::Network(change) => {
            let object = change.object();
            let same = change.old().is_some_and(|old| old.spec == object.spec);
            plain(
                "network",
                action(change),
                &object.id,
                &object.spec.name,
                same && change.new_object().is_some(),
            )
        }
        Event::Secret(change) => {
            let object = change.object();
            plain("secret", action(change), &object.id, &object.spec.name, false)
        }
        Event::Config(change) => {
            let object = change.object();
            plain("config", action(change), &object.id, &object.spec.name, false)
        }
        _ => None,
    }
}

fn action<T>(change: &Change<T>) -> &'static str {
    match change {
        Change::Create(_) => "create",
        Change::Update { .. } => "update",
        Change::Remove(_) => "remove",
    }
}

fn plain(
    kind: &'static str,
    action: &'static str,
    id: &impl ToString,
    name: &str,
    silent: bool,
) -> Option<Told> {
    let attributes = BTreeMap::from([("name".to_owned(), name.to_owned())]);
    (!silent).then(|| (kind, action, id.to_string(), attributes))
}

/// Users care about specs and the course of updates, not about the allocator's bookkeeping.
fn service(change: &Change<Service>) -> Option<Told> {
    let now = change.object();
    let mut attributes = BTreeMap::from([("name".to_owned(), now.spec.name.clone())]);
    if let Change::Update { old, new } = change {
        let state = |service: &Service| service.update_status.as_ref().map(|status| status.state);
        let (before, after) = (state(old), state(new));
        if old.spec == new.spec && before == after {
            return None;
        }
        differ(
            &mut attributes,
            "updatestate",
            before.map(|s| s.to_string()),
            after.map(|s| s.to_string()),
        );
        let replicas = |service: &Service| service.spec.mode.replicas().map(|count| count.to_string());
        differ(&mut attributes, "replicas", replicas(old), replicas(new));
    }
    Some(("service", action(change), now.id.to_string(), attributes))
}

fn node(change: &Change<Node>) -> Option<Told> {
    let now = change.object();
    let mut attributes = BTreeMap::from([("name".to_owned(), now.description.hostname.clone())]);
    if let Change::Update { old, new } = change {
        let unchanged = attributes.len();
        let state = |node: &Node| Some(node.status.state.to_string());
        differ(&mut attributes, "state", state(old), state(new));
        let availability = |node: &Node| Some(node.spec.availability.to_string());
        differ(
            &mut attributes,
            "availability",
            availability(old),
            availability(new),
        );
        let role = |node: &Node| Some(node.spec.role.to_string());
        differ(&mut attributes, "role", role(old), role(new));
        if attributes.len() == unchanged && old.spec == new.spec {
            return None;
        }
    }
    Some(("node", action(change), now.id.to_string(), attributes))
}

/// `what.old` and `what.new`, as Docker writes them, when they differ.
fn differ(attributes: &mut BTreeMap<String, String>, what: &str, old: Option<String>, new: Option<String>) {
    if old == new {
        return;
    }
    for (suffix, value) in [("old", old), ("new", new)] {
        if let Some(value) = value {
            attributes.insert(format!("{what}.{suffix}"), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::ServiceSpec;
    use proto::spec::ServiceMode;

    fn of(replicas: u64) -> Arc<Service> {
        let mode = ServiceMode::replicated(replicas);
        let spec = ServiceSpec {
            name: "web".into(),
            mode,
            ..ServiceSpec::default()
        };
        Arc::new(Service {
            id: "s".into(),
            spec,
            ..Service::default()
        })
    }

    #[test]
    fn an_update_says_what_changed() {
        let change = Change::Update {
            old: of(1),
            new: of(3),
        };
        let (_, action, id, attributes) = tell(&Event::Service(change)).unwrap();
        assert_eq!((action, id.as_str()), ("update", "s"));
        assert_eq!(attributes["replicas.old"], "1");
        assert_eq!(attributes["replicas.new"], "3");
    }

    #[test]
    fn bookkeeping_is_silent() {
        assert!(
            tell(&Event::Service(Change::Update {
                old: of(1),
                new: of(1)
            }))
            .is_none()
        );
        assert!(tell(&Event::Service(Change::Remove(of(1)))).is_some());
    }
}
