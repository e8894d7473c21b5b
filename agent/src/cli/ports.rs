//! `-p`, `--publish` and `--expose` of containers, in Docker's words (`nat.ParsePortSpec` of its library go-connections).

use std::ops::RangeInclusive;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

/// `[[ip:]host[-host]:]container[-container][/protocol]` as the API's exposed ports and bindings.
///
/// Two ranges have to be as long as each other; of a range of host ports over one port of the container, the daemon chooses.
pub(super) fn published(words: &[String]) -> Result<(Value, Value)> {
    let mut exposed = Map::new();
    let mut bindings = Map::<String, Value>::new();
    for word in words {
        for (key, binding) in one(word)? {
            exposed.insert(key.clone(), json!({}));
            match bindings.entry(key).or_insert_with(|| json!([])) {
                Value::Array(list) => list.push(binding),
                other => *other = json!([binding]),
            }
        }
    }
    Ok((Value::Object(exposed), Value::Object(bindings)))
}

/// `80`, `80/udp`, `80-82/tcp`: each port with its protocol.
pub(super) fn exposed(word: &str) -> Result<Vec<String>> {
    let (numbers, protocol) = protocol(word)?;
    let ports = range(numbers).with_context(|| format!("invalid range format for --expose: {word}"))?;
    Ok(ports.map(|port| format!("{port}/{protocol}")).collect())
}

fn one(word: &str) -> Result<Vec<(String, Value)>> {
    let (numbers, protocol) = protocol(word)?;
    let (front, container) = numbers.rsplit_once(':').unwrap_or(("", numbers));
    let (ip, host) = front.rsplit_once(':').unwrap_or(("", front));
    if container.is_empty() {
        bail!("no port specified: {word}<empty>");
    }
    let inner = range(container).with_context(|| format!("invalid containerPort: {container}"))?;
    let outer = match host {
        "" => None,
        host => Some(range(host).with_context(|| format!("invalid hostPort: {host}"))?),
    };
    let alone = inner.len() == 1;
    if let Some(outer) = &outer
        && outer.len() != inner.len()
        && !alone
    {
        bail!("invalid ranges specified for container and host Ports: {container} and {host}");
    }
    let binding = |(place, port): (usize, u16)| {
        let host = match &outer {
            None => String::new(),
            Some(_) if alone => host.to_owned(),
            Some(outer) => (usize::from(*outer.start()) + place).to_string(),
        };
        let binding = json!({"HostIp": ip.trim_matches(['[', ']']), "HostPort": host});
        (format!("{port}/{protocol}"), binding)
    };
    Ok(inner.enumerate().map(binding).collect())
}

fn protocol(word: &str) -> Result<(&str, String)> {
    let (numbers, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        bail!("invalid proto: {protocol}");
    }
    Ok((numbers, protocol))
}

/// `80` or `80-82`.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(word: &str) -> Result<Vec<(String, String, String)>> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let port = |(key, value): (String, Value)| (key, text(&value["HostIp"]), text(&value["HostPort"]));
        Ok(one(word)?.into_iter().map(port).collect())
    }

    #[test]
    fn ports_become_bindings() {
        for (word, expected) in [
            ("80", &[("80/tcp", "", "")][..]),
            ("53/UDP", &[("53/udp", "", "")]),
            ("127.0.0.1:8080:80", &[("80/tcp", "127.0.0.1", "8080")]),
            ("127.0.0.1::80", &[("80/tcp", "127.0.0.1", "")]),
            ("[::1]:8080:80", &[("80/tcp", "::1", "8080")]),
            (
                "8000-8001:80-81",
                &[("80/tcp", "", "8000"), ("81/tcp", "", "8001")],
            ),
            ("80-81", &[("80/tcp", "", ""), ("81/tcp", "", "")]),
            ("8000-8009:80", &[("80/tcp", "", "8000-8009")]),
        ] {
            let expected = expected.iter();
            let expected = expected.map(|(key, ip, host)| ((*key).into(), (*ip).into(), (*host).into()));
            assert_eq!(bound(word).unwrap(), expected.collect::<Vec<_>>(), "{word}");
        }
        for word in [
            "a:b",
            "8000-8002:80-81",
            "81-80",
            "80/x",
            "8080:",
            "70000",
            "a:80",
            "-80",
        ] {
            assert!(bound(word).is_err(), "{word}");
        }
        let (both, bindings) = published(&["80".to_owned(), "90:80".to_owned()]).unwrap();
        assert!(both["80/tcp"].is_object());
        assert_eq!(bindings["80/tcp"].as_array().map(Vec::len), Some(2));
        assert_eq!(exposed("80-81/udp").unwrap(), ["80/udp", "81/udp"]);
        assert!(exposed("a").is_err());
    }
}
