//! A stack's secrets and configs. What tasks may be reading never changes: content that has changed in the file becomes
//! a new version beside the old one, and the services that name it in the file get the new one.
//!
//! The first version is called as Docker calls it, `<stack>_<key>`; later ones have a number, `<stack>_<key>-2`, and a
//! label that says of what they are a version. What is called in the container stays the same.
//!
//! A secret's content cannot be read back, and no digest of it is kept beside it: of a short secret, who may list secrets
//! could guess the content from one. The manager has the content and answers whether it is the same, by an update that
//! says nothing new.

use anyhow::{Context, Result, bail};
use proto::spec::Labels;
use serde_json::{Value, json};

use super::super::client::{ApiError, Client};
use crate::compose::NAMESPACE;

/// The label of later versions: the name of the first.
const VERSION_OF: &str = "shoal.version.of";

/// Secrets or configs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Secret,
    Config,
}

impl Kind {
    /// Its place in the API.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Secret => "secrets",
            Self::Config => "configs",
        }
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Config => "config",
        }
    }
}

/// What secrets and configs have in common.
pub(super) trait Content {
    fn name(&self) -> &str;
    fn labels(&self) -> &Labels;
    /// In base64.
    fn data(&self) -> &str;
    /// The body that makes it, under this name and with these labels.
    fn body(&self, name: &str, labels: Labels) -> Value;
}

macro_rules! content {
    ($($kind:ident)*) => {$(
        impl Content for proto::$kind {
            fn name(&self) -> &str {
                &self.name
            }

            fn labels(&self) -> &Labels {
                &self.labels
            }

            fn data(&self) -> &str {
                &self.data
            }

            fn body(&self, name: &str, labels: Labels) -> Value {
                json!(Self { name: name.to_owned(), labels, ..self.clone() })
            }
        }
    )*};
}

content!(SecretSpec ConfigSpec);

/// What is to be done for one secret or config of the file.
#[derive(Debug)]
pub(super) struct Step {
    /// What the plan calls it: the name of the first version.
    pub(super) base: String,
    /// The name of the version that the services get.
    pub(super) name: String,
    pub(super) action: Action,
    /// Identifiers and names of its other versions: those that nobody needs can go.
    pub(super) superseded: Vec<(String, String)>,
}

#[derive(Debug)]
pub(super) enum Action {
    /// It is there.
    Keep { id: String },
    /// It is there with other labels.
    Relabel { id: String, version: u64, body: Value },
    /// It is to be made; of these versions it is the next, if there are any.
    Create { body: Value },
}

impl Step {
    /// Its identifier, if it is there already.
    pub(super) fn id(&self) -> &str {
        match &self.action {
            Action::Keep { id } | Action::Relabel { id, .. } => id,
            Action::Create { .. } => "",
        }
    }

    /// What is made, for people.
    pub(super) fn describe(&self, kind: Kind) -> String {
        let of = if self.superseded.is_empty() {
            String::new()
        } else {
            format!(" (a new version of {})", self.base)
        };
        format!("{} {}{of}", kind.word(), self.name)
    }
}

/// What is to be done so that each content of the file is there. Changes nothing.
pub(super) async fn look<T: Content>(
    client: &Client,
    kind: Kind,
    stack: &str,
    specs: &[T],
) -> Result<Vec<Step>> {
    if specs.is_empty() {
        return Ok(Vec::new());
    }
    let known: Vec<Known> = client.fetch(&format!("/{}", kind.path())).await?;
    let mut taken: Vec<String> = known.iter().map(|one| one.spec.name.clone()).collect();
    let mut steps = Vec::new();
    for spec in specs {
        let step = look_at(client, kind, stack, spec, &known, &taken).await?;
        taken.push(step.name.clone());
        steps.push(step);
    }
    Ok(steps)
}

/// Removes the versions that no service has or can go back to, and no task reads.
pub(super) async fn collect(client: &Client, kind: Kind, steps: &[Step]) {
    for (id, name) in steps.iter().flat_map(|step| &step.superseded) {
        match client.delete(&format!("/{}/{id}?unused=1", kind.path())).await {
            Ok(_) => println!("Removing {} {name}: nothing uses it any more", kind.word()),
            Err(error) if is_held(&error) => {}
            Err(error) => eprintln!("cannot remove {} {name}: {error:#}", kind.word()),
        }
    }
}

/// Whether an error is the API's word that something is still needed.
pub(super) fn is_held(error: &anyhow::Error) -> bool {
    says(error, "in use")
}

/// A secret or config that is there.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Known {
    #[serde(rename = "ID")]
    id: String,
    version: proto::Version,
    spec: KnownSpec,
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct KnownSpec {
    name: String,
    #[serde(default)]
    labels: Option<Labels>,
    #[serde(default)]
    data: String,
}

impl Known {
    fn label(&self, key: &str) -> Option<&str> {
        self.spec.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// Which version of `base` it is, in this stack: 1 is the one of that very name.
    fn number(&self, base: &str, stack: &str) -> Option<u64> {
        match self.label(VERSION_OF) {
            None => (self.spec.name == base).then_some(1),
            Some(of) if of == base && self.label(NAMESPACE) == Some(stack) => {
                self.spec.name.strip_prefix(base)?.strip_prefix('-')?.parse().ok()
            }
            Some(_) => None,
        }
    }
}

async fn look_at<T: Content>(
    client: &Client,
    kind: Kind,
    stack: &str,
    spec: &T,
    known: &[Known],
    taken: &[String],
) -> Result<Step> {
    let base = spec.name();
    let mut family: Vec<(u64, &Known)> = known
        .iter()
        .filter_map(|one| Some((one.number(base, stack)?, one)))
        .collect();
    family.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    let mut same = None;
    for (_, one) in &family {
        if is_same(client, kind, one, spec).await? {
            same = Some(*one);
            break;
        }
    }
    let others = family
        .iter()
        .filter(|(_, one)| Some(&one.id) != same.map(|same| &same.id));
    let superseded = others
        .map(|(_, one)| (one.id.clone(), one.spec.name.clone()))
        .collect();
    let (name, action) = match same {
        Some(one) => (one.spec.name.clone(), keep(one, spec)),
        None => create(kind, stack, spec, &family, taken)?,
    };
    Ok(Step {
        base: base.to_owned(),
        name,
        action,
        superseded,
    })
}

/// As Docker does, labels follow the file.
fn keep<T: Content>(one: &Known, spec: &T) -> Action {
    let id = one.id.clone();
    let labels = labels(spec, &one.spec.name);
    if one.spec.labels.as_ref() == Some(&labels) {
        return Action::Keep { id };
    }
    Action::Relabel {
        id,
        version: one.version.index,
        body: json!({"Name": one.spec.name, "Labels": labels}),
    }
}

fn create<T: Content>(
    kind: Kind,
    stack: &str,
    spec: &T,
    family: &[(u64, &Known)],
    taken: &[String],
) -> Result<(String, Action)> {
    let base = spec.name();
    if let Some((_, foreign)) = family.iter().find(|(_, one)| one.label(NAMESPACE) != Some(stack)) {
        bail!(
            "{} {} is there with other content and does not belong to the stack {stack}: give it another name in the file, \
             or say that it is external",
            kind.word(),
            foreign.spec.name
        );
    }
    let newest = family.iter().map(|(number, _)| *number).max().unwrap_or(0);
    let name = next_name(base, newest, taken);
    let body = spec.body(&name, labels(spec, &name));
    Ok((name, Action::Create { body }))
}

fn labels<T: Content>(spec: &T, name: &str) -> Labels {
    let mut labels = spec.labels().clone();
    if name != spec.name() {
        labels.insert(VERSION_OF.to_owned(), spec.name().to_owned());
    }
    labels
}

/// The name of the version after `newest`, which no other object has.
fn next_name(base: &str, newest: u64, taken: &[String]) -> String {
    let name = |number: u64| match number {
        1 => base.to_owned(),
        number => format!("{base}-{number}"),
    };
    let mut number = newest.saturating_add(1);
    while taken.contains(&name(number)) {
        number = number.saturating_add(1);
    }
    name(number)
}

async fn is_same<T: Content>(client: &Client, kind: Kind, one: &Known, spec: &T) -> Result<bool> {
    if kind == Kind::Config {
        return Ok(one.spec.data == spec.data());
    }
    let path = format!("/{}/{}/update?version={}", kind.path(), one.id, one.version.index);
    let body = json!({"Name": one.spec.name, "Labels": one.spec.labels, "Data": spec.data()});
    match client.post(&path, &body).await {
        Ok(_) => Ok(true),
        Err(error) if says(&error, "only updates to Labels are allowed") => Ok(false),
        Err(error) => Err(error).with_context(|| format!("compare {} {}", kind.word(), one.spec.name)),
    }
}

fn says(error: &anyhow::Error, words: &str) -> bool {
    error
        .downcast_ref::<ApiError>()
        .is_some_and(|error| error.message.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str, labels: &[(&str, &str)]) -> Known {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Known {
            id: format!("id-{name}"),
            version: proto::Version::default(),
            spec: KnownSpec {
                name: name.to_owned(),
                labels: Some(labels.collect()),
                data: String::new(),
            },
        }
    }

    #[test]
    fn versions_are_known_by_their_label_and_number() {
        let stack = (NAMESPACE, "st");
        let later = (VERSION_OF, "st_c");
        assert_eq!(known("st_c", &[stack]).number("st_c", "st"), Some(1));
        assert_eq!(known("st_c-3", &[stack, later]).number("st_c", "st"), Some(3));
        assert_eq!(known("st_c-3", &[stack, later]).number("st_c-3", "st"), None);
        assert_eq!(
            known("st_c-3", &[stack]).number("st_c", "st"),
            None,
            "of a key c-3"
        );
        assert_eq!(known("st_c-3", &[later]).number("st_c", "st"), None, "of nobody");
        assert_eq!(
            known("st_c-3", &[(NAMESPACE, "x"), later]).number("st_c", "st"),
            None
        );
    }

    #[test]
    fn a_version_s_name_is_the_next_that_is_free() {
        let taken = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(next_name("st_c", 0, &[]), "st_c");
        assert_eq!(next_name("st_c", 1, &taken(&["st_c"])), "st_c-2");
        assert_eq!(next_name("st_c", 1, &taken(&["st_c", "st_c-2"])), "st_c-3");
        assert_eq!(next_name("st_c", 0, &taken(&["st_c"])), "st_c-2");
    }
}
