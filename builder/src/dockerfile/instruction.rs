//! One instruction: its word, its flags, its arguments, still with variables in them.

use std::collections::BTreeMap;

use super::duration;
use super::words::split_quoted;

/// An instruction and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Instruction {
    pub(crate) line: usize,
    /// The joined line, the word in upper case.
    pub(crate) text: String,
    pub(crate) kind: Kind,
}

/// `--name=value` after the word.
pub(crate) type Flags = BTreeMap<String, String>;

/// What is asked. Strings still have their variables and quotes unless said otherwise.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    From {
        image: String,
        name: Option<String>,
        platform: Option<String>,
    },
    /// Names with an optional default.
    Arg(Vec<(String, Option<String>)>),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Copy {
        flags: Flags,
        sources: Vec<String>,
        target: String,
    },
    Add {
        flags: Flags,
        sources: Vec<String>,
        target: String,
    },
    Workdir(String),
    User(String),
    Expose(String),
    Volume(Vec<String>),
    /// Final words; variables belong to the shell that runs them.
    Entrypoint(Command),
    Cmd(Command),
    Shell(Vec<String>),
    StopSignal(String),
    Healthcheck(HealthcheckSpec),
    OnBuild(String),
    Maintainer(String),
    Run(String),
}

/// The two forms of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Exec(Vec<String>),
    Shell(String),
}

/// `HEALTHCHECK NONE` or a check; durations in nanoseconds, 0 where not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HealthcheckSpec {
    None,
    Check {
        command: Command,
        interval: i64,
        timeout: i64,
        start_period: i64,
        start_interval: i64,
        retries: i64,
    },
}

/// Parses the joined text of an instruction.
pub(crate) fn parse_one(text: &str, line: usize, escape: char) -> Result<Instruction, String> {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let word = word.to_ascii_uppercase();
    let (flags, rest) = flags(rest.trim(), &word)?;
    let kind = arguments(&word, &flags, rest, escape)?;
    allowed(&word, &flags)?;
    let text = if rest.is_empty() && flags.is_empty() {
        word
    } else {
        format!("{word} {}", text[word.len()..].trim())
    };
    Ok(Instruction { line, text, kind })
}

fn arguments(word: &str, flags: &Flags, rest: &str, escape: char) -> Result<Kind, String> {
    let text = || required(word, rest).map(str::to_owned);
    Ok(match word {
        "FROM" => from(rest, flags)?,
        "ARG" => Kind::Arg(arg(required(word, rest)?, escape)?),
        "ENV" => Kind::Env(pairs(word, rest, escape)?),
        "LABEL" => Kind::Label(pairs(word, rest, escape)?),
        "COPY" | "ADD" => files(word, flags, rest)?,
        "WORKDIR" => Kind::Workdir(text()?),
        "USER" => Kind::User(one(word, rest)?),
        "EXPOSE" => Kind::Expose(text()?),
        "VOLUME" => Kind::Volume(json(required(word, rest)?).unwrap_or_else(|| words(rest))),
        "ENTRYPOINT" => Kind::Entrypoint(command(required(word, rest)?)),
        "CMD" => Kind::Cmd(command(rest)),
        "SHELL" => Kind::Shell(
            json(rest)
                .filter(|shell| !shell.is_empty())
                .ok_or("SHELL requires the arguments to be in JSON form")?,
        ),
        "STOPSIGNAL" => Kind::StopSignal(one(word, rest)?),
        "HEALTHCHECK" => Kind::Healthcheck(healthcheck(flags, rest)?),
        "ONBUILD" => on_build(required(word, rest)?)?,
        "MAINTAINER" => Kind::Maintainer(text()?),
        "RUN" => Kind::Run(text()?),
        other => return Err(format!("unknown instruction: {other}")),
    })
}

/// The flags between the word and its arguments.
fn flags<'a>(mut rest: &'a str, word: &str) -> Result<(Flags, &'a str), String> {
    let mut found = Flags::new();
    // These take everything literally.
    if matches!(word, "ONBUILD" | "MAINTAINER" | "CMD" | "ENTRYPOINT") {
        return Ok((found, rest));
    }
    while let Some(after) = rest.strip_prefix("--") {
        let end = after.find(char::is_whitespace).unwrap_or(after.len());
        let (flag, remaining) = after.split_at(end);
        rest = remaining.trim_start();
        if flag.is_empty() {
            break;
        }
        let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
        if found.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(format!("duplicate flag specified: {name}"));
        }
    }
    Ok((found, rest))
}

/// Refuses flags that mean nothing here, by name.
fn allowed(word: &str, flags: &Flags) -> Result<(), String> {
    let (known, later): (&[&str], &[&str]) = match word {
        "FROM" => (&["platform"], &[]),
        "COPY" => (&["from", "chown", "chmod"], &["link", "parents", "exclude"]),
        "ADD" => (
            &["chown", "chmod"],
            &["link", "checksum", "keep-git-dir", "exclude", "unpack"],
        ),
        "HEALTHCHECK" => (
            &["interval", "timeout", "start-period", "start-interval", "retries"],
            &[],
        ),
        // RUN is refused as a whole.
        "RUN" => return Ok(()),
        _ => (&[], &[]),
    };
    for name in flags.keys() {
        if later.contains(&name.as_str()) {
            return Err(format!("{word} --{name} is not built yet"));
        }
        if !known.contains(&name.as_str()) {
            return Err(format!("unknown flag: {name}"));
        }
    }
    Ok(())
}

fn required<'a>(word: &str, rest: &'a str) -> Result<&'a str, String> {
    if rest.is_empty() {
        Err(format!("{word} requires at least one argument"))
    } else {
        Ok(rest)
    }
}

fn one(word: &str, rest: &str) -> Result<String, String> {
    match words(rest).as_slice() {
        [single] => Ok(single.clone()),
        _ => Err(format!("{word} requires exactly one argument")),
    }
}

fn from(rest: &str, flags: &Flags) -> Result<Kind, String> {
    let platform = flags.get("platform").cloned();
    match words(rest).as_slice() {
        [image] => Ok(Kind::From {
            image: image.clone(),
            name: None,
            platform,
        }),
        [image, as_word, name] if as_word.eq_ignore_ascii_case("as") => {
            let name = name.to_lowercase();
            let plain =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
            if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(plain) {
                return Err(format!(
                    "invalid name for build stage: {name:?}, name can't start with a number or contain symbols"
                ));
            }
            Ok(Kind::From {
                image: image.clone(),
                name: Some(name),
                platform,
            })
        }
        _ => Err("FROM requires either one or three arguments: FROM <image> [AS <name>]".into()),
    }
}

fn arg(rest: &str, escape: char) -> Result<Vec<(String, Option<String>)>, String> {
    split_quoted(rest, escape)?
        .into_iter()
        .map(|word| {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            if name.is_empty() {
                Err("ARG names can not be blank".to_owned())
            } else {
                Ok((name.to_owned(), value))
            }
        })
        .collect()
}

/// `NAME=value …`, or the old form `NAME the rest of the line`.
fn pairs(word: &str, rest: &str, escape: char) -> Result<Vec<(String, String)>, String> {
    let parts = split_quoted(required(word, rest)?, escape)?;
    let first = parts.first().map(String::as_str).unwrap_or_default();
    if !first.contains('=') {
        let (name, value) = rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| format!("{word} must have two arguments"))?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    let pair = |part: String| match part.split_once('=') {
        Some(("", _)) => Err(format!("{word} names can not be blank")),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(format!(
            "syntax error - can't find = in {part:?}. Must be of the form: name=value"
        )),
    };
    parts.into_iter().map(pair).collect()
}

fn files(word: &str, flags: &Flags, rest: &str) -> Result<Kind, String> {
    let mut sources = json(rest).unwrap_or_else(|| words(rest));
    if sources.iter().any(|source| is_heredoc(source)) {
        return Err(format!(
            "{word} with a here-document (<<) is not built yet: put the text into a file of the context"
        ));
    }
    let target = sources.pop().filter(|_| !sources.is_empty());
    let target = target.ok_or_else(|| format!("{word} requires at least two arguments, but only one was provided. Destination could not be determined"))?;
    let flags = flags.clone();
    Ok(match word {
        "COPY" => Kind::Copy {
            flags,
            sources,
            target,
        },
        _ => Kind::Add {
            flags,
            sources,
            target,
        },
    })
}

/// BuildKit's `<<EOF`, `<<-EOF`, `3<<EOF`.
fn is_heredoc(word: &str) -> bool {
    let word = word.trim_start_matches(|c: char| c.is_ascii_digit());
    word.strip_prefix("<<")
        .is_some_and(|rest| !rest.trim_start_matches('-').is_empty() && !rest.contains('<'))
}

fn healthcheck(flags: &Flags, rest: &str) -> Result<HealthcheckSpec, String> {
    let (word, arguments) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    if word.eq_ignore_ascii_case("none") {
        return if arguments.trim().is_empty() && flags.is_empty() {
            Ok(HealthcheckSpec::None)
        } else {
            Err("HEALTHCHECK NONE takes no arguments".into())
        };
    }
    if !word.eq_ignore_ascii_case("cmd") {
        return Err(format!("unknown type {word:?} of HEALTHCHECK: use CMD or NONE"));
    }
    let arguments = arguments.trim();
    if arguments.is_empty() {
        return Err("missing command after HEALTHCHECK CMD".into());
    }
    let time = |name: &str| match flags.get(name) {
        None => Ok(0),
        Some(value) => match duration::parse(value) {
            Some(0) => Ok(0),
            Some(nanos) if nanos >= 1_000_000 => Ok(nanos),
            _ => Err(format!(
                "HEALTHCHECK --{name}={value}: must be a duration of at least 1ms, such as 30s"
            )),
        },
    };
    let retries = match flags.get("retries") {
        None => 0,
        Some(value) => value
            .parse()
            .ok()
            .filter(|n: &i64| *n >= 0)
            .ok_or_else(|| format!("HEALTHCHECK --retries={value}: must be a number, 0 or greater"))?,
    };
    Ok(HealthcheckSpec::Check {
        command: command(arguments),
        interval: time("interval")?,
        timeout: time("timeout")?,
        start_period: time("start-period")?,
        start_interval: time("start-interval")?,
        retries,
    })
}

fn on_build(rest: &str) -> Result<Kind, String> {
    let word = rest
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_ascii_uppercase();
    match word.as_str() {
        "ONBUILD" => Err("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".into()),
        "MAINTAINER" | "FROM" => Err(format!("{word} isn't allowed as an ONBUILD trigger")),
        _ => Ok(Kind::OnBuild(format!("{word}{}", &rest[word.len()..]))),
    }
}

/// Exec form if it is a JSON array of strings, shell form otherwise (Docker falls back in the same way).
fn command(rest: &str) -> Command {
    match json(rest) {
        Some(words) => Command::Exec(words),
        None => Command::Shell(rest.to_owned()),
    }
}

fn json(rest: &str) -> Option<Vec<String>> {
    if !rest.trim_start().starts_with('[') {
        return None;
    }
    serde_json::from_str(rest).ok()
}

fn words(rest: &str) -> Vec<String> {
    rest.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> Result<Kind, String> {
        parse_one(text, 1, '\\').map(|instruction| instruction.kind)
    }

    #[test]
    fn forms_are_told_apart() {
        assert_eq!(
            kind(r#"CMD ["a", "b"]"#).unwrap(),
            Kind::Cmd(Command::Exec(vec!["a".into(), "b".into()]))
        );
        assert_eq!(
            kind("CMD [a b").unwrap(),
            Kind::Cmd(Command::Shell("[a b".into()))
        );
        assert_eq!(
            kind("ENV a b c").unwrap(),
            Kind::Env(vec![("a".into(), "b c".into())])
        );
        assert_eq!(
            kind(r#"ENV a=1 b="x y""#).unwrap(),
            Kind::Env(vec![("a".into(), "1".into()), ("b".into(), "\"x y\"".into())])
        );
        assert_eq!(
            kind("from x as Base").unwrap(),
            Kind::From {
                image: "x".into(),
                name: Some("base".into()),
                platform: None
            }
        );
        assert!(matches!(kind("COPY --from=a --chown=1:2 x y z/").unwrap(),
            Kind::Copy { flags, sources, target } if flags.len() == 2 && sources.len() == 2 && target == "z/"));
        assert!(matches!(
            kind("HEALTHCHECK --interval=5s --retries=3 CMD x").unwrap(),
            Kind::Healthcheck(HealthcheckSpec::Check {
                interval: 5_000_000_000,
                retries: 3,
                ..
            })
        ));
        assert_eq!(
            kind("onbuild copy a b").unwrap(),
            Kind::OnBuild("COPY a b".into())
        );
    }

    #[test]
    fn mistakes_are_refused_with_a_reason() {
        let cases = [
            ("FROM", "FROM requires"),
            ("FROM a b", "FROM requires"),
            ("FROM a AS 1x", "invalid name for build stage"),
            ("COPY a", "requires at least two arguments"),
            ("COPY --link a b", "not built yet"),
            ("COPY --nope a b", "unknown flag: nope"),
            ("COPY <<EOF /x", "here-document"),
            ("ENV a", "must have two arguments"),
            ("ENV a=1 b", "can't find ="),
            ("ENV =1", "can not be blank"),
            ("SHELL sh -c", "JSON form"),
            ("HEALTHCHECK FOO", "unknown type"),
            ("HEALTHCHECK --interval=1 CMD x", "duration"),
            ("ONBUILD FROM x", "isn't allowed"),
            ("USER a b", "exactly one"),
            ("LABEL a=\"b", "matching quote"),
        ];
        for (text, reason) in cases {
            let error = kind(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
