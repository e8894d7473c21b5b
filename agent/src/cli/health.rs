//! Flags of a health check, of containers and of services.

use anyhow::{Result, bail};
use clap::Args;
use proto::spec::HealthConfig;

use super::service_spec::words::{nanoseconds, set};

/// What is said of a check; what is not said stays as it is.
#[derive(Debug, Args)]
pub(crate) struct HealthFlags {
    /// Command to run to check health
    #[arg(long)]
    health_cmd: Option<String>,
    /// Time between running the check (ms|s|m|h)
    #[arg(long)]
    health_interval: Option<String>,
    /// Maximum time to allow one check to run (ms|s|m|h)
    #[arg(long)]
    health_timeout: Option<String>,
    /// Consecutive failures needed to report unhealthy
    #[arg(long)]
    health_retries: Option<i64>,
    /// Start period for the container to initialize before starting health-retries countdown (ms|s|m|h)
    #[arg(long)]
    health_start_period: Option<String>,
    /// Time between running the check during the start period (ms|s|m|h)
    #[arg(long)]
    health_start_interval: Option<String>,
    /// Disable any container-specified HEALTHCHECK
    #[arg(long)]
    no_healthcheck: bool,
}

impl HealthFlags {
    /// Writes the flags into a check.
    ///
    /// # Errors
    /// A time that cannot be read, or a check that is both described and switched off.
    pub(crate) fn apply(&self, check: &mut Option<HealthConfig>) -> Result<()> {
        let described = self.described();
        if self.no_healthcheck {
            if described {
                bail!("--no-healthcheck conflicts with --health-* options");
            }
            *check = Some(HealthConfig {
                test: vec!["NONE".to_owned()],
                ..HealthConfig::default()
            });
        } else if described {
            self.change(check.get_or_insert_default())?;
            // As the image says, again.
            check.take_if(|check| *check == HealthConfig::default());
        }
        Ok(())
    }

    fn described(&self) -> bool {
        let words = [
            &self.health_cmd,
            &self.health_interval,
            &self.health_timeout,
            &self.health_start_period,
            &self.health_start_interval,
        ];
        words.iter().any(|word| word.is_some()) || self.health_retries.is_some()
    }

    fn change(&self, check: &mut HealthConfig) -> Result<()> {
        let line = self.health_cmd.clone();
        set(
            &mut check.test,
            line.map(|line| vec!["CMD-SHELL".to_owned(), line]),
        );
        for (place, word) in [
            (&mut check.interval, &self.health_interval),
            (&mut check.timeout, &self.health_timeout),
            (&mut check.start_period, &self.health_start_period),
            (&mut check.start_interval, &self.health_start_interval),
        ] {
            set(place, nanoseconds(word.as_deref())?);
        }
        set(&mut check.retries, self.health_retries);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        health: HealthFlags,
    }

    fn apply(words: &[&str], mut check: Option<HealthConfig>) -> Result<Option<HealthConfig>> {
        Line::try_parse_from([&["x"], words].concat())?
            .health
            .apply(&mut check)?;
        Ok(check)
    }

    #[test]
    fn what_is_not_said_stays() {
        let before = HealthConfig {
            test: vec!["CMD".to_owned(), "true".to_owned()],
            retries: 5,
            ..HealthConfig::default()
        };
        assert_eq!(apply(&[], None).unwrap(), None);
        assert_eq!(apply(&[], Some(before.clone())).unwrap(), Some(before.clone()));
        let after = apply(&["--health-interval=2s"], Some(before)).unwrap().unwrap();
        assert_eq!((after.interval, after.retries), (2_000_000_000, 5));
        assert_eq!(
            apply(&["--no-healthcheck"], Some(after)).unwrap().unwrap().test,
            ["NONE"]
        );
        assert!(apply(&["--no-healthcheck", "--health-cmd=x"], None).is_err());
    }
}
