//! One side's values of a figure, and why there are no more of them.

/// Why a side is measured no more.
#[derive(Debug)]
pub(crate) enum End {
    /// There is nothing to be measured.
    NeverMade(String),
    /// A round went wrong.
    Failed(String),
}

impl End {
    pub(crate) fn why(&self) -> &str {
        match self {
            Self::NeverMade(why) | Self::Failed(why) => why,
        }
    }
}

/// A value per round, until one fails.
#[derive(Debug, Default)]
pub(crate) struct Column {
    values: Vec<f64>,
    end: Option<End>,
}

impl Column {
    pub(crate) fn note(&mut self, value: f64) {
        self.values.push(value);
    }

    pub(crate) fn end(&mut self, end: End) {
        self.end = Some(end);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    pub(crate) fn rounds(&self) -> usize {
        self.values.len()
    }

    /// The median with its unit, and how long it lasted if it did not to the end.
    pub(crate) fn shown(&self, unit: &str) -> String {
        let median = median(&self.values).map(|value| format!("{value:.2}{unit}"));
        match (median, self.failure()) {
            (Some(median), Some((failure, _))) => format!("{median} ({failure})"),
            (Some(median), None) => median,
            (None, Some((failure, _))) => failure,
            (None, None) => "–".to_owned(),
        }
    }

    /// Why values are missing.
    pub(crate) fn reason(&self) -> Option<String> {
        let failed = self.failure().map(|(failure, why)| format!("{failure}: {why}"));
        failed.or_else(|| Some(self.end.as_ref()?.why().to_owned()))
    }

    /// This side's values over the other's of the same round.
    pub(crate) fn ratios_to(&self, other: &Self) -> Vec<f64> {
        let pairs = self.values.iter().zip(&other.values);
        let pairs = pairs.filter(|(_, other)| **other > 0.0);
        pairs.map(|(own, other)| own / other).collect()
    }

    fn failure(&self) -> Option<(String, &str)> {
        let Some(End::Failed(why)) = &self.end else {
            return None;
        };
        let plural = if self.rounds() == 1 { "" } else { "s" };
        Some((format!("failed after {} round{plural}", self.rounds()), why))
    }
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(values: &[f64]) -> Column {
        Column {
            values: values.to_vec(),
            end: None,
        }
    }

    #[test]
    fn a_ratio_is_of_the_rounds_that_both_have() {
        let ratios = column(&[1.0, 2.0, 3.0, 4.0]).ratios_to(&column(&[2.0, 8.0]));
        assert_eq!(ratios, [0.5, 0.25]);
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        assert!(column(&[1.0]).ratios_to(&column(&[0.0])).is_empty());
    }

    #[test]
    fn what_lasted_for_one_round_says_so() {
        let mut column = column(&[1.0]);
        column.end(End::Failed("unreachable".to_owned()));
        assert_eq!(column.shown(" s"), "1.00 s (failed after 1 round)");
        assert_eq!(
            column.reason().as_deref(),
            Some("failed after 1 round: unreachable")
        );
    }

    #[test]
    fn the_median_of_an_even_number_is_between_two() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
