//! `ARG` and `FROM`: variables, and what a stage begins with.

use storage::image::host_architecture;
use storage::{Digest, Kind as StorageKind, Reference};

use super::Solver;
use crate::dockerfile::{Instruction, Kind, expand, parse_one};
use crate::error::StepError;
use crate::stage::Stage;

impl Solver<'_> {
    pub(super) fn global_args(&mut self, instruction: &Instruction) -> Result<(), StepError> {
        let Kind::Arg(args) = &instruction.kind else {
            return Ok(());
        };
        for (name, default) in args {
            let default = default
                .as_ref()
                .map(|text| self.expand_global(text))
                .transpose()?;
            if let Some(value) = self.given(name).or(default) {
                self.global.insert(name.clone(), value);
            }
        }
        Ok(())
    }

    /// The value that the request gives to an argument, which counts as used from now on.
    pub(super) fn given(&mut self, name: &str) -> Option<String> {
        self.used_args.insert(name.to_owned());
        self.build_args.get(name).cloned().flatten()
    }

    pub(super) fn expand_global(&self, text: &str) -> Result<String, StepError> {
        let lookup = |name: &str| self.global.get(name).cloned().or_else(|| platform_arg(name));
        expand(text, self.escape, &lookup).map_err(StepError::Invalid)
    }

    /// `FROM`: the stage to begin with, and the triggers that its image brings.
    pub(super) fn start(&mut self, from: &Instruction) -> Result<(Stage, Vec<Instruction>), StepError> {
        let Kind::From { image, platform, .. } = &from.kind else {
            return Err(StepError::Invalid("FROM expected".into()));
        };
        if let Some(platform) = platform {
            check_platform(&self.expand_global(platform)?)?;
        }
        let image = self.expand_global(image)?;
        if image.is_empty() {
            return Err(StepError::Invalid("base name should not be blank".into()));
        }
        let mut stage = self.base(&image)?;
        let shown = stage.unchanged.map(|id| id.short()).unwrap_or_default();
        self.say(&format!(" ---> {shown}\n"));
        let triggers = std::mem::take(&mut stage.config.config.on_build);
        if !triggers.is_empty() {
            self.say(&format!(
                "# Executing {} build trigger{}\n",
                triggers.len(),
                if triggers.len() == 1 { "" } else { "s" }
            ));
            stage.unchanged = None;
        }
        let parse = |text: &String| parse_one(text, from.line, self.escape).map_err(StepError::Invalid);
        let triggers = triggers.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        Ok((stage, triggers))
    }

    pub(super) fn base(&self, image: &str) -> Result<Stage, StepError> {
        if let Some(stage) = self.finished(image) {
            let mut stage = stage.clone();
            stage.args.clear();
            stage.cmd_set = false;
            return Ok(stage);
        }
        if image == "scratch" {
            return Ok(Stage::scratch());
        }
        let bad_name = image.parse::<Reference>().err().map(|error| error.to_string());
        let found = self
            .storage
            .images()
            .get(image)
            .map_err(|source| match source.kind() {
                StorageKind::NotFound if bad_name.is_some() => {
                    StepError::Invalid(bad_name.unwrap_or_default())
                }
                StorageKind::NotFound => StepError::NoBase {
                    image: image.to_owned(),
                    source: Box::new(source),
                },
                _ => source.into(),
            })?;
        let key = Digest::of(format!("image {}", found.id).as_bytes());
        Ok(Stage::over(found.config, key, Some(found.id)))
    }

    /// A finished stage by its name.
    pub(super) fn finished(&self, name: &str) -> Option<&Stage> {
        let name = name.to_lowercase();
        self.done
            .iter()
            .rev()
            .find(|(known, _)| known.as_deref() == Some(&name))
            .map(|(_, stage)| stage)
    }

    pub(super) fn args(
        &mut self,
        stage: &mut Stage,
        args: &[(String, Option<String>)],
    ) -> Result<String, StepError> {
        let mut shown = Vec::new();
        for (name, default) in args {
            let default = default
                .as_ref()
                .map(|text| self.expand(stage, text))
                .transpose()?;
            let inherited = || self.global.get(name).cloned().or_else(|| platform_arg(name));
            let fallback = default.or_else(inherited);
            let value = self.given(name).or(fallback);
            shown.push(match &value {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
            if let Some(value) = value {
                stage.args.insert(name.clone(), value);
            }
        }
        Ok(format!("ARG {}", shown.join(" ")))
    }
}

fn check_platform(platform: &str) -> Result<(), StepError> {
    let ours = format!("linux/{}", host_architecture());
    if platform == ours || platform == "linux" {
        return Ok(());
    }
    Err(StepError::Invalid(format!(
        "platform {platform} cannot be built on {ours}"
    )))
}

/// BuildKit's platform arguments, for those who declare them.
fn platform_arg(name: &str) -> Option<String> {
    match name {
        "TARGETPLATFORM" | "BUILDPLATFORM" => Some(format!("linux/{}", host_architecture())),
        "TARGETOS" | "BUILDOS" => Some("linux".into()),
        "TARGETARCH" | "BUILDARCH" => Some(host_architecture().into()),
        _ => None,
    }
}
