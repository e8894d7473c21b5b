//! Who is reached directly: from what was asked and what was answered. Knows neither sockets nor clocks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A number that an answer repeats: nobody who has not seen the question can answer.
pub(super) type Nonce = [u8; 16];
/// Answers in a row until a node is reached directly. One may be chance.
const ANSWERS: u8 = 2;
/// Questions in a row that stay without answer until it is not.
const SILENCES: u8 = 2;

/// The nodes that are asked.
#[derive(Debug, Default)]
pub(super) struct Judge {
    nodes: BTreeMap<String, Record>,
}

#[derive(Debug)]
struct Record {
    address: IpAddr,
    /// What was asked and not answered yet.
    asked: Option<Nonce>,
    answers: u8,
    silences: u8,
    direct: bool,
}

impl Judge {
    /// Those of `found` were reached directly before, as routes that are still there show.
    pub(super) fn new(nodes: &BTreeMap<String, IpAddr>, found: &BTreeSet<String>) -> Self {
        let mut judge = Self::default();
        judge.ask_these(nodes);
        for (node, record) in &mut judge.nodes {
            record.direct = found.contains(node);
        }
        judge
    }

    /// These nodes are asked from now on. What is known of those that stay is kept.
    pub(super) fn ask_these(&mut self, nodes: &BTreeMap<String, IpAddr>) {
        self.nodes
            .retain(|node, record| nodes.get(node) == Some(&record.address));
        for (node, address) in nodes {
            self.nodes.entry(node.clone()).or_insert(Record {
                address: *address,
                asked: None,
                answers: 0,
                silences: 0,
                direct: false,
            });
        }
    }

    /// Questions for a new round, and the end of the one before.
    pub(super) fn round(&mut self, mut nonce: impl FnMut() -> Nonce) -> Vec<(IpAddr, Nonce)> {
        let ask = |record: &mut Record| {
            if record.asked.is_some() {
                record.answers = 0;
                record.silences = record.silences.saturating_add(1);
                record.direct &= record.silences < SILENCES;
            }
            let nonce = nonce();
            record.asked = Some(nonce);
            (record.address, nonce)
        };
        self.nodes.values_mut().map(ask).collect()
    }

    /// An answer came; one that nobody has asked for, or that comes too late, counts for nothing.
    pub(super) fn answered(&mut self, from: IpAddr, nonce: Nonce) {
        let asked = |record: &&mut Record| record.address == from && record.asked == Some(nonce);
        if let Some(record) = self.nodes.values_mut().find(asked) {
            record.asked = None;
            record.silences = 0;
            record.answers = record.answers.saturating_add(1);
            record.direct |= record.answers >= ANSWERS;
        }
    }

    /// Whether this is a node that is asked: others are not answered either.
    pub(super) fn knows(&self, address: IpAddr) -> bool {
        self.nodes.values().any(|record| record.address == address)
    }

    /// Whether somebody is about to be found: then it is worth asking again at once.
    pub(super) fn is_hopeful(&self) -> bool {
        self.nodes
            .values()
            .any(|record| !record.direct && record.answers > 0 && record.asked.is_none())
    }

    /// How many nodes are asked.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }

    /// Nodes that are reached directly.
    pub(super) fn direct(&self) -> BTreeSet<String> {
        let direct = self.nodes.iter().filter(|(_, record)| record.direct);
        direct.map(|(node, _)| node.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(240, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn judge() -> Judge {
        let mut judge = Judge::default();
        judge.ask_these(&BTreeMap::from([("a".to_owned(), A)]));
        judge
    }

    /// One round, answered or not.
    fn round(judge: &mut Judge, number: u8, answered: bool) {
        assert_eq!(judge.round(|| [number; 16]), [(A, [number; 16])]);
        if answered {
            judge.answered(A, [number; 16]);
        }
    }

    #[test]
    fn a_node_is_direct_after_two_answers_and_no_longer_after_two_silences() {
        let mut judge = judge();
        round(&mut judge, 1, true);
        assert!(judge.direct().is_empty() && judge.is_hopeful());
        round(&mut judge, 2, true);
        assert_eq!(judge.direct(), BTreeSet::from(["a".to_owned()]));
        assert!(!judge.is_hopeful());
        round(&mut judge, 3, false);
        round(&mut judge, 4, false);
        assert_eq!(judge.direct().len(), 1, "one silence may be a lost packet");
        round(&mut judge, 5, false);
        assert!(judge.direct().is_empty());
        round(&mut judge, 6, true);
        round(&mut judge, 7, false);
        round(&mut judge, 8, true);
        assert!(judge.direct().is_empty(), "not two in a row");
    }

    #[test]
    fn what_was_not_asked_counts_for_nothing() {
        let mut judge = judge();
        for _ in 0..5 {
            judge.answered(A, [1; 16]);
        }
        round(&mut judge, 1, false);
        judge.answered(A, [9; 16]);
        judge.answered(Ipv4Addr::new(240, 0, 0, 2).into(), [1; 16]);
        round(&mut judge, 2, false);
        judge.answered(A, [1; 16]);
        for _ in 0..5 {
            judge.answered(A, [2; 16]);
        }
        round(&mut judge, 3, false);
        assert!(judge.direct().is_empty(), "one question, one answer");
        assert!(judge.knows(A) && !judge.knows(B));
    }

    #[test]
    fn what_was_direct_before_stays_so_until_it_is_silent() {
        let nodes = BTreeMap::from([("a".to_owned(), A)]);
        let mut judge = Judge::new(&nodes, &BTreeSet::from(["a".to_owned(), "gone".to_owned()]));
        assert_eq!(judge.direct(), BTreeSet::from(["a".to_owned()]));
        for number in 1..=3 {
            round(&mut judge, number, false);
        }
        assert!(judge.direct().is_empty());
    }

    #[test]
    fn a_node_with_another_address_is_another_one() {
        let mut judge = judge();
        round(&mut judge, 1, true);
        round(&mut judge, 2, true);
        judge.ask_these(&BTreeMap::from([("a".to_owned(), A), ("b".to_owned(), B)]));
        assert_eq!(judge.direct().len(), 1, "who stays is not asked anew");
        judge.ask_these(&BTreeMap::from([("a".to_owned(), B)]));
        assert!(judge.direct().is_empty());
    }
}
