//! Instructions → stages, with everything refused that can be seen to fail before the first step.

use crate::dockerfile::{Dockerfile, Instruction, Kind};
use crate::error::BuildError;

/// What is going to be done.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// `ARG`s before the first `FROM`.
    pub(crate) global: Vec<Instruction>,
    /// In file order, up to the target.
    pub(crate) stages: Vec<Stage>,
}

/// One `FROM` and what follows it.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) from: Instruction,
    pub(crate) name: Option<String>,
    pub(crate) instructions: Vec<Instruction>,
}

impl Plan {
    /// The number of steps that are announced.
    pub(crate) fn steps(&self) -> usize {
        self.global.len()
            + self
                .stages
                .iter()
                .map(|stage| 1 + stage.instructions.len())
                .sum::<usize>()
    }
}

/// Plans the stages up to `target`, or all.
pub(crate) fn plan(dockerfile: Dockerfile, file: &str, target: Option<&str>) -> Result<Plan, BuildError> {
    let mut plan = Plan {
        global: Vec::new(),
        stages: Vec::new(),
    };
    for instruction in dockerfile.instructions {
        match (&instruction.kind, plan.stages.last_mut()) {
            (Kind::From { name, .. }, _) => {
                let name = name.clone();
                plan.stages.push(Stage {
                    from: instruction,
                    name,
                    instructions: Vec::new(),
                });
            }
            (Kind::Arg(_), None) => plan.global.push(instruction),
            (_, None) => {
                let reason =
                    "no build stage in current context: the first instruction must be FROM".to_owned();
                return Err(BuildError::Dockerfile {
                    file: file.to_owned(),
                    line: instruction.line,
                    reason,
                });
            }
            (_, Some(stage)) => stage.instructions.push(instruction),
        }
    }
    if let Some(target) = target {
        let wanted = find(&plan.stages, target);
        let wanted = wanted.ok_or_else(|| BuildError::Target {
            file: file.to_owned(),
            target: target.to_owned(),
        })?;
        plan.stages.truncate(wanted + 1);
    }
    if plan.stages.is_empty() {
        return Err(BuildError::Empty(file.to_owned()));
    }
    refuse_run(&plan, file)?;
    Ok(plan)
}

/// A stage by its name or number.
fn find(stages: &[Stage], wanted: &str) -> Option<usize> {
    let named = stages
        .iter()
        .rposition(|stage| stage.name.as_deref() == Some(&wanted.to_lowercase()));
    named.or_else(|| wanted.parse().ok().filter(|number| *number < stages.len()))
}

fn refuse_run(plan: &Plan, file: &str) -> Result<(), BuildError> {
    let all = plan.stages.iter().flat_map(|stage| &stage.instructions);
    match all
        .into_iter()
        .find(|instruction| matches!(instruction.kind, Kind::Run(_)))
    {
        Some(run) => Err(BuildError::Run {
            file: file.to_owned(),
            line: run.line,
            text: run.text.clone(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::parse;

    fn planned(text: &str, target: Option<&str>) -> Result<Plan, BuildError> {
        plan(parse(text).unwrap(), "Dockerfile", target)
    }

    #[test]
    fn stages_are_cut_at_the_target() {
        let text = "ARG v=1\nFROM scratch AS a\nENV x=1\nFROM a AS b\nFROM b\nCMD x";
        assert_eq!(planned(text, None).unwrap().steps(), 6);
        assert_eq!(planned(text, Some("A")).unwrap().stages.len(), 1);
        assert_eq!(planned(text, Some("1")).unwrap().stages.len(), 2);
        assert!(matches!(
            planned(text, Some("nope")),
            Err(BuildError::Target { .. })
        ));
    }

    #[test]
    fn what_cannot_be_built_is_refused_before_the_first_step() {
        let error = planned("FROM scratch\nENV a=1\nRUN make \\\n  all\n", None)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("RUN is not built yet: Dockerfile line 3: RUN make"),
            "{error}"
        );
        assert!(
            planned("ENV a=1\nFROM scratch", None)
                .unwrap_err()
                .to_string()
                .contains("first instruction must be FROM")
        );
        assert!(matches!(planned("# nothing\n", None), Err(BuildError::Empty(_))));
        // A stage behind the target is not built, so it may need what is missing.
        assert!(planned("FROM scratch AS a\nENV a=1\nFROM a\nRUN x", Some("a")).is_ok());
    }
}
