//! Text that is nobody's business.

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize};

/// Text that `Debug` does not show: keys, tokens, the content of secrets. It has no `Display`; whoever needs the text says so.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl Hidden {
    /// The text itself.
    pub fn into_inner(self) -> String {
        self.0
    }
}

impl Deref for Hidden {
    type Target = String;

    fn deref(&self) -> &String {
        &self.0
    }
}

impl DerefMut for Hidden {
    fn deref_mut(&mut self) -> &mut String {
        &mut self.0
    }
}

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Hidden {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "(hidden)" })
    }
}

crate::json::omit_default!(Hidden);

#[cfg(test)]
mod tests {
    use crate::object::{Cluster, JoinTokens, RootCa};
    use crate::{Secret, SecretSpec};

    #[test]
    fn debug_shows_nothing_of_it() {
        let secret = Secret {
            spec: SecretSpec {
                data: "geheim".into(),
                ..SecretSpec::default()
            },
            ..Secret::default()
        };
        let mut cluster = Cluster {
            join_tokens: JoinTokens {
                worker: "geheim".into(),
                manager: "geheim".into(),
            },
            root_ca: Some(RootCa {
                key: "geheim".into(),
                ..RootCa::default()
            }),
            unlock_key: Some("geheim".into()),
            ..Cluster::default()
        };
        cluster.spec.ca_config.get_or_insert_default().signing_ca_key = "geheim".into();
        let shown = format!("{secret:?}{cluster:?}");
        assert!(!shown.contains("geheim"), "{shown}");
        assert_eq!(shown.matches("(hidden)").count(), 6);
        assert_eq!(serde_json::to_value(&secret.spec.data).unwrap(), "geheim");
    }
}
