//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container: texts as Docker writes them, and their files.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use super::error::{EngineError, Result};
use crate::api::types::host_config::HostConfig;

const HOSTS_HEAD: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
                          ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// The word of `--add-host name:host-gateway`.
const HOST_GATEWAY: &str = "host-gateway";

/// An entry of `--add-host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraHost {
    pub name: String,
    /// `None`: the host, as the container reaches it.
    pub address: Option<IpAddr>,
}

/// Reads `name:address` or `name=address`.
///
/// # Errors
/// A malformed entry, quoted.
pub fn extra_host(entry: &str) -> Result<ExtraHost> {
    let invalid = || EngineError::Invalid(format!("invalid extra host {entry:?}: expected name:address"));
    let (name, address) = entry.split_once(['=', ':']).ok_or_else(invalid)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || !name.chars().all(plain) {
        return Err(invalid());
    }
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let address = match address {
        HOST_GATEWAY => None,
        address => Some(address.parse().map_err(|_| invalid())?),
    };
    Ok(ExtraHost {
        name: name.to_owned(),
        address,
    })
}

/// `/etc/hosts`.
pub fn hosts(
    extra: &[ExtraHost],
    host_gateway: Ipv4Addr,
    own: &[IpAddr],
    hostname: &str,
    domain: &str,
) -> String {
    let mut text = HOSTS_HEAD.to_owned();
    for entry in extra {
        let address = entry.address.unwrap_or(IpAddr::V4(host_gateway));
        text.push_str(&format!("{address}\t{}\n", entry.name));
    }
    for address in own {
        match domain {
            "" => text.push_str(&format!("{address}\t{hostname}\n")),
            domain => text.push_str(&format!("{address}\t{hostname}.{domain} {hostname}\n")),
        }
    }
    text
}

/// What goes into `/etc/resolv.conf`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    pub nameservers: Vec<String>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads a resolv.conf, resolv.conf(5).
    pub fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => resolver.nameservers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => resolver.search = words.map(str::to_owned).collect(),
                Some("options") => resolver.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        resolver
    }

    /// Lets `--dns`, `--dns-search` and `--dns-option` win. `--dns-search .` means none.
    pub fn overridden(mut self, host: &HostConfig) -> Self {
        for (mine, given) in [
            (&mut self.nameservers, &host.dns),
            (&mut self.search, &host.dns_search),
            (&mut self.options, &host.dns_options),
        ] {
            if !given.is_empty() {
                mine.clone_from(given);
            }
        }
        self.search.retain(|domain| domain != ".");
        self
    }

    /// The file's text.
    pub fn render(&self) -> String {
        let mut text: String = self
            .nameservers
            .iter()
            .map(|server| format!("nameserver {server}\n"))
            .collect();
        for (key, words) in [("search", &self.search), ("options", &self.options)] {
            if !words.is_empty() {
                text.push_str(&format!("{key} {}\n", words.join(" ")));
            }
        }
        text
    }
}

/// Checks `--add-host` and `--dns*`.
///
/// # Errors
/// The first entry that could break its file, quoted.
pub fn check(host: &HostConfig) -> Result<()> {
    host.extra_hosts
        .iter()
        .try_for_each(|entry| extra_host(entry).map(drop))?;
    if let Some(bad) = host.dns.iter().find(|server| server.parse::<IpAddr>().is_err()) {
        return Err(EngineError::Invalid(format!(
            "invalid DNS server {bad:?}: expected an IP address"
        )));
    }
    let word = |text: &&String| text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control());
    match host.dns_search.iter().chain(&host.dns_options).find(word) {
        Some(bad) => Err(EngineError::Invalid(format!(
            "invalid DNS search domain or option {bad:?}"
        ))),
        None => Ok(()),
    }
}

/// Writes the three files into `dir`; returns source and destination of each.
///
/// # Errors
/// A file that cannot be written.
pub fn write(
    dir: &Path,
    hostname: &str,
    hosts: &str,
    resolver: &str,
) -> Result<Vec<(PathBuf, &'static str)>> {
    let hostname = format!("{hostname}\n");
    let files = [
        ("resolv.conf", "/etc/resolv.conf", resolver),
        ("hostname", "/etc/hostname", &hostname),
        ("hosts", "/etc/hosts", hosts),
    ];
    files
        .into_iter()
        .map(|(name, destination, text)| {
            let path = dir.join(name);
            fs::write(&path, text).map_err(EngineError::file("write", &path))?;
            Ok((path, destination))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_hosts_are_read_strictly() {
        assert_eq!(
            extra_host("db:10.0.0.1").unwrap().address,
            Some("10.0.0.1".parse().unwrap())
        );
        assert_eq!(
            extra_host("v6=[::1]").unwrap().address,
            Some("::1".parse().unwrap())
        );
        assert_eq!(
            extra_host("host.docker.internal:host-gateway").unwrap().address,
            None
        );
        for bad in [
            "db",
            "db:",
            ":1.2.3.4",
            "a b:1.2.3.4",
            "db:1.2.3.4\nevil 6.6.6.6",
            "a\nb:1.2.3.4",
        ] {
            assert!(extra_host(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hosts_end_with_the_containers_own_name() {
        let extra = [extra_host("gw:host-gateway").unwrap()];
        let text = hosts(
            &extra,
            Ipv4Addr::new(172, 16, 0, 1),
            &[[172, 17, 0, 2].into()],
            "box",
            "lan",
        );
        assert!(
            text.ends_with("172.16.0.1\tgw\n172.17.0.2\tbox.lan box\n"),
            "{text}"
        );
    }

    #[test]
    fn resolver_with_overrides() {
        let parsed =
            Resolver::parse("# c\nnameserver 1.1.1.1\nsearch a b\noptions ndots:5\nnameserver 8.8.8.8\n");
        let host = HostConfig {
            dns_search: vec![".".into()],
            dns_options: vec!["ndots:0".into()],
            ..Default::default()
        };
        check(&host).unwrap();
        assert_eq!(
            parsed.overridden(&host).render(),
            "nameserver 1.1.1.1\nnameserver 8.8.8.8\noptions ndots:0\n"
        );
        for bad in ["1.2.3", "x\n"] {
            assert!(
                check(&HostConfig {
                    dns: vec![bad.into()],
                    ..Default::default()
                })
                .is_err()
            );
            assert!(
                check(&HostConfig {
                    dns_search: vec!["a b".into()],
                    ..Default::default()
                })
                .is_err()
            );
        }
    }
}
