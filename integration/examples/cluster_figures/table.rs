//! Figures as a table: medians of both sides, and the median of the pairs' ratios.

use anyhow::Result;

use crate::column::{Column, End, median};
use crate::side::Kind;

/// What one side of a figure is measured on, or why it is not.
pub(crate) type Sides<T> = Vec<(Kind, Result<T, String>)>;

/// One line of the table.
pub(crate) struct Figure {
    title: String,
    unit: &'static str,
    docker: Column,
    agent: Column,
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
            docker: Column::default(),
            agent: Column::default(),
        }
    }

    /// A value of ours that Docker has nothing beside.
    pub(crate) fn alone(&mut self, value: f64) {
        self.note(Kind::Agent, value);
    }

    /// Measures both sides once, the other one first each time. A side that fails is measured no more; the other goes on.
    pub(crate) fn pair<T>(&mut self, sides: &Sides<T>, measure: impl Fn(&T) -> Result<f64>) {
        let values = sides
            .iter()
            .map(|(kind, side)| (*kind, side.as_ref().map_err(Clone::clone)));
        self.measure(values.collect(), |_, side| measure(side));
    }

    /// As [`Self::pair`], of sides that are changed.
    pub(crate) fn pair_mut<T>(
        &mut self,
        sides: &mut Sides<T>,
        measure: impl FnMut(Kind, &mut T) -> Result<f64>,
    ) {
        let values = sides
            .iter_mut()
            .map(|(kind, side)| (*kind, side.as_mut().map_err(|error| error.clone())));
        self.measure(values.collect(), measure);
    }

    /// One value of each side that has one.
    pub(crate) fn values(&mut self, sides: Sides<f64>) {
        self.measure(sides, |_, value| Ok(value));
    }

    fn measure<T>(
        &mut self,
        mut sides: Vec<(Kind, Result<T, String>)>,
        mut measure: impl FnMut(Kind, T) -> Result<f64>,
    ) {
        if self.agent.rounds() % 2 == 1 {
            sides.reverse();
        }
        for (kind, side) in sides {
            if self.column(kind).has_ended() {
                continue;
            }
            match side.map(|side| measure(kind, side)) {
                Ok(Ok(value)) => self.note(kind, value),
                Ok(Err(error)) => self.end(kind, End::Failed(format!("{error:#}"))),
                Err(why) => self.end(kind, End::NeverMade(why)),
            }
        }
    }

    fn note(&mut self, kind: Kind, value: f64) {
        eprintln!("{}: {kind:?}: {value:.2}{}", self.title, self.unit);
        self.column(kind).note(value);
    }

    fn end(&mut self, kind: Kind, end: End) {
        eprintln!("{}: {kind:?}: {}", self.title, end.why());
        self.column(kind).end(end);
    }

    fn column(&mut self, kind: Kind) -> &mut Column {
        match kind {
            Kind::Docker => &mut self.docker,
            Kind::Agent => &mut self.agent,
        }
    }

    fn line(&self) -> String {
        let ratio = median(&self.agent.ratios_to(&self.docker));
        let ratio = ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.3}"));
        let [docker, agent] = [&self.docker, &self.agent].map(|column| column.shown(self.unit));
        format!("| {} | {docker} | {agent} | {ratio} |", self.title)
    }

    /// What is missing in the line, and why.
    fn reasons(&self) -> impl Iterator<Item = String> + '_ {
        let columns = [(Kind::Docker, &self.docker), (Kind::Agent, &self.agent)];
        columns.into_iter().filter_map(|(kind, column)| {
            let what = format!("{}, {kind:?}", self.title);
            column.reason().map(|reason| format!("{what}: {reason}"))
        })
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
        let reasons = self.figures.iter().flat_map(Figure::reasons);
        for reason in reasons.chain(self.failures.iter().cloned()) {
            text.push_str(&format!("\nNot measured: {reason}\n"));
        }
        text
    }
}

fn of<T>(make: &impl Fn(Kind) -> Result<T>, kind: Kind) -> Result<T, String> {
    make(kind).map_err(|error| format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    /// Both sides are there and count how often they are measured.
    fn both() -> Sides<u32> {
        vec![(Kind::Docker, Ok(0)), (Kind::Agent, Ok(0))]
    }

    /// Ours takes 2, Docker 4 in its first `lasts` rounds; then it fails.
    fn rounds(count: usize, lasts: u32) -> (Figure, Vec<Kind>) {
        let (mut figure, mut sides) = (Figure::seconds("reached"), both());
        let mut order = Vec::new();
        for _ in 0..count {
            figure.pair_mut(&mut sides, |kind, measured| {
                order.push(kind);
                *measured += 1;
                match kind {
                    Kind::Agent => Ok(2.0),
                    Kind::Docker if *measured <= lasts => Ok(4.0),
                    Kind::Docker => bail!("no route to host"),
                }
            });
        }
        (figure, order)
    }

    fn markdown(figure: Figure) -> String {
        let mut table = Table::new(Ok(()));
        table.add(figure);
        table.markdown()
    }

    #[test]
    fn sides_take_turns_in_being_first() {
        let (figure, order) = rounds(2, 2);
        assert_eq!(order, [Kind::Docker, Kind::Agent, Kind::Agent, Kind::Docker]);
        assert_eq!(figure.line(), "| reached | 4.00 s | 2.00 s | 0.500 |");
        assert!(!markdown(figure).contains("Not measured"));
    }

    #[test]
    fn a_side_that_fails_is_shown_as_such_and_the_other_goes_on() {
        let (figure, order) = rounds(5, 2);
        let tried = |kind| order.iter().filter(|tried| **tried == kind).count();
        assert_eq!((tried(Kind::Docker), tried(Kind::Agent)), (3, 5));
        let text = markdown(figure);
        let line = "| reached | 4.00 s (failed after 2 rounds) | 2.00 s | 0.500 |";
        assert!(text.contains(line), "{text}");
        let reason = "Not measured: reached, Docker: failed after 2 rounds: no route to host";
        assert!(text.contains(reason), "{text}");
    }

    #[test]
    fn a_side_that_fails_at_once_has_no_figure_and_no_ratio() {
        let (figure, _) = rounds(3, 0);
        assert_eq!(figure.line(), "| reached | failed after 0 rounds | 2.00 s | – |");
    }

    #[test]
    fn a_side_that_could_not_be_made_is_a_dash_with_its_reason() {
        let mut figure = Figure::count("reached");
        let sides = vec![(Kind::Docker, Err("left out".to_owned())), (Kind::Agent, Ok(()))];
        figure.pair(&sides, |()| Ok(3.0));
        figure.pair(&sides, |()| Ok(3.0));
        let text = markdown(figure);
        assert!(text.contains("| reached | – | 3.00 | – |"), "{text}");
        assert_eq!(text.matches("reached, Docker: left out").count(), 1, "{text}");
    }
}
