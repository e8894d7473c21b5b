//! Placement constraints: `key==value` and `key!=value` over a node's identity, role, platform and labels.
//!
//! Input: the texts of `TaskTemplate.Placement.Constraints`; output: whether a [`Node`] may run the task. All
//! constraints must hold. Values are compared whole and without regard to case; label keys are exact, the other keys
//! are not. An absent fact is the empty text: `!=` holds, `==` does not.

use std::net::IpAddr;

use ipnet::IpNet;
use proto::Node;

/// Why a constraint cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// Neither `==` nor `!=` in it.
    #[error("constraint {0:?}: expected one operator from ==, !=")]
    Operator(String),
    /// The key is none of those that nodes have.
    #[error(
        "constraint {0:?}: unknown key; known are node.id, node.hostname, node.ip, node.role, node.platform.os, \
         node.platform.arch, node.labels.<name> and engine.labels.<name>"
    )]
    Key(String),
    /// The value is empty or holds characters that are kept for later operators.
    #[error("constraint {0:?}: invalid value")]
    Value(String),
}

/// A property of a node that has one value, empty if the node does not have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// `node.id`
    Id,
    /// `node.hostname`
    Hostname,
    /// `node.role`
    Role,
    /// `node.platform.os`
    Os,
    /// `node.platform.arch`
    Arch,
    /// `node.labels.<name>`: what the cluster's users say of the node.
    NodeLabel(String),
    /// `engine.labels.<name>`: what the agent says of itself.
    EngineLabel(String),
}

impl Fact {
    /// Reads the name of a fact. Only the name of a label minds case.
    pub fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        Some(match lower.as_str() {
            "node.id" => Self::Id,
            "node.hostname" => Self::Hostname,
            "node.role" => Self::Role,
            "node.platform.os" => Self::Os,
            "node.platform.arch" => Self::Arch,
            _ => match label_name(text, &lower, "node.labels.") {
                Some(name) => Self::NodeLabel(name),
                None => Self::EngineLabel(label_name(text, &lower, "engine.labels.")?),
            },
        })
    }

    /// The node's value.
    pub fn of<'a>(&self, node: &'a Node) -> &'a str {
        let description = &node.description;
        match self {
            Self::Id => node.id.as_str(),
            Self::Hostname => &description.hostname,
            Self::Role => node.spec.role.as_str(),
            Self::Os => &description.platform.os,
            Self::Arch => &description.platform.architecture,
            Self::NodeLabel(name) => node.spec.labels.get(name).map_or("", String::as_str),
            Self::EngineLabel(name) => description.engine.labels.get(name).map_or("", String::as_str),
        }
    }
}

/// One constraint, read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    test: Test,
    /// `==` if true, `!=` otherwise.
    equal: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    /// The fact has this value; in lower case here.
    Fact(Fact, String),
    /// The node's address is in this network: `node.ip`.
    Address(IpNet),
}

/// Reads all constraints of a placement.
///
/// # Errors
/// The first constraint that cannot be read.
pub fn parse(texts: &[String]) -> Result<Vec<Constraint>, ConstraintError> {
    texts.iter().map(|text| Constraint::parse(text)).collect()
}

/// Whether the node satisfies every constraint.
pub fn matches(constraints: &[Constraint], node: &Node) -> bool {
    constraints.iter().all(|constraint| constraint.matches(node))
}

impl Constraint {
    /// Reads one constraint.
    ///
    /// # Errors
    /// A missing operator, an unknown key or an unusable value, naming the constraint.
    pub fn parse(text: &str) -> Result<Self, ConstraintError> {
        let (key, equal, value) = split(text).ok_or_else(|| ConstraintError::Operator(text.to_owned()))?;
        if value.is_empty() || !value.chars().all(allowed_in_value) {
            return Err(ConstraintError::Value(text.to_owned()));
        }
        let test = if key.eq_ignore_ascii_case("node.ip") {
            Test::Address(parse_net(value).ok_or_else(|| ConstraintError::Value(text.to_owned()))?)
        } else {
            let fact = Fact::parse(key).ok_or_else(|| ConstraintError::Key(text.to_owned()))?;
            Test::Fact(fact, value.to_lowercase())
        };
        Ok(Self { test, equal })
    }

    /// Whether the node satisfies this constraint.
    pub fn matches(&self, node: &Node) -> bool {
        let holds = match &self.test {
            Test::Fact(fact, value) => fact.of(node).to_lowercase() == *value,
            Test::Address(net) => node
                .status
                .addr
                .parse::<IpAddr>()
                .is_ok_and(|addr| net.contains(&addr)),
        };
        holds == self.equal
    }
}

/// The name of a label in `key`, if the key has this prefix and a usable name.
fn label_name(key: &str, lower: &str, prefix: &str) -> Option<String> {
    let name = lower.starts_with(prefix).then(|| &key[prefix.len()..])?;
    let usable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    (!name.is_empty() && name.chars().all(usable)).then(|| name.to_owned())
}

/// An address alone is the network of that one address.
fn parse_net(value: &str) -> Option<IpNet> {
    value
        .parse()
        .ok()
        .or_else(|| value.parse::<IpAddr>().ok().map(IpNet::from))
}

/// The key, whether the operator is `==`, and the value. The operator that comes first counts.
fn split(text: &str) -> Option<(&str, bool, &str)> {
    let at = text
        .as_bytes()
        .windows(2)
        .position(|pair| pair == b"==" || pair == b"!=")?;
    Some((
        text[..at].trim(),
        text.as_bytes()[at] == b'=',
        text[at + 2..].trim(),
    ))
}

/// Letters, digits and the punctuation of names, paths and addresses; no operators.
fn allowed_in_value(c: char) -> bool {
    c.is_ascii_alphanumeric() || c.is_ascii_whitespace() || ":-_.*()?+[]\\^$|/".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        let mut node = Node {
            id: "n1".into(),
            ..Node::default()
        };
        node.spec.labels.insert("Zone".into(), "East".into());
        node.description.hostname = "alpha".into();
        node.description.platform.os = "linux".into();
        node.description.engine.labels.insert("disk".into(), "ssd".into());
        node.status.addr = "10.0.0.7".into();
        node
    }

    #[test]
    fn constraints_hold_or_do_not() {
        for text in [
            "node.id==n1",
            "node.id != n2",
            "NODE.HOSTNAME == ALPHA",
            "node.role==worker",
            "node.role!=manager",
            "node.platform.os==Linux",
            "node.platform.arch!=arm64",
            "node.labels.Zone==east",
            "node.labels.zone!=east",
            "node.labels.missing!=x",
            "engine.labels.disk==ssd",
            "node.ip==10.0.0.0/24",
            "node.ip==10.0.0.7",
            "node.ip!=10.0.1.0/24",
        ] {
            let constraint = Constraint::parse(text).unwrap();
            assert!(constraint.matches(&node()), "{text}");
            let opposite = if text.contains("==") {
                text.replace("==", "!=")
            } else {
                text.replace("!=", "==")
            };
            assert!(
                !Constraint::parse(&opposite).unwrap().matches(&node()),
                "{opposite}"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let parse = |text: &str| Constraint::parse(text).unwrap_err();
        assert_eq!(
            parse("node.role=manager"),
            ConstraintError::Operator("node.role=manager".into())
        );
        assert_eq!(
            parse("node.colour==red"),
            ConstraintError::Key("node.colour==red".into())
        );
        assert_eq!(
            parse("node.labels.==red"),
            ConstraintError::Key("node.labels.==red".into())
        );
        assert_eq!(parse("node.id=="), ConstraintError::Value("node.id==".into()));
        assert_eq!(
            parse("node.id==a>b"),
            ConstraintError::Value("node.id==a>b".into())
        );
        assert_eq!(
            parse("node.ip==nowhere"),
            ConstraintError::Value("node.ip==nowhere".into())
        );
        assert!(
            parse("node.role=manager")
                .to_string()
                .contains("node.role=manager")
        );
    }
}
