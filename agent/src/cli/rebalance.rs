//! `swarm rebalance`: spreads services over the nodes again, or says what would move.

use anyhow::Result;
use clap::Args;
use manager::control::RebalancePlan;
use serde_json::Value;

use super::client::Client;
use super::format::Listing;
use super::human;

/// `swarm rebalance`
#[derive(Debug, Args)]
pub(crate) struct Rebalance {
    /// Only show what would move
    #[arg(long)]
    dry_run: bool,
    /// Format output: "table", "table TEMPLATE", "json" or a template
    #[arg(long)]
    format: Option<String>,
}

impl Rebalance {
    pub(crate) async fn run(self, client: &Client) -> Result<()> {
        let query = if self.dry_run { "?dry_run=1" } else { "" };
        let answer = client
            .post(&format!("/swarm/rebalance{query}"), &Value::Null)
            .await?;
        let plan: RebalancePlan = serde_json::from_value(answer)?;
        let mut listing = Listing::new(&[
            ("Service", "SERVICE"),
            ("Task", "TASK"),
            ("From", "FROM"),
            ("To", "TO"),
            ("Reason", "REASON"),
        ]);
        for one in plan.moves {
            let task = human::short(one.task_id.as_str()).to_owned();
            listing.row([one.service_name, task, one.from, one.to, String::new()]);
        }
        for one in plan.unmoved {
            listing.row([
                one.service_name,
                String::new(),
                String::new(),
                String::new(),
                one.reason,
            ]);
        }
        listing.print_as(self.format.as_deref())
    }
}
