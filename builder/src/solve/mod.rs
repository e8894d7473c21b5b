//! Carrying out a plan, step by step, with the memory of earlier builds.

mod commit;
mod files;
mod from;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use storage::{ImageId, Lease, Reference, RootError, RootFd, Storage};

use crate::copy::Source;
use crate::dockerfile::{self, Instruction, Kind, expand, expand_many};
use crate::error::{BuildError, StepError};
use crate::ignore::Ignore;
use crate::plan::{self, Plan};
use crate::stage::Stage;
use crate::{BuildEvent, BuildRequest};

/// Longest that a build may take before a collector may take its layers.
const TTL: Duration = Duration::from_secs(24 * 3600);
/// Longest Dockerfile and .dockerignore, in bytes.
const MAX_TEXT: u64 = 4 << 20;
/// Arguments that need no `ARG` (Dockerfile reference, "Predefined ARGs").
const PREDEFINED: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Reads, plans and builds.
pub(crate) fn build(
    storage: &Storage,
    request: BuildRequest<'_>,
    progress: &mut dyn FnMut(BuildEvent),
) -> Result<ImageId, BuildError> {
    let context = storage
        .layers()
        .unpack(request.context)
        .map_err(|source| BuildError::Context { source })?;
    let file = if request.dockerfile.is_empty() {
        "Dockerfile".to_owned()
    } else {
        request.dockerfile
    };
    let text = read_text(&context.root(), &file)?.ok_or_else(|| BuildError::NoDockerfile(file.clone()))?;
    let parsed = dockerfile::parse(&text).map_err(|complaint| BuildError::Dockerfile {
        file: file.clone(),
        line: complaint.number,
        reason: complaint.reason,
    })?;
    let escape = parsed.escape;
    let plan = plan::plan(parsed, &file, request.target.as_deref())?;
    let ignore = read_text(&context.root(), ".dockerignore")?.unwrap_or_default();
    let ignore = Ignore::parse(&ignore).map_err(|source| BuildError::Ignore { source })?;
    let mut solver = Solver {
        storage,
        lease: storage.leases().acquire("build", TTL)?,
        context: Source {
            root: context.root(),
            ignore,
        },
        file,
        escape,
        build_args: request.build_args,
        used_args: BTreeSet::new(),
        global: BTreeMap::new(),
        no_cache: request.no_cache,
        step: 0,
        steps: plan.steps() + usize::from(!request.labels.is_empty()),
        done: Vec::new(),
        progress,
    };
    solver.run(&plan)?;
    solver.finish(&request.labels, &request.tags)
}

fn read_text(root: &RootFd, file: &str) -> Result<Option<String>, BuildError> {
    match root.read_file(Path::new("/").join(file), MAX_TEXT) {
        Ok(bytes) => {
            let text = String::from_utf8(bytes);
            text.map(Some).map_err(|_| BuildError::NotText {
                file: file.to_owned(),
            })
        }
        Err(RootError::NotFound { .. }) => Ok(None),
        Err(source) => Err(BuildError::Unreadable {
            file: file.to_owned(),
            source,
        }),
    }
}

struct Solver<'a> {
    storage: &'a Storage,
    lease: Lease,
    context: Source,
    file: String,
    escape: char,
    build_args: BTreeMap<String, Option<String>>,
    used_args: BTreeSet<String>,
    /// Arguments from before the first `FROM`.
    global: BTreeMap<String, String>,
    no_cache: bool,
    step: usize,
    steps: usize,
    /// Finished stages with their names; the last one is the result.
    done: Vec<(Option<String>, Stage)>,
    progress: &'a mut dyn FnMut(BuildEvent),
}

impl Solver<'_> {
    fn run(&mut self, plan: &Plan) -> Result<(), BuildError> {
        for instruction in &plan.global {
            self.announce(&instruction.text);
            let global = self.global_args(instruction);
            global.map_err(|source| self.at(instruction, source))?;
        }
        for planned in &plan.stages {
            self.announce(&planned.from.text);
            let started = self.start(&planned.from);
            let (mut stage, triggers) = started.map_err(|source| self.at(&planned.from, source))?;
            for trigger in &triggers {
                self.carry_out(&mut stage, trigger)
                    .map_err(|source| self.at(trigger, source))?;
            }
            for instruction in &planned.instructions {
                self.announce(&instruction.text);
                self.carry_out(&mut stage, instruction)
                    .map_err(|source| self.at(instruction, source))?;
            }
            self.done.push((planned.name.clone(), stage));
        }
        Ok(())
    }

    /// Labels of the request, the image, its names.
    fn finish(
        mut self,
        labels: &BTreeMap<String, String>,
        tags: &[Reference],
    ) -> Result<ImageId, BuildError> {
        let Some((_, mut stage)) = self.done.pop() else {
            return Err(BuildError::Nothing(self.file));
        };
        if !labels.is_empty() {
            let pairs: Vec<(String, String)> = labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            let shown: Vec<String> = pairs.iter().map(|(k, v)| format!("{k:?}={v:?}")).collect();
            let text = format!("LABEL {}", shown.join(" "));
            self.announce(&text);
            stage.labels(&pairs);
            self.remember(&mut stage, &text)?;
        }
        let tags: Vec<Reference> = tags.iter().map(Reference::tagged).collect();
        let id = match stage.unchanged {
            Some(id) => {
                for tag in &tags {
                    self.storage.images().tag(&id.to_string(), tag)?;
                }
                id
            }
            None if stage.config.history.is_empty() => return Err(BuildError::Nothing(self.file)),
            None => self.storage.images().create(&stage.config, &tags)?.id,
        };
        self.warn_unused();
        (self.progress)(BuildEvent::Image(id));
        self.say(&format!("Successfully built {}\n", id.short()));
        for tag in &tags {
            self.say(&format!("Successfully tagged {}\n", tag.familiar()));
        }
        Ok(id)
    }

    fn warn_unused(&mut self) {
        let names = self
            .build_args
            .keys()
            .filter(|name| !self.used_args.contains(*name));
        let unused: Vec<&str> = names
            .map(String::as_str)
            .filter(|name| !PREDEFINED.contains(name))
            .collect();
        if !unused.is_empty() {
            let text = format!(
                "[Warning] One or more build-args [{}] were not consumed\n",
                unused.join(" ")
            );
            self.say(&text);
        }
    }

    fn carry_out(&mut self, stage: &mut Stage, instruction: &Instruction) -> Result<(), StepError> {
        let text = instruction.text.as_str();
        let text = match &instruction.kind {
            Kind::From { .. } => return Err(StepError::Invalid("FROM isn't allowed here".into())),
            Kind::Run(_) => {
                return Err(StepError::Invalid(
                    "RUN is not built yet, and this image has it as a build trigger".into(),
                ));
            }
            Kind::Copy {
                flags,
                sources,
                target,
            } => return self.files(stage, "COPY", flags, sources, target),
            Kind::Add {
                flags,
                sources,
                target,
            } => return self.files(stage, "ADD", flags, sources, target),
            Kind::Workdir(path) => return self.workdir(stage, path),
            Kind::Arg(args) => self.args(stage, args)?,
            Kind::Env(pairs) => {
                let pairs = self.pairs(stage, pairs)?;
                stage.env(&pairs);
                show_pairs("ENV", &pairs)
            }
            Kind::Label(pairs) => {
                let pairs = self.pairs(stage, pairs)?;
                stage.labels(&pairs);
                show_pairs("LABEL", &pairs)
            }
            Kind::User(user) => {
                let user = self.expand(stage, user)?;
                stage.user(user.clone());
                format!("USER {user}")
            }
            Kind::Expose(ports) => {
                let ports = self.expand_many(stage, ports)?;
                stage.expose(&ports)?;
                format!("EXPOSE {}", ports.join(" "))
            }
            Kind::Volume(paths) => {
                let paths = paths
                    .iter()
                    .map(|path| self.expand(stage, path))
                    .collect::<Result<Vec<_>, _>>()?;
                stage.volumes(paths.clone())?;
                format!("VOLUME {paths:?}")
            }
            Kind::StopSignal(signal) => {
                let signal = self.expand(stage, signal)?;
                stage.stop_signal(signal.clone())?;
                format!("STOPSIGNAL {signal}")
            }
            Kind::Entrypoint(command) => {
                stage.entrypoint(command);
                text.to_owned()
            }
            Kind::Cmd(command) => {
                stage.cmd(command);
                text.to_owned()
            }
            Kind::Shell(shell) => {
                stage.shell(shell);
                text.to_owned()
            }
            Kind::Healthcheck(spec) => {
                stage.healthcheck(spec);
                text.to_owned()
            }
            Kind::OnBuild(trigger) => {
                stage.on_build(trigger);
                text.to_owned()
            }
            Kind::Maintainer(name) => {
                stage.config.author = Some(name.clone());
                text.to_owned()
            }
        };
        Ok(self.remember(stage, &text)?)
    }

    fn pairs(&self, stage: &Stage, pairs: &[(String, String)]) -> Result<Vec<(String, String)>, StepError> {
        // All of one instruction see the variables from before it.
        pairs
            .iter()
            .map(|(name, value)| Ok((self.expand(stage, name)?, self.expand(stage, value)?)))
            .collect()
    }

    fn expand(&self, stage: &Stage, text: &str) -> Result<String, StepError> {
        expand(text, self.escape, &|name| stage.variable(name)).map_err(StepError::Invalid)
    }

    fn expand_many(&self, stage: &Stage, text: &str) -> Result<Vec<String>, StepError> {
        expand_many(text, self.escape, &|name| stage.variable(name)).map_err(StepError::Invalid)
    }

    fn announce(&mut self, text: &str) {
        self.step += 1;
        let line = format!("Step {}/{} : {text}\n", self.step, self.steps);
        self.say(&line);
    }

    fn say(&mut self, text: &str) {
        (self.progress)(BuildEvent::Stream(text.to_owned()));
    }

    fn at(&self, instruction: &Instruction, source: StepError) -> BuildError {
        BuildError::Step {
            file: self.file.clone(),
            line: instruction.line,
            text: instruction.text.clone(),
            source: Box::new(source),
        }
    }
}

fn show_pairs(word: &str, pairs: &[(String, String)]) -> String {
    let shown: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    format!("{word} {}", shown.join(" "))
}
