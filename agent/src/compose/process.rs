//! How a service's process is set up: environment, health, names, limits and security.

use std::collections::BTreeMap;

use proto::spec::{DnsConfig, HealthConfig, LogDriver, Privileges, SeccompOptions, Ulimit};

use super::env_file;
use super::error::ComposeError;
use super::reader::{At, Object};

type Read<T> = Result<T, ComposeError>;

/// Variables of the files first, those of the file itself over them; sorted, so that equal sets make equal specs.
pub(super) fn environment(object: &mut Object<'_>) -> Read<Vec<String>> {
    let mut variables = BTreeMap::new();
    if let Some(at) = object.take("env_file") {
        for file in if at.is_list() { at.list()? } else { vec![at] } {
            variables.extend(env_file_of(&file)?);
        }
    }
    if let Some(at) = object.take("environment") {
        for (name, value) in at.pairs()? {
            if name.is_empty() {
                return Err(at.wrong("a variable has no name"));
            }
            // Without a value it is passed on from the shell, if it is set there.
            match value.or_else(|| at.context.variables.get(&name).cloned()) {
                Some(value) => variables.insert(name, value),
                None => variables.remove(&name),
            };
        }
    }
    Ok(variables
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect())
}

fn env_file_of(at: &At<'_>) -> Read<Vec<(String, String)>> {
    let (path, required, raw) = if at.is_map() {
        let mut object = at.object()?;
        let path = object.required("path", At::text)?;
        let required = object.read("required", At::truth)?.unwrap_or(true);
        let format = object.read("format", At::text)?;
        object.finish()?;
        if let Some(other) = format.as_deref().filter(|format| *format != "raw") {
            return Err(at.wrong(format!("format {other:?} is not known: there is raw, or none")));
        }
        (path, required, format.is_some())
    } else {
        (at.text()?, true, false)
    };
    let parse = if raw { env_file::parse_raw } else { env_file::parse };
    let file = at.context.directory.join(&path);
    match std::fs::read_to_string(&file) {
        Ok(text) => parse(&text, &at.context.variables)
            .map_err(|problem| at.wrong(format!("env file {}: {problem}", file.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => Ok(Vec::new()),
        Err(error) => Err(at.wrong(format!(
            "cannot read env file {}: {error}; make the file, or say `required: false`",
            file.display()
        ))),
    }
}

pub(super) fn healthcheck(at: &At<'_>) -> Read<HealthConfig> {
    let mut object = at.object()?;
    let disable = object.or_default("disable", At::truth)?;
    let test = object.read("test", |at| {
        if at.is_list() {
            return at.scalars();
        }
        Ok(vec!["CMD-SHELL".to_owned(), at.text()?])
    })?;
    if disable && test.is_some() {
        return Err(at.wrong("disable and test exclude each other"));
    }
    let config = HealthConfig {
        test: if disable {
            vec!["NONE".to_owned()]
        } else {
            test.unwrap_or_default()
        },
        interval: object.or_default("interval", At::duration)?,
        timeout: object.or_default("timeout", At::duration)?,
        start_period: object.or_default("start_period", At::duration)?,
        start_interval: object.or_default("start_interval", At::duration)?,
        retries: object.or_default("retries", At::integer)?,
    };
    object.finish()?;
    match config.test.first().map(String::as_str) {
        None | Some("NONE" | "CMD" | "CMD-SHELL") => Ok(config),
        Some(other) => Err(at.wrong(format!(
            "test must begin with NONE, CMD or CMD-SHELL, not with {other:?}"
        ))),
    }
}

pub(super) fn logging(at: &At<'_>) -> Read<LogDriver> {
    let mut object = at.object()?;
    let driver = LogDriver {
        name: object.or_default("driver", At::text)?,
        options: object.or_default("options", At::labels)?,
    };
    object.finish()?;
    Ok(driver)
}

pub(super) fn security(at: &At<'_>) -> Read<Option<Privileges>> {
    let mut privileges = Privileges::default();
    for item in at.list()? {
        match item.text()?.as_str() {
            "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true" => {
                privileges.no_new_privileges = true;
            }
            "seccomp:unconfined" | "seccomp=unconfined" => {
                privileges.seccomp = Some(SeccompOptions {
                    mode: "unconfined".to_owned(),
                    profile: String::new(),
                });
            }
            _ => item.warn("not acted on in a stack"),
        }
    }
    Ok((privileges != Privileges::default()).then_some(privileges))
}

/// `name: address`, or a list of `name:address` or `name=address`, as lines `address name`.
pub(super) fn extra_hosts(at: &At<'_>) -> Read<Vec<String>> {
    let line = |name: &str, address: &str| format!("{} {name}", address.trim_matches(['[', ']']));
    if at.is_map() {
        let one = |(name, at): (&str, At<'_>)| {
            Ok(at
                .one_or_more()?
                .iter()
                .map(|ip| line(name, ip))
                .collect::<Vec<_>>())
        };
        let lines: Vec<Vec<String>> = at.map()?.into_iter().map(one).collect::<Read<_>>()?;
        return Ok(lines.into_iter().flatten().collect());
    }
    let one = |text: String| {
        let pair = text.split_once('=').or_else(|| text.split_once(':'));
        let (name, address) = pair.ok_or_else(|| at.wrong(format!("{text:?} is not name=address")))?;
        Ok(line(name, address))
    };
    at.scalars()?.into_iter().map(one).collect()
}

pub(super) fn dns(object: &mut Object<'_>) -> Read<Option<DnsConfig>> {
    let config = DnsConfig {
        nameservers: object.or_default("dns", At::one_or_more)?,
        search: object.or_default("dns_search", At::one_or_more)?,
        options: object.or_default("dns_opt", At::one_or_more)?,
    };
    Ok((config != DnsConfig::default()).then_some(config))
}

pub(super) fn ulimits(at: &At<'_>) -> Read<Vec<Ulimit>> {
    let one = |(name, at): (&str, At<'_>)| {
        let (soft, hard) = if at.is_map() {
            let mut object = at.object()?;
            let pair = (
                object.required("soft", At::integer)?,
                object.required("hard", At::integer)?,
            );
            object.finish()?;
            pair
        } else {
            (at.integer()?, at.integer()?)
        };
        Ok(Ulimit {
            name: name.to_owned(),
            hard,
            soft,
        })
    };
    at.map()?.into_iter().map(one).collect()
}
