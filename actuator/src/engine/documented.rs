//! docs/decisions.md against the code: every outcome with the answer's status, every verdict and
//! every reason to turn a notification away is told there, and no other.

use std::collections::BTreeMap;
use std::fs;

use egress::health::Verdict;

use super::Outcome;
use crate::decide::Idle;
use crate::metrics::rejections;

/// The outcome after this one, through all of them: one that is new does not compile until it has
/// its place here.
fn next(outcome: &Outcome) -> Option<Outcome> {
    Some(match outcome {
        Outcome::Switched { .. } => Outcome::HardStopped,
        Outcome::HardStopped => Outcome::Repaired,
        Outcome::Repaired => Outcome::Failed(String::new()),
        Outcome::Failed(_) => Outcome::UnknownPath,
        Outcome::UnknownPath => Outcome::OtherHost,
        Outcome::OtherHost => Outcome::UnknownAction,
        Outcome::UnknownAction => Outcome::Heartbeat,
        Outcome::Heartbeat => Outcome::Resolved,
        Outcome::Resolved => Outcome::Idle(Idle::AlreadyStopped),
        Outcome::Idle(idle) => Outcome::Idle(match idle {
            Idle::AlreadyStopped => Idle::AlreadyReleased,
            Idle::AlreadyReleased => Idle::StaleEndpoint,
            Idle::StaleEndpoint => Idle::Recovered,
            Idle::Recovered => Idle::UplinkDown,
            Idle::UplinkDown => Idle::Exhausted,
            Idle::Exhausted => Idle::NoReachableStandby,
            Idle::NoReachableStandby => Idle::Paused,
            Idle::Paused => Idle::Unlocked,
            Idle::Unlocked => Idle::Intact,
            Idle::Intact => Idle::Unclear,
            Idle::Unclear => return None,
        }),
    })
}

/// The rows of the first table below a heading, cell by cell, without its two lines of head.
fn table(heading: &str) -> Vec<Vec<String>> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/decisions.md");
    let text = fs::read_to_string(file).expect("docs/decisions.md");
    let below = text.lines().skip_while(|line| *line != format!("## {heading}"));
    let rows =
        below.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2)
        .map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

/// The words in code style.
fn words(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

#[test]
fn every_outcome_is_documented_with_its_status() {
    let first = Outcome::Switched { from: String::new(), to: String::new() };
    let status = |outcome: &Outcome| if outcome.retry() { "503" } else { "200" };
    let known: BTreeMap<String, String> = std::iter::successors(Some(first), next)
        .map(|outcome| (outcome.word().to_owned(), status(&outcome).to_owned()))
        .collect();
    let documented: BTreeMap<String, String> = table("Outcomes")
        .into_iter()
        .map(|row| (row[0].trim_matches('`').to_owned(), row[2].clone()))
        .collect();
    assert_eq!(documented, known);
}

#[test]
fn every_verdict_is_documented() {
    let mut documented: Vec<String> =
        table("Verdicts").iter().flat_map(|row| words(&row[0])).collect();
    let mut known = Verdict::WORDS.map(str::to_owned);
    documented.sort();
    known.sort();
    assert_eq!(documented, known);
}

#[test]
fn every_reason_to_turn_a_notification_away_is_documented() {
    let mut documented: Vec<String> =
        table("Answers without an outcome").iter().flat_map(|row| words(&row[2])).collect();
    let mut known: Vec<String> = rejections().map(str::to_owned).collect();
    documented.sort();
    known.sort();
    known.dedup();
    assert_eq!(documented, known);
}
