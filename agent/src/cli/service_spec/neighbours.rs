//! Flags for what Docker has no word for: how nodes are ranked, and beside which services tasks may be.

use anyhow::{Context, Result};
use clap::Args;
use proto::spec::placement_labels::{AFFINITY, ANTI_AFFINITY, STRATEGY};
use proto::spec::{Labels, PlacementLabels, Strategy};

/// Of `service create`.
#[derive(Debug, Default, Args)]
pub(super) struct Neighbours {
    /// Rank nodes by how empty ("spread") or how full ("binpack") they are
    #[arg(long)]
    placement_strategy: Option<Strategy>,
    /// Run only beside tasks of a service
    #[arg(long, value_name = "SERVICE")]
    affinity: Vec<String>,
    /// Never run beside tasks of a service
    #[arg(long, value_name = "SERVICE")]
    anti_affinity: Vec<String>,
}

/// Of `service update`.
#[derive(Debug, Default, Args)]
pub(super) struct NeighbourChanges {
    /// Rank nodes by how empty ("spread") or how full ("binpack") they are
    #[arg(long)]
    placement_strategy: Option<Strategy>,
    /// Run only beside tasks of a service
    #[arg(long, value_name = "SERVICE")]
    affinity_add: Vec<String>,
    /// Run also where no task of a service is
    #[arg(long, value_name = "SERVICE")]
    affinity_rm: Vec<String>,
    /// Never run beside tasks of a service
    #[arg(long, value_name = "SERVICE")]
    anti_affinity_add: Vec<String>,
    /// Run also beside tasks of a service
    #[arg(long, value_name = "SERVICE")]
    anti_affinity_rm: Vec<String>,
}

impl Neighbours {
    /// Writes the flags into the labels of a new service.
    pub(super) fn apply(self, labels: &mut Labels) -> Result<()> {
        let changes = NeighbourChanges {
            placement_strategy: self.placement_strategy,
            affinity_add: self.affinity,
            anti_affinity_add: self.anti_affinity,
            ..NeighbourChanges::default()
        };
        changes.apply(labels)
    }
}

impl NeighbourChanges {
    /// Changes a service's labels.
    pub(super) fn apply(&self, labels: &mut Labels) -> Result<()> {
        if let Some(strategy) = self.placement_strategy {
            labels.insert(STRATEGY.to_owned(), strategy.to_string());
        }
        for (label, add, remove) in [
            (AFFINITY, &self.affinity_add, &self.affinity_rm),
            (ANTI_AFFINITY, &self.anti_affinity_add, &self.anti_affinity_rm),
        ] {
            if !(add.is_empty() && remove.is_empty()) {
                change(labels, label, add, remove);
            }
        }
        PlacementLabels::parse(labels).map(drop).context("placement")
    }
}

fn change(labels: &mut Labels, label: &str, add: &[String], remove: &[String]) {
    let known = labels.remove(label).unwrap_or_default();
    let known = known
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty() && !remove.iter().chain(add).any(|changed| changed == name));
    let names: Vec<&str> = known.chain(add.iter().map(String::as_str)).collect();
    if !names.is_empty() {
        labels.insert(label.to_owned(), names.join(","));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_added_and_removed_one_by_one() {
        let mut labels = Labels::from([(AFFINITY.to_owned(), "a, b".to_owned())]);
        let changes = NeighbourChanges {
            affinity_add: vec!["c".into(), "b".into()],
            affinity_rm: vec!["a".into()],
            ..NeighbourChanges::default()
        };
        changes.apply(&mut labels).unwrap();
        assert_eq!(labels[AFFINITY], "c,b");
        let changes = NeighbourChanges {
            placement_strategy: Some(Strategy::Binpack),
            affinity_rm: vec!["b".into(), "c".into()],
            ..NeighbourChanges::default()
        };
        changes.apply(&mut labels).unwrap();
        assert_eq!(labels, Labels::from([(STRATEGY.into(), "binpack".into())]));
    }
}
