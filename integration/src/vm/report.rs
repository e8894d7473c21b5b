//! What a guest says over the serial line, between the kernel's own words:
//!
//! ```text
//! CHECK <name> ok
//! CHECK <name> failed <why, on one line>
//! CHECK done <number of checks>
//! ```

use anyhow::{Result, bail};

/// Name of the last line.
pub const DONE: &str = "done";
const MARK: &str = "CHECK ";

/// One check's line. What went wrong may have several lines; here it has one.
pub fn line(name: &str, outcome: &Result<()>) -> String {
    match outcome {
        Ok(()) => format!("{MARK}{name} ok"),
        Err(error) => format!(
            "{MARK}{name} failed {}",
            format!("{error:#}").replace('\n', "\\n")
        ),
    }
}

/// Everything that a guest said.
#[derive(Debug)]
pub struct Report {
    /// Names and outcomes, in order.
    checks: Vec<(String, Option<String>)>,
    /// How many checks the guest says it made; absent if it did not come to its end.
    done: Option<usize>,
    log: String,
}

impl Report {
    /// Reads the serial line.
    pub fn parse(log: &str) -> Self {
        let mut report = Self {
            checks: Vec::new(),
            done: None,
            log: log.to_owned(),
        };
        // The kernel may have written into the same line before.
        for text in log.lines().filter_map(|line| Some(line.split_once(MARK)?.1)) {
            match text.split_once(' ') {
                Some((DONE, count)) => report.done = count.parse().ok(),
                Some((name, "ok")) => report.checks.push((name.to_owned(), None)),
                Some((name, text)) => {
                    let why = text.strip_prefix("failed ").unwrap_or(text).to_owned();
                    report.checks.push((name.to_owned(), Some(why)));
                }
                None => {}
            }
        }
        report
    }

    /// How many checks were made, if all went well; else what failed, and the whole log.
    pub fn verdict(&self) -> Result<usize> {
        let failures: Vec<String> = self
            .checks
            .iter()
            .filter_map(|(name, why)| Some(format!("{name}: {}", why.as_ref()?.replace("\\n", "\n"))))
            .collect();
        let complete = self.done == Some(self.checks.len()) && !self.checks.is_empty();
        if failures.is_empty() && complete {
            return Ok(self.checks.len());
        }
        let end = if complete {
            ""
        } else {
            "the guest did not come to its end\n"
        };
        bail!(
            "{end}{}\n---- log of the guest ----\n{}",
            failures.join("\n"),
            self.log
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_checks_must_be_there_and_good() {
        let verdict = |log: &str| Report::parse(log).verdict();
        assert_eq!(
            verdict("[0.1] CHECK a ok\nnoise\nCHECK b ok\nCHECK done 2\n").unwrap(),
            2
        );
        assert!(verdict("CHECK a ok\nCHECK b failed no\\nreason\nCHECK done 2\n").is_err());
        assert!(verdict("CHECK a ok\nKernel panic\n").is_err());
        assert!(verdict("CHECK a ok\nCHECK done 2\n").is_err(), "a line was lost");
        assert!(verdict("CHECK done 0\n").is_err());
    }

    #[test]
    fn a_failure_is_one_line() {
        let failed = line("x", &Err(anyhow::anyhow!("one\ntwo")));
        assert_eq!(failed, "CHECK x failed one\\ntwo");
        let error = Report::parse(&failed).verdict().unwrap_err().to_string();
        assert!(error.contains("x: one\ntwo"), "{error}");
    }
}
