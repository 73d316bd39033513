//! What was decided, and on what: one line of JSON per decision, a file per path beside its state.
//!
//! For people. Nothing is ever decided by it, and it is never more important than acting: what
//! cannot be written is told in the log and forgotten. Bounded; a torn last line is passed over.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use egress::file;
use egress::names::PathName;
use egress::state::Timestamp;
use serde::{Deserialize, Serialize};

/// Beyond this the older half goes. A decision is about 300 bytes: some eight hundred of them.
const LARGEST: usize = 256 * 1024;

/// No decision is longer: what an error says may be.
const LONGEST_TEXT: usize = 512;

/// One decision, by an alert, by a person or by the daemon's own care.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub at: Timestamp,
    /// failover, hard-stop, repair; converge, release, pause, unlock; care, watchdog.
    pub ask: String,
    /// The active endpoint when it was asked.
    pub endpoint: Option<String>,
    /// What was seen.
    pub evidence: String,
    /// What was done: switch, hard stop, repair, ... or nothing.
    pub action: String,
    /// What became of it.
    pub outcome: String,
    /// A person's, or the hard stop's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many times the same came in a row; `at` is the latest.
    #[serde(default = "once")]
    pub count: u64,
}

/// The action of a decision that changed nothing.
pub const NOTHING: &str = "nothing";

fn once() -> u64 {
    1
}

impl Decision {
    /// Of now; the rest is added to it.
    pub fn new(ask: &str, action: &str, outcome: impl Into<String>) -> Self {
        Self {
            at: Timestamp::now(),
            ask: ask.to_owned(),
            endpoint: None,
            evidence: String::new(),
            action: action.to_owned(),
            outcome: cut(outcome.into()),
            reason: None,
            count: 1,
        }
    }

    pub fn of(mut self, endpoint: &impl ToString) -> Self {
        self.endpoint = Some(endpoint.to_string());
        self
    }

    pub fn seeing(mut self, evidence: impl Into<String>) -> Self {
        self.evidence = cut(evidence.into());
        self
    }

    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(cut(reason.into()));
        self
    }

    fn is_idle(&self) -> bool {
        self.action == NOTHING
    }

    /// Whether it says nothing that `earlier` did not say; what was seen may differ in figures.
    fn repeats(&self, earlier: &Self) -> bool {
        let said = |one: &Self| [&one.ask, &one.outcome, &one.action].map(String::clone);
        let about = |one: &Self| [&one.endpoint, &one.reason].map(Option::clone);
        said(self) == said(earlier) && about(self) == about(earlier)
    }
}

fn cut(mut text: String) -> String {
    if text.len() > LONGEST_TEXT {
        let end = (0..=LONGEST_TEXT).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

#[derive(Debug, Clone)]
pub struct History {
    directory: PathBuf,
}

impl History {
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    fn file(&self, path: &PathName) -> PathBuf {
        self.directory.join(format!("history-{path}.jsonl"))
    }

    /// Adds a decision. Alertmanager repeats itself for as long as an alert fires: what changed
    /// nothing since the last act and comes again is counted, and not written once more. So is an
    /// act that is the last one over again: a repair that fails each second.
    pub fn record(&self, path: &PathName, decision: Decision) {
        let file = self.file(path);
        if let Err(error) = add(&file, decision) {
            let file = file.display();
            tracing::warn!(%path, %file, %error, "the decision is not in the history");
        }
    }

    /// The latest decisions, oldest first.
    pub fn last(&self, path: &PathName, most: usize) -> Vec<Decision> {
        let text = read(&self.file(path)).unwrap_or_default();
        let all: Vec<Decision> = lines(&text).filter_map(|(_, line)| parse(line)).collect();
        all[all.len().saturating_sub(most)..].to_vec()
    }
}

fn add(file: &Path, mut decision: Decision) -> io::Result<()> {
    let mut text = read(file)?;
    // A line that was torn is closed, so that it takes no other with it.
    if text.last().is_some_and(|last| *last != b'\n') {
        text.push(b'\n');
    }
    let mut changed_from = text.len();
    if let Some((at, earlier)) = repeated(&text, &decision) {
        decision.count = earlier.count + 1;
        let length = text[at..].iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        text.drain(at..at + length);
        changed_from = at;
    }
    serde_json::to_writer(&mut text, &decision)?;
    text.push(b'\n');
    if text.len() > LARGEST {
        return halve(file, &text);
    }
    let handle = open(file)?;
    // From the line before, if that was torn.
    let from = changed_from.saturating_sub(1);
    handle.write_all_at(&text[from..], from as u64)?;
    handle.set_len(text.len() as u64)?;
    if decision.is_idle() { Ok(()) } else { handle.sync_data() }
}

/// The decision that this one repeats, and where its line begins.
fn repeated(text: &[u8], decision: &Decision) -> Option<(usize, Decision)> {
    let all: Vec<_> = lines(text).collect();
    let mut decided = all.iter().rev().filter_map(|(at, line)| Some((*at, parse(line)?)));
    let last = decided.next()?;
    if decision.repeats(&last.1) {
        return Some(last);
    }
    if !decision.is_idle() || !last.1.is_idle() {
        return None;
    }
    let mut idle = decided.take_while(|(_, earlier)| earlier.is_idle());
    idle.find(|(_, earlier)| decision.repeats(earlier))
}

/// Keeps the newer half.
fn halve(file: &Path, text: &[u8]) -> io::Result<()> {
    let from = text.len() - LARGEST / 2;
    let from = from + text[from..].iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let temporary = file.with_extension("jsonl.new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    open(&temporary)?.write_all(&text[from..])?;
    fs::rename(&temporary, file)
}

fn open(file: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file)
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    // Twice that, so that one that was edited by hand is halved too.
    match file::read(file, 2 * LARGEST as u64) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// Each line with the place where it begins.
fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    text.split_inclusive(|byte| *byte == b'\n').map(move |line| {
        let begins = at;
        at += line.len();
        (begins, line)
    })
}

fn parse(line: &[u8]) -> Option<Decision> {
    serde_json::from_slice(line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> (tempfile::TempDir, History, PathName) {
        let directory = tempfile::tempdir().expect("a directory");
        let history = History::new(directory.path());
        (directory, history, "media".parse().expect("a name"))
    }

    fn idle(outcome: &str) -> Decision {
        Decision::new("failover", NOTHING, outcome).of(&"primary")
    }

    fn switch(reason: &str) -> Decision {
        Decision::new("failover", "switch", "switched").of(&"primary").because(reason)
    }

    fn outcomes(history: &History, path: &PathName) -> Vec<(String, u64)> {
        let all = history.last(path, usize::MAX);
        all.into_iter().map(|one| (one.outcome, one.count)).collect()
    }

    #[test]
    fn what_repeats_itself_is_counted_and_an_act_begins_anew() {
        let (_directory, history, path) = history();
        for _ in 0..3 {
            history.record(&path, idle("recovered"));
            history.record(&path, idle("stale_endpoint"));
        }
        history.record(&path, switch("a"));
        history.record(&path, switch("b"));
        history.record(&path, idle("recovered"));
        let expected = [("recovered", 3), ("stale_endpoint", 3), ("switched", 1), ("switched", 1)];
        let mut expected: Vec<_> =
            expected.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect();
        expected.push(("recovered".to_owned(), 1));
        assert_eq!(outcomes(&history, &path), expected);
        assert_eq!(history.last(&path, 2)[0].reason.as_deref(), Some("b"));
    }

    #[test]
    fn it_is_bounded_and_keeps_the_newest() {
        let (_directory, history, path) = history();
        for nth in 0..600 {
            history.record(&path, switch(&format!("{nth}")).seeing("x".repeat(4_000)));
        }
        let size = fs::metadata(history.file(&path)).expect("a file").len();
        assert!(size <= LARGEST as u64 && size > LARGEST as u64 / 4, "{size}");
        let last = history.last(&path, usize::MAX);
        assert_eq!(last.last().and_then(|one| one.reason.clone()).as_deref(), Some("599"));
        assert!(last.len() > 100);
    }

    #[test]
    fn a_torn_line_takes_no_other_with_it() {
        let (_directory, history, path) = history();
        history.record(&path, switch("kept"));
        let mut text = fs::read(history.file(&path)).expect("read");
        text.extend_from_slice(b"{\"at\":17,\"as");
        fs::write(history.file(&path), text).expect("written");
        history.record(&path, switch("after"));
        let reasons: Vec<_> =
            history.last(&path, 10).into_iter().filter_map(|one| one.reason).collect();
        assert_eq!(reasons, ["kept", "after"]);
    }

    #[test]
    fn what_cannot_be_written_keeps_nobody_from_acting() {
        let (_directory, history, path) = history();
        fs::create_dir(history.file(&path)).expect("made");
        history.record(&path, switch("nowhere"));
        assert!(history.last(&path, 10).is_empty());
    }
}
