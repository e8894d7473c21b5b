//! `--network` of `run` and `create`: `NET`, or `name=NET,alias=…,ip=…,ip6=…,mac-address=…`, as often as there are
//! networks.

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

/// Flags that are about the first network.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct First<'a> {
    /// `--network-alias`.
    pub(super) aliases: &'a [String],
    /// `--mac-address`.
    pub(super) mac: Option<&'a str>,
    /// `--ip`.
    pub(super) ip: Option<&'a str>,
    /// `--ip6`.
    pub(super) ip6: Option<&'a str>,
}

/// One network and what is said of the container there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Endpoint {
    name: String,
    aliases: Vec<String>,
    mac: Option<String>,
    ip: Option<String>,
    ip6: Option<String>,
}

/// The first network, which gives the container its mode, and the endpoints of all.
pub(super) fn endpoints(words: &[String], first: First<'_>) -> Result<(String, Value)> {
    let mut all = words
        .iter()
        .map(|word| endpoint(word))
        .collect::<Result<Vec<_>>>()?;
    if all.is_empty() {
        all.push(Endpoint {
            name: "default".to_owned(),
            ..Endpoint::default()
        });
    }
    add(&mut all[0], first)?;
    let mode = all[0].name.clone();
    if let Some(twice) = all.iter().enumerate().find_map(|(n, one)| {
        let earlier = all[..n].iter().any(|other| other.name == one.name);
        earlier.then_some(&one.name)
    }) {
        bail!("network {twice:?} is specified multiple times");
    }
    let says = |endpoint: &&Endpoint| all.len() > 1 || endpoint.says_something();
    let endpoints = all.iter().filter(says);
    let endpoints: Map<String, Value> = endpoints
        .map(|endpoint| (endpoint.name.clone(), endpoint.json()))
        .collect();
    Ok((mode, endpoints.into()))
}

fn endpoint(word: &str) -> Result<Endpoint> {
    let mut endpoint = Endpoint::default();
    if !word.contains('=') {
        word.clone_into(&mut endpoint.name);
        return Ok(endpoint);
    }
    for part in word.split(',') {
        match part.split_once('=') {
            Some(("name", name)) => name.clone_into(&mut endpoint.name),
            Some(("alias", alias)) => endpoint.aliases.push(alias.to_owned()),
            Some(("ip", ip)) => endpoint.ip = Some(ip.to_owned()),
            Some(("ip6", ip)) => endpoint.ip6 = Some(ip.to_owned()),
            Some(("mac-address", mac)) => endpoint.mac = Some(mac.to_owned()),
            _ => bail!(
                "network {word:?}: {part:?} is not known; there are name, alias, ip, ip6 and mac-address"
            ),
        }
    }
    match endpoint.name.is_empty() {
        true => bail!("network {word:?}: the name is missing"),
        false => Ok(endpoint),
    }
}

/// What stands beside `--network` says nothing else than what stands in it.
fn add(endpoint: &mut Endpoint, first: First<'_>) -> Result<()> {
    for (flag, both) in [
        ("--ip", endpoint.ip.is_some() && first.ip.is_some()),
        ("--ip6", endpoint.ip6.is_some() && first.ip6.is_some()),
        ("--mac-address", endpoint.mac.is_some() && first.mac.is_some()),
        (
            "--network-alias",
            !endpoint.aliases.is_empty() && !first.aliases.is_empty(),
        ),
    ] {
        if both {
            bail!("conflicting options: cannot specify both {flag} and the same within --network");
        }
    }
    endpoint.aliases.extend(first.aliases.iter().cloned());
    endpoint.ip = endpoint.ip.take().or(first.ip.map(str::to_owned));
    endpoint.ip6 = endpoint.ip6.take().or(first.ip6.map(str::to_owned));
    endpoint.mac = endpoint.mac.take().or(first.mac.map(str::to_owned));
    Ok(())
}

impl Endpoint {
    fn says_something(&self) -> bool {
        !self.aliases.is_empty() || self.mac.is_some() || self.ip.is_some() || self.ip6.is_some()
    }

    fn json(&self) -> Value {
        json!({
            "Aliases": self.aliases,
            "MacAddress": self.mac.clone().unwrap_or_default(),
            "IPAMConfig": addresses(self.ip.as_deref(), self.ip6.as_deref()),
        })
    }
}

/// Addresses asked for an endpoint; null if there are none.
pub(super) fn addresses(ip: Option<&str>, ip6: Option<&str>) -> Value {
    if ip.is_none() && ip6.is_none() {
        return Value::Null;
    }
    json!({ "IPv4Address": ip.unwrap_or_default(), "IPv6Address": ip6.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str], first: First<'_>) -> Result<(String, Value)> {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        endpoints(&words, first)
    }

    #[test]
    fn the_first_network_is_the_mode_and_takes_the_flags() {
        let (mode, none) = read(&[], First::default()).unwrap();
        assert_eq!((mode.as_str(), none), ("default", json!({})));
        let aliases = ["a".to_owned()];
        let first = First {
            aliases: &aliases,
            ip: Some("10.0.0.5"),
            ip6: Some("fd00::5"),
            mac: None,
        };
        let (mode, all) = read(&["one", "name=two,alias=b,alias=c,ip=10.1.0.5"], first).unwrap();
        assert_eq!(mode, "one");
        assert_eq!(all["one"]["IPAMConfig"]["IPv4Address"], "10.0.0.5");
        assert_eq!(all["one"]["IPAMConfig"]["IPv6Address"], "fd00::5");
        assert_eq!(all["one"]["Aliases"], json!(["a"]));
        assert_eq!(all["two"]["Aliases"], json!(["b", "c"]));
        assert_eq!(all["two"]["IPAMConfig"]["IPv4Address"], "10.1.0.5");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let ip = First {
            ip: Some("10.0.0.5"),
            ..First::default()
        };
        assert!(read(&["name=n,ip=10.0.0.6"], ip).is_err());
        for words in [&["n", "n"][..], &["ip=10.0.0.5"], &["name=n,driver-opt=a=b"]] {
            assert!(read(words, First::default()).is_err(), "{words:?}");
        }
    }
}
