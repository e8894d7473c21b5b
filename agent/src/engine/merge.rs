//! A create request merged with its image: what the image sets is the default, what the request sets wins.

use super::error::{EngineError, Result};
use crate::api::types::config::{ContainerConfig, HealthConfig};

/// Merges `image` into `config`, Docker's rules.
///
/// # Errors
/// No command at all.
pub fn merge(mut config: ContainerConfig, image: &ContainerConfig) -> Result<ContainerConfig> {
    merge_command(&mut config, image);
    for (port, empty) in &image.exposed_ports {
        config.exposed_ports.entry(port.clone()).or_insert(*empty);
    }
    for (path, empty) in &image.volumes {
        config.volumes.entry(path.clone()).or_insert(*empty);
    }
    for (key, value) in &image.labels {
        config.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    config.env = merge_env(&image.env, &config.env);
    inherit(&mut config.user, &image.user);
    inherit(&mut config.working_dir, &image.working_dir);
    inherit(&mut config.stop_signal, &image.stop_signal);
    config.stop_timeout = config.stop_timeout.or(image.stop_timeout);
    config.shell = config.shell.or_else(|| image.shell.clone());
    config.healthcheck = merge_health(config.healthcheck, image.healthcheck.as_ref());
    if command(&config).next().is_none() {
        return Err(EngineError::Invalid("no command specified".into()));
    }
    Ok(config)
}

/// The words to execute: entrypoint, then command.
pub fn command(config: &ContainerConfig) -> impl Iterator<Item = &String> {
    config
        .entrypoint
        .iter()
        .flatten()
        .chain(config.cmd.iter().flatten())
}

/// An entrypoint given by the request hides the image's command too; `[""]` clears the image's entrypoint.
fn merge_command(config: &mut ContainerConfig, image: &ContainerConfig) {
    if config.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(&image.cmd);
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&image.entrypoint);
        }
    }
    if config
        .entrypoint
        .as_ref()
        .is_some_and(|words| words.len() == 1 && words[0].is_empty())
    {
        config.entrypoint = None;
    }
}

/// The image's variables, replaced or followed by the request's. A bare `NAME` in the request removes the variable.
fn merge_env(image: &[String], request: &[String]) -> Vec<String> {
    let mut merged: Vec<String> = image.to_vec();
    for entry in request {
        merged.retain(|known| name(known) != name(entry));
        if entry.contains('=') {
            merged.push(entry.clone());
        }
    }
    merged
}

fn name(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

fn inherit(value: &mut String, default: &String) {
    if value.is_empty() {
        value.clone_from(default);
    }
}

fn merge_health(request: Option<HealthConfig>, image: Option<&HealthConfig>) -> Option<HealthConfig> {
    let (Some(mut request), Some(image)) = (request.clone(), image) else {
        return request.or_else(|| image.cloned());
    };
    if request.test.is_empty() {
        request.test.clone_from(&image.test);
    }
    for (value, default) in [
        (&mut request.interval, image.interval),
        (&mut request.timeout, image.timeout),
        (&mut request.start_period, image.start_period),
        (&mut request.start_interval, image.start_interval),
        (&mut request.retries, image.retries),
    ] {
        if *value == 0 {
            *value = default;
        }
    }
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Option<Vec<String>> {
        Some(list.iter().map(|w| (*w).to_owned()).collect())
    }

    fn image() -> ContainerConfig {
        ContainerConfig {
            entrypoint: words(&["/entry"]),
            cmd: words(&["serve"]),
            env: vec!["PATH=/bin".into(), "A=1".into()],
            user: "app".into(),
            ..Default::default()
        }
    }

    fn line(config: ContainerConfig) -> String {
        let merged = merge(config, &image()).unwrap();
        command(&merged).cloned().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn entrypoint_and_command() {
        assert_eq!(line(ContainerConfig::default()), "/entry serve");
        assert_eq!(
            line(ContainerConfig {
                cmd: words(&["sh"]),
                ..Default::default()
            }),
            "/entry sh"
        );
        assert_eq!(
            line(ContainerConfig {
                entrypoint: words(&["/bin/ls"]),
                ..Default::default()
            }),
            "/bin/ls"
        );
        let cleared = ContainerConfig {
            entrypoint: words(&[""]),
            cmd: words(&["sh"]),
            ..Default::default()
        };
        assert_eq!(line(cleared), "sh");
    }

    #[test]
    fn nothing_to_run_is_an_error() {
        let error = merge(ContainerConfig::default(), &ContainerConfig::default()).unwrap_err();
        assert_eq!(error.to_string(), "no command specified");
    }

    #[test]
    fn request_wins_over_image() {
        let request = ContainerConfig {
            env: vec!["A=2".into(), "B=3".into(), "PATH".into()],
            user: "root".into(),
            ..Default::default()
        };
        let merged = merge(request, &image()).unwrap();
        assert_eq!(merged.env, ["A=2", "B=3"]);
        assert_eq!(merged.user, "root");
    }

    #[test]
    fn a_health_override_inherits_what_it_leaves_out() {
        let image = HealthConfig {
            test: vec!["CMD".into(), "x".into()],
            interval: 5,
            retries: 2,
            ..Default::default()
        };
        let request = HealthConfig {
            interval: 9,
            ..Default::default()
        };
        let merged = merge_health(Some(request), Some(&image)).unwrap();
        assert_eq!((merged.test.len(), merged.interval, merged.retries), (2, 9, 2));
    }
}
