//! How the wait looks: a bar per service on a terminal, a line per change otherwise.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::view::View;

pub(super) struct Screen {
    bars: Option<MultiProgress>,
    lines: BTreeMap<String, (Option<ProgressBar>, String)>,
}

impl Screen {
    pub(super) fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self {
            bars,
            lines: BTreeMap::new(),
        }
    }

    pub(super) fn show(&mut self, view: &View) {
        let name = view.service.spec.name.clone();
        let bars = self.bars.as_ref();
        let (bar, before) = self.lines.entry(name.clone()).or_insert_with(|| {
            let bar = bars.map(|bars| bars.add(bar_of(&name)));
            (bar, String::new())
        });
        let (there, wanted) = (view.there(), view.wanted());
        let doing = if view.is_done() {
            "running".to_owned()
        } else {
            view.doing()
        };
        match bar {
            Some(bar) => {
                bar.set_length(wanted);
                bar.set_position(there);
                bar.set_message(doing);
                if view.is_done() {
                    bar.finish();
                }
            }
            None => {
                let line = format!("{name}: {there}/{wanted} {doing}").trim_end().to_owned();
                if line != *before {
                    eprintln!("{line}");
                    *before = line;
                }
            }
        }
    }

    pub(super) fn end(&mut self) {
        for (bar, _) in self
            .lines
            .values()
            .filter_map(|(bar, line)| bar.as_ref().map(|bar| (bar, line)))
        {
            bar.abandon();
        }
    }
}

fn bar_of(name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:24} [{bar:20}] {pos}/{len} {wide_msg}");
    let bar = ProgressBar::new(1);
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(name.to_owned());
    bar
}
