//! Dockerfile instructions that change only a configuration: `import --change`, and the builder's second half.
//!
//! Docker allows CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR here.

use super::DockerConfig;

/// Why a `--change` instruction was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("{instruction} is not a valid change command")]
    Unknown { instruction: String },
    #[error("change {line:?}: {reason}")]
    Invalid { line: String, reason: String },
}

/// Applies one line, e.g. `ENV A=1 B="two words"`.
pub(super) fn apply(config: &mut DockerConfig, line: &str) -> Result<(), ChangeError> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let invalid = |reason: &str| ChangeError::Invalid {
        line: line.to_owned(),
        reason: reason.to_owned(),
    };
    let instruction = word.to_ascii_uppercase();
    if rest.is_empty() && KNOWN.contains(&instruction.as_str()) {
        return Err(invalid("it needs an argument"));
    }
    match instruction.as_str() {
        "CMD" => config.cmd = Some(command(rest)),
        "ENTRYPOINT" => config.entrypoint = Some(command(rest)),
        "ENV" => {
            for (key, value) in pairs(rest).map_err(invalid)? {
                set_env(&mut config.env, &key, &value);
            }
        }
        "LABEL" => config.labels.extend(pairs(rest).map_err(invalid)?),
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                config
                    .exposed_ports
                    .insert(exposed(port).ok_or_else(|| invalid("it is no port[/protocol]"))?);
            }
        }
        "VOLUME" => config
            .volumes
            .extend(json_list(rest).unwrap_or_else(|| words(rest))),
        "USER" => config.user = rest.to_owned(),
        "WORKDIR" => {
            if !rest.starts_with('/') {
                return Err(invalid("the working directory must be an absolute path"));
            }
            config.working_dir = rest.to_owned();
        }
        "STOPSIGNAL" => config.stop_signal = Some(rest.to_owned()),
        "ONBUILD" => config.on_build.push(rest.to_owned()),
        "HEALTHCHECK" => return Err(invalid("HEALTHCHECK is not built yet in a change")),
        _ => {
            return Err(ChangeError::Unknown {
                instruction: word.to_owned(),
            });
        }
    }
    Ok(())
}

const KNOWN: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "LABEL",
    "EXPOSE",
    "VOLUME",
    "USER",
    "WORKDIR",
    "STOPSIGNAL",
    "ONBUILD",
    "HEALTHCHECK",
];

/// Sets a variable in an environment list, in place where it is set already.
pub fn set_env(env: &mut Vec<String>, key: &str, value: &str) {
    let line = format!("{key}={value}");
    let is_key = |old: &&mut String| old.split('=').next() == Some(key);
    match env.iter_mut().find(is_key) {
        Some(old) => *old = line,
        None => env.push(line),
    }
}

/// `80`, `80/udp`, `8000-8002/tcp` (first port only is not enough: ranges are refused) as Docker's set keys.
pub fn exposed(port: &str) -> Option<String> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let number: u16 = number.parse().ok().filter(|n| *n > 0)?;
    let protocol = protocol.to_ascii_lowercase();
    matches!(protocol.as_str(), "tcp" | "udp" | "sctp").then(|| format!("{number}/{protocol}"))
}

/// Exec form (a JSON array) or shell form.
fn command(text: &str) -> Vec<String> {
    json_list(text).unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into(), text.to_owned()])
}

fn json_list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// `A=1 B="two words"`, or the old form `A the rest`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (key, value) = text
            .split_once(char::is_whitespace)
            .ok_or("it needs a name and a value")?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    let mut found = Vec::new();
    for word in unquoted_words(text)? {
        let (key, value) = word.split_once('=').ok_or("each part must be NAME=VALUE")?;
        found.push((key.to_owned(), value.to_owned()));
    }
    Ok(found)
}

/// Splits at blanks outside quotes, and takes the quotes and backslashes away.
fn unquoted_words(text: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next()),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed");
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_instruction_changes_its_field() {
        let mut config = DockerConfig::default();
        for line in [
            r#"CMD ["/bin/sh", "-l"]"#,
            "ENTRYPOINT run it",
            r#"env A=1 B="two words""#,
            "ENV A 2 3",
            "EXPOSE 80 53/udp",
            "LABEL x=y",
            "VOLUME /data",
            "USER 1:2",
            "WORKDIR /w",
        ] {
            apply(&mut config, line).unwrap();
        }
        assert_eq!(config.cmd, Some(vec!["/bin/sh".into(), "-l".into()]));
        assert_eq!(
            config.entrypoint,
            Some(vec!["/bin/sh".into(), "-c".into(), "run it".into()])
        );
        assert_eq!(config.env, ["A=2 3", "B=two words"]);
        assert!(config.exposed_ports.contains("53/udp") && config.exposed_ports.contains("80/tcp"));
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("1:2", "/w"));
    }

    #[test]
    fn what_cannot_be_a_change_is_refused_by_name() {
        let mut config = DockerConfig::default();
        assert_eq!(
            apply(&mut config, "RUN x").unwrap_err().to_string(),
            "RUN is not a valid change command"
        );
        assert!(apply(&mut config, "EXPOSE 0").is_err());
        assert!(apply(&mut config, "CMD").is_err());
        assert!(apply(&mut config, "ENV A=\"x").is_err());
    }
}
