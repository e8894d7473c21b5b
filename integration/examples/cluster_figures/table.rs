//! Figures as a table: medians of both sides, and the median of the pairs' ratios.

use anyhow::Result;

use crate::side::Kind;

/// What one side of a figure is measured on, or why it is not.
pub(crate) type Sides<T> = Vec<(Kind, Result<T, String>)>;

/// One line of the table.
pub(crate) struct Figure {
    title: String,
    unit: &'static str,
    docker: Vec<f64>,
    agent: Vec<f64>,
    why_not: Option<String>,
}

impl Figure {
    pub(crate) fn seconds(title: &str) -> Self {
        Self::new(title, " s")
    }

    pub(crate) fn megabytes(title: &str) -> Self {
        Self::new(title, " MB")
    }

    pub(crate) fn count(title: &str) -> Self {
        Self::new(title, "")
    }

    fn new(title: &str, unit: &'static str) -> Self {
        Self {
            title: title.to_owned(),
            unit,
            docker: Vec::new(),
            agent: Vec::new(),
            why_not: None,
        }
    }

    /// A value of ours that Docker has nothing beside.
    pub(crate) fn alone(&mut self, value: f64) {
        eprintln!("{}: {value:.2}{}", self.title, self.unit);
        self.agent.push(value);
    }

    /// Measures both sides once, the other one first each time.
    pub(crate) fn pair<T>(&mut self, sides: &Sides<T>, measure: impl Fn(&T) -> Result<f64>) -> Result<()> {
        let values = sides
            .iter()
            .map(|(kind, side)| (*kind, side.as_ref().map_err(Clone::clone)));
        self.measure(values.collect(), measure)
    }

    /// As [`Self::pair`], of sides that are changed.
    pub(crate) fn pair_mut<T>(
        &mut self,
        sides: &mut Sides<T>,
        measure: impl FnMut(&mut T) -> Result<f64>,
    ) -> Result<()> {
        let values = sides
            .iter_mut()
            .map(|(kind, side)| (*kind, side.as_mut().map_err(|error| error.clone())));
        self.measure(values.collect(), measure)
    }

    /// One value of each side that has one.
    pub(crate) fn values(&mut self, sides: Sides<f64>) {
        for (kind, value) in sides {
            self.note(kind, value);
        }
    }

    fn measure<T>(
        &mut self,
        mut sides: Vec<(Kind, Result<T, String>)>,
        mut measure: impl FnMut(T) -> Result<f64>,
    ) -> Result<()> {
        if self.agent.len() % 2 == 1 {
            sides.reverse();
        }
        for (kind, side) in sides {
            match (kind, side) {
                (kind, Ok(side)) => {
                    let value = measure(side)?;
                    self.note(kind, Ok(value));
                }
                (kind, Err(why)) => self.note(kind, Err(why)),
            }
        }
        Ok(())
    }

    fn note(&mut self, kind: Kind, value: Result<f64, String>) {
        match (kind, value) {
            (kind, Ok(value)) => {
                eprintln!("{}: {kind:?}: {value:.2}{}", self.title, self.unit);
                match kind {
                    Kind::Docker => self.docker.push(value),
                    Kind::Agent => self.agent.push(value),
                }
            }
            (_, Err(why)) => self.why_not = Some(why),
        }
    }

    fn line(&self) -> String {
        let shown = |values: &[f64]| match median(values) {
            Some(value) => format!("{value:.2}{}", self.unit),
            None => "–".to_owned(),
        };
        let pairs = self
            .docker
            .iter()
            .zip(&self.agent)
            .filter(|(docker, _)| **docker > 0.0);
        let ratios: Vec<f64> = pairs.map(|(docker, agent)| agent / docker).collect();
        let ratio = median(&ratios).map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.3}"));
        format!(
            "| {} | {} | {} | {ratio} |",
            self.title,
            shown(&self.docker),
            shown(&self.agent)
        )
    }
}

/// All figures.
pub(crate) struct Table {
    /// Why there is no Docker beside.
    docker: Result<(), String>,
    figures: Vec<Figure>,
    failures: Vec<String>,
}

impl Table {
    pub(crate) fn new(docker: Result<(), String>) -> Self {
        Self {
            docker,
            figures: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Both sides, made now; one that cannot be made says why.
    pub(crate) fn sides<T>(&self, make: impl Fn(Kind) -> Result<T>) -> Sides<T> {
        self.one_by_one(make)
    }

    /// What is made of each side, one after the other.
    pub(crate) fn one_by_one<T>(&self, make: impl Fn(Kind) -> Result<T>) -> Sides<T> {
        let docker = self.docker.clone().and_then(|()| of(&make, Kind::Docker));
        vec![(Kind::Docker, docker), (Kind::Agent, of(&make, Kind::Agent))]
    }

    pub(crate) fn add(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    pub(crate) fn failed(&mut self, name: &str, why: &str) {
        eprintln!("{name}: {why}");
        self.failures.push(format!("{name}: {why}"));
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = "| what | Docker Swarm | agent | agent / Docker |\n|---|---:|---:|---:|\n".to_owned();
        for figure in &self.figures {
            text.push_str(&figure.line());
            text.push('\n');
        }
        let mut reasons: Vec<String> = self
            .figures
            .iter()
            .filter_map(|figure| Some(format!("{}: {}", figure.title, figure.why_not.as_ref()?)))
            .collect();
        reasons.extend(self.failures.clone());
        for reason in reasons {
            text.push_str(&format!("\nNot measured: {reason}\n"));
        }
        text
    }
}

fn of<T>(make: &impl Fn(Kind) -> Result<T>, kind: Kind) -> Result<T, String> {
    make(kind).map_err(|error| {
        eprintln!("{kind:?}: {error:#}");
        format!("{kind:?}: {error:#}")
    })
}

fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}
