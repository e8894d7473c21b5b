//! Image references: parsing and the `docker.io` normalisation of github.com/distribution/reference.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const MAX_NAME: usize = 255;

/// A name of an image: domain, repository path, and a tag, a digest or both.
///
/// ```
/// let r: storage::Reference = "busybox".parse().unwrap();
/// assert_eq!(r.tagged().to_string(), "docker.io/library/busybox:latest");
/// assert_eq!(r.tagged().familiar(), "busybox:latest");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Why a string is no reference. The texts are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("invalid reference format: {0:?}")]
    Format(String),
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    #[error("repository name must not be more than 255 characters: {0:.40}…")]
    TooLong(String),
}

impl Reference {
    /// The host part, `docker.io` when none was written.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository's path inside its domain, e.g. `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest (`algorithm:hex`), if one was given.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The full repository name without tag and digest, e.g. `docker.io/library/busybox`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The repository as people write it, e.g. `busybox`.
    pub fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The whole reference as people write it, e.g. `busybox:latest`.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_repository())
    }

    /// The same reference, with the tag `latest` where it has neither tag nor digest.
    pub fn tagged(&self) -> Self {
        let mut named = self.clone();
        if named.tag.is_none() && named.digest.is_none() {
            named.tag = Some("latest".into());
        }
        named
    }

    /// The same repository under another tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Format(format!(
                "{}:{tag}",
                self.familiar_repository()
            )));
        }
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    fn with_suffix(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest);
        }
        text
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let bad = || ReferenceError::Format(text.chars().take(300).collect());
        if text.len() == 64
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return Err(ReferenceError::LooksLikeId(text.to_owned()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
            Some(_) => return Err(bad()),
            None => (text, None),
        };
        let (domain, remainder) = split_domain(rest);
        let (path, tag) = match remainder.rsplit_once(':') {
            Some((path, tag)) if is_tag(tag) => (path.to_owned(), Some(tag.to_owned())),
            Some(_) => return Err(bad()),
            None => (remainder, None),
        };
        if path.bytes().any(|b| b.is_ascii_uppercase()) && is_path(&path.to_ascii_lowercase()) {
            return Err(ReferenceError::Uppercase(
                path.trim_start_matches(OFFICIAL).to_owned(),
            ));
        }
        if !is_domain(&domain) || !is_path(&path) {
            return Err(bad());
        }
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(ReferenceError::TooLong(path));
        }
        Ok(Self {
            domain,
            path,
            tag,
            digest,
        })
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> String {
        reference.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.repository()))
    }
}

/// Splits off the host as Docker does: the first component counts as one only if it cannot be a path component.
fn split_domain(name: &str) -> (String, String) {
    let (mut domain, mut rest) = match name.split_once('/') {
        Some((first, rest)) if is_host_like(first) => (first.to_owned(), rest.to_owned()),
        _ => (DEFAULT_DOMAIN.to_owned(), name.to_owned()),
    };
    if domain == LEGACY_DOMAIN {
        domain = DEFAULT_DOMAIN.to_owned();
    }
    if domain == DEFAULT_DOMAIN && !rest.contains('/') {
        rest = format!("{OFFICIAL}{rest}");
    }
    (domain, rest)
}

fn is_host_like(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(v6) => match v6.split_once(']') {
            Some((address, rest)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
                return rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
            }
            _ => return false,
        },
        None => domain
            .split_once(':')
            .map_or((domain, None), |(host, port)| (host, Some(port))),
    };
    port.is_none_or(is_port) && host.split('.').all(is_domain_component)
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

fn is_domain_component(part: &str) -> bool {
    !part.is_empty()
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !part.starts_with('-')
        && !part.ends_with('-')
}

fn is_path(path: &str) -> bool {
    path.split('/').all(is_path_component)
}

/// Lower-case alphanumeric runs joined by one `.`, one or two `_`, or any number of `-`.
fn is_path_component(part: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let edges = bytes.first().is_some_and(|b| alnum(*b)) && bytes.last().is_some_and(|b| alnum(*b));
    let mut separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    edges && separators.all(|s| s.is_empty() || matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = tag.as_bytes();
    bytes.len() <= 128
        && bytes.first().is_some_and(|b| word(*b))
        && bytes.iter().all(|b| word(*b) || matches!(b, b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, digits)) = digest.split_once(':') else {
        return false;
    };
    let algorithm_ok = !algorithm.is_empty()
        && algorithm.split(['+', '.', '-', '_']).all(|part| {
            part.starts_with(|c: char| c.is_ascii_alphabetic())
                && part.bytes().all(|b| b.is_ascii_alphanumeric())
        });
    let length_ok = if algorithm == "sha256" {
        digits.len() == 64
    } else {
        digits.len() >= 32
    };
    algorithm_ok
        && length_ok
        && digits
            .bytes()
            .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Reference, ReferenceError> {
        text.parse()
    }

    #[test]
    fn short_names_become_full_and_back() {
        let cases = [
            ("bb", "docker.io/library/bb", "bb"),
            ("bb:1.2", "docker.io/library/bb:1.2", "bb:1.2"),
            ("me/bb", "docker.io/me/bb", "me/bb"),
            ("docker.io/bb", "docker.io/library/bb", "bb"),
            ("index.docker.io/bb", "docker.io/library/bb", "bb"),
            ("library/bb", "docker.io/library/bb", "bb"),
            ("localhost/bb", "localhost/bb", "localhost/bb"),
            (
                "localhost:5000/bb:x",
                "localhost:5000/bb:x",
                "localhost:5000/bb:x",
            ),
            ("quay.io/a/b/c", "quay.io/a/b/c", "quay.io/a/b/c"),
            ("HOST/bb", "HOST/bb", "HOST/bb"),
            ("[::1]:5000/bb", "[::1]:5000/bb", "[::1]:5000/bb"),
            ("a__b/c--d.e_f", "docker.io/a__b/c--d.e_f", "a__b/c--d.e_f"),
        ];
        for (given, full, familiar) in cases {
            let reference = parse(given).unwrap();
            assert_eq!(reference.to_string(), full, "{given}");
            assert_eq!(reference.familiar(), familiar, "{given}");
        }
    }

    #[test]
    fn latest_is_added_only_where_nothing_is_said() {
        assert_eq!(parse("bb").unwrap().tagged().familiar(), "bb:latest");
        assert_eq!(parse("bb:1").unwrap().tagged().familiar(), "bb:1");
        let digest = format!("bb@sha256:{}", "a".repeat(64));
        assert_eq!(parse(&digest).unwrap().tagged().familiar(), digest);
    }

    #[test]
    fn bad_names_are_refused_with_the_reason() {
        assert!(matches!(parse("BB"), Err(ReferenceError::Uppercase(name)) if name == "BB"));
        assert!(matches!(
            parse(&"a".repeat(64)),
            Err(ReferenceError::LooksLikeId(_))
        ));
        assert!(matches!(
            parse(&format!("{}/b", "a".repeat(255))),
            Err(ReferenceError::TooLong(_))
        ));
        for bad in [
            "",
            ":",
            "a:",
            "a b",
            "../x",
            "a/../b",
            "-a",
            "a-",
            "a..b",
            "a@sha256:zz",
            "a/",
            "/a",
            "a___b",
        ] {
            assert!(matches!(parse(bad), Err(ReferenceError::Format(_))), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn parsing_the_printed_form_gives_the_same(
            domain in "(([a-z0-9]{1,5}\\.){1,2}[a-z]{2,4}(:[0-9]{1,4})?|[a-z]{1,4})/",
            path in "[a-z0-9]{1,8}((\\.|_|__|-|--|/)[a-z0-9]{1,6}){0,4}",
            tag in "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20})?",
        ) {
            let reference = parse(&format!("{domain}{path}{tag}")).unwrap();
            prop_assert_eq!(&parse(&reference.to_string()).unwrap(), &reference);
            prop_assert_eq!(&parse(&reference.familiar()).unwrap(), &reference);
        }

        #[test]
        fn no_input_panics_and_none_names_a_parent(text in "[ -~]{0,80}") {
            if let Ok(reference) = parse(&text) {
                prop_assert!(!reference.to_string().split('/').any(|part| part == ".." || part.is_empty()));
            }
        }
    }
}
