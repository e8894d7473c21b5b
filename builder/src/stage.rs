//! The state of a stage between two steps: configuration, variables, key; and what instructions without files do to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use storage::image::{exposed, host_architecture, set_env};
use storage::{DockerConfig, Healthcheck, ImageConfiguration, ImageId, RootFd};

use crate::dockerfile::{Command, HealthcheckSpec};
use crate::error::StepError;

/// A stage under construction, or finished.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) config: ImageConfiguration,
    /// What the next step's key is made from.
    pub(crate) key: storage::Digest,
    /// The image that this is as long as no step has changed it.
    pub(crate) unchanged: Option<ImageId>,
    /// Declared arguments that have a value.
    pub(crate) args: BTreeMap<String, String>,
    /// `CMD` was set in this stage: `ENTRYPOINT` then leaves it.
    pub(crate) cmd_set: bool,
    /// The file system so far, if it was looked at.
    pub(crate) view: Option<Arc<RootFd>>,
}

impl Stage {
    /// Nothing at all: `FROM scratch`.
    pub(crate) fn scratch() -> Self {
        let config = ImageConfiguration {
            architecture: host_architecture().into(),
            os: "linux".into(),
            ..Default::default()
        };
        Self::over(config, storage::Digest::of(b"scratch"), None)
    }

    /// On top of an image.
    pub(crate) fn over(config: ImageConfiguration, key: storage::Digest, unchanged: Option<ImageId>) -> Self {
        Self {
            config,
            key,
            unchanged,
            args: BTreeMap::new(),
            cmd_set: false,
            view: None,
        }
    }

    /// The value of a variable: the environment wins over an argument.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        let env = self
            .config
            .config
            .env
            .iter()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        env.map(str::to_owned).or_else(|| self.args.get(name).cloned())
    }

    /// A path as seen from the working directory.
    pub(crate) fn absolute(&self, path: &str) -> String {
        if path.starts_with('/') {
            return path.to_owned();
        }
        let base = self.config.config.working_dir.trim_end_matches('/');
        format!("{base}/{path}")
    }

    fn docker(&mut self) -> &mut DockerConfig {
        &mut self.config.config
    }

    pub(crate) fn env(&mut self, pairs: &[(String, String)]) {
        for (name, value) in pairs {
            set_env(&mut self.docker().env, name, value);
        }
    }

    pub(crate) fn labels(&mut self, pairs: &[(String, String)]) {
        self.docker().labels.extend(pairs.iter().cloned());
    }

    /// Sets the working directory; the new one, cleaned.
    pub(crate) fn workdir(&mut self, path: &str) -> String {
        let mut parts: Vec<&str> = Vec::new();
        let absolute = self.absolute(path);
        for part in absolute.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                other => parts.push(other),
            }
        }
        let clean = format!("/{}", parts.join("/"));
        self.docker().working_dir.clone_from(&clean);
        clean
    }

    pub(crate) fn user(&mut self, user: String) {
        self.docker().user = user;
    }

    /// `80`, `80/udp`, `8000-8010/tcp`.
    pub(crate) fn expose(&mut self, ports: &[String]) -> Result<(), StepError> {
        for port in ports {
            let bad = || StepError::Invalid(format!("invalid containerPort: {port}"));
            let (range, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (u16, u16) = (
                first.parse().map_err(|_| bad())?,
                last.parse().map_err(|_| bad())?,
            );
            if first > last {
                return Err(bad());
            }
            for number in first..=last {
                let key = exposed(&format!("{number}/{protocol}")).ok_or_else(bad)?;
                self.docker().exposed_ports.insert(key);
            }
        }
        Ok(())
    }

    pub(crate) fn volumes(&mut self, paths: Vec<String>) -> Result<(), StepError> {
        if paths.iter().any(|path| path.trim().is_empty()) {
            return Err(StepError::Invalid(
                "VOLUME specified can not be an empty string".into(),
            ));
        }
        self.docker().volumes.extend(paths);
        Ok(())
    }

    pub(crate) fn entrypoint(&mut self, command: &Command) {
        self.docker().entrypoint = Some(self.words(command));
        if !self.cmd_set {
            self.docker().cmd = None;
        }
    }

    pub(crate) fn cmd(&mut self, command: &Command) {
        self.docker().cmd = Some(self.words(command));
        self.cmd_set = true;
    }

    pub(crate) fn shell(&mut self, shell: &[String]) {
        self.docker().shell = Some(shell.to_vec());
    }

    pub(crate) fn stop_signal(&mut self, signal: String) -> Result<(), StepError> {
        if !is_signal(&signal) {
            return Err(StepError::Invalid(format!("invalid signal: {signal}")));
        }
        self.docker().stop_signal = Some(signal);
        Ok(())
    }

    pub(crate) fn healthcheck(&mut self, spec: &HealthcheckSpec) {
        self.docker().healthcheck = Some(match spec {
            HealthcheckSpec::None => Healthcheck {
                test: vec!["NONE".into()],
                ..Default::default()
            },
            HealthcheckSpec::Check {
                command,
                interval,
                timeout,
                start_period,
                start_interval,
                retries,
            } => {
                let test = match command {
                    Command::Exec(words) => std::iter::once("CMD".to_owned())
                        .chain(words.iter().cloned())
                        .collect(),
                    Command::Shell(text) => vec!["CMD-SHELL".into(), text.clone()],
                };
                Healthcheck {
                    test,
                    interval: *interval,
                    timeout: *timeout,
                    start_period: *start_period,
                    start_interval: *start_interval,
                    retries: *retries,
                }
            }
        });
    }

    pub(crate) fn on_build(&mut self, trigger: &str) {
        self.docker().on_build.push(trigger.to_owned());
    }

    fn words(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(text) => {
                let default = || vec!["/bin/sh".to_owned(), "-c".to_owned()];
                let mut words = self.config.config.shell.clone().unwrap_or_else(default);
                words.push(text.clone());
                words
            }
        }
    }
}

/// A number or a name, with or without `SIG` (signal(7)).
fn is_signal(signal: &str) -> bool {
    const NAMES: [&str; 34] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
        "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
        "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
    ];
    if let Ok(number) = signal.parse::<u8>() {
        return (1..=64).contains(&number);
    }
    let upper = signal.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    NAMES.contains(&name) || name.starts_with("RTMIN") || name.starts_with("RTMAX")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entrypoint_drops_an_inherited_command_only() {
        let mut stage = Stage::scratch();
        stage.config.config.cmd = Some(vec!["old".into()]);
        stage.entrypoint(&Command::Exec(vec!["e".into()]));
        assert_eq!(stage.config.config.cmd, None);
        stage.cmd(&Command::Shell("x y".into()));
        stage.entrypoint(&Command::Exec(vec!["f".into()]));
        assert_eq!(
            stage.config.config.cmd,
            Some(vec!["/bin/sh".into(), "-c".into(), "x y".into()])
        );
    }

    #[test]
    fn working_directories_add_up() {
        let mut stage = Stage::scratch();
        assert_eq!(stage.workdir("a"), "/a");
        assert_eq!(stage.workdir("b/../c"), "/a/c");
        assert_eq!(stage.workdir("/../x/"), "/x");
        assert_eq!(stage.absolute("f"), "/x/f");
    }

    #[test]
    fn ports_signals_and_volumes_are_checked() {
        let mut stage = Stage::scratch();
        stage.expose(&["80".into(), "8000-8002/udp".into()]).unwrap();
        assert_eq!(stage.config.config.exposed_ports.len(), 4);
        for bad in ["0", "x", "2-1", "80/xyz", "70000"] {
            assert!(stage.expose(&[bad.into()]).is_err(), "{bad}");
        }
        for good in ["9", "SIGTERM", "term", "SIGRTMIN+3"] {
            assert!(stage.stop_signal(good.into()).is_ok(), "{good}");
        }
        assert!(stage.stop_signal("SIGNOPE".into()).is_err() && stage.stop_signal("0".into()).is_err());
        assert!(stage.volumes(vec![" ".into()]).is_err());
    }

    #[test]
    fn the_environment_wins_over_arguments() {
        let mut stage = Stage::scratch();
        stage.args.insert("x".into(), "arg".into());
        assert_eq!(stage.variable("x").as_deref(), Some("arg"));
        stage.env(&[("x".into(), "env".into()), ("xy".into(), "2".into())]);
        assert_eq!(stage.variable("x").as_deref(), Some("env"));
    }
}
