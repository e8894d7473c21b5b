//! The instructions that bring files: `COPY`, `ADD` and `WORKDIR`.

use std::path::Path;
use std::sync::Arc;

use storage::RootFd;

use super::Solver;
use crate::copy::{self, Request, Source, Target};
use crate::dockerfile::Flags;
use crate::error::StepError;
use crate::ignore::Ignore;
use crate::owner;
use crate::stage::Stage;

impl Solver<'_> {
    pub(super) fn workdir(&mut self, stage: &mut Stage, path: &str) -> Result<(), StepError> {
        let path = self.expand(stage, path)?;
        if path.is_empty() {
            return Err(StepError::Invalid("cannot normalize nothing".into()));
        }
        let path = stage.workdir(&path);
        let view = self.view(stage)?;
        let mut target = Target::new(&view, (0, 0));
        let (place, exists) = target.locate(Path::new(&path))?;
        let text = format!("WORKDIR {path}");
        if exists {
            return Ok(self.remember(stage, &text)?);
        }
        target.directory(&place)?;
        let entries = target.finish();
        self.layer(stage, &text, &text, entries)
    }

    pub(super) fn files(
        &mut self,
        stage: &mut Stage,
        word: &str,
        flags: &Flags,
        sources: &[String],
        target: &str,
    ) -> Result<(), StepError> {
        let arguments = sources
            .iter()
            .map(|text| self.expand(stage, text))
            .collect::<Result<Vec<_>, _>>()?;
        if word == "ADD" {
            refuse_remote(&arguments)?;
        }
        let target = self.expand(stage, target)?;
        let target = stage.absolute(&target);
        let from = flags
            .get("from")
            .map(|name| self.expand(stage, name))
            .transpose()?;
        let other = from.as_deref().map(|name| self.other_stage(name)).transpose()?;
        let view = self.view(stage)?;
        let chown = flags
            .get("chown")
            .map(|text| self.expand(stage, text))
            .transpose()?;
        let chmod = flags
            .get("chmod")
            .map(|text| self.expand(stage, text))
            .transpose()?;
        let request = Request {
            word,
            source: other.as_ref().unwrap_or(&self.context),
            arguments: &arguments,
            target: &target,
            owner: chown
                .as_deref()
                .map(|text| owner::parse(text, &view))
                .transpose()?,
            mode: chmod.as_deref().map(octal_mode).transpose()?,
            unpack: (word == "ADD").then_some(self.storage),
        };
        let gathered = copy::gather(&request, &view)?;
        let digest = copy::content_digest(&gathered.entries)?;
        let shown = format!("{word} {}:{digest} in {target} ", gathered.word);
        let text = format!("{word} {digest} {target} {flags:?}");
        self.layer(stage, &text, &shown, gathered.entries)
    }

    /// `--from`: a stage by name or number, or an image.
    pub(super) fn other_stage(&self, name: &str) -> Result<Source, StepError> {
        let numbered = || {
            name.parse::<usize>()
                .ok()
                .and_then(|number| self.done.get(number))
                .map(|(_, stage)| stage)
        };
        let layers = match self.finished(name).or_else(numbered) {
            Some(stage) => stage.config.rootfs.diff_ids.clone(),
            None => self.base(name)?.config.rootfs.diff_ids,
        };
        let root = Arc::new(self.storage.snapshots().view_layers(&layers)?);
        Ok(Source {
            root,
            ignore: Ignore::default(),
        })
    }

    /// The file system of the stage so far.
    pub(super) fn view(&self, stage: &mut Stage) -> Result<Arc<RootFd>, StepError> {
        if let Some(view) = &stage.view {
            return Ok(Arc::clone(view));
        }
        let view = Arc::new(
            self.storage
                .snapshots()
                .view_layers(&stage.config.rootfs.diff_ids)?,
        );
        stage.view = Some(Arc::clone(&view));
        Ok(view)
    }
}

fn refuse_remote(arguments: &[String]) -> Result<(), StepError> {
    let remote = |text: &&String| {
        ["http://", "https://", "ftp://", "git://", "git@"]
            .iter()
            .any(|scheme| text.starts_with(scheme))
    };
    match arguments.iter().find(remote) {
        Some(url) => Err(StepError::Invalid(format!(
            "ADD of a remote source is not built yet: download {url} into the context and COPY it"
        ))),
        None => Ok(()),
    }
}

fn octal_mode(text: &str) -> Result<u32, StepError> {
    let parsed = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    parsed.ok_or_else(|| {
        StepError::Invalid(format!(
            "invalid --chmod {text:?}: must be an octal mode such as 0755"
        ))
    })
}
