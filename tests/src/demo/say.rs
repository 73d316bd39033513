//! What the demonstration prints: short lines, each with the time since the start. Readable on a
//! terminal and in a log.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use lab::programs::Said;

/// Line by line to standard output; a reader who has gone is no reason to stop.
#[derive(Clone, Copy)]
pub struct Say {
    started: Instant,
    marks: Marks,
    is_coloured: bool,
}

#[derive(Clone, Copy)]
struct Marks {
    done: &'static str,
    failed: &'static str,
    rule: &'static str,
    quote: &'static str,
}

const UNICODE: Marks = Marks { done: "✓", failed: "✗", rule: "──", quote: "│" };
const ASCII: Marks = Marks { done: "ok", failed: "FAILED", rule: "--", quote: "|" };

const BOLD: &str = "1";
const GREEN: &str = "32";
const RED: &str = "31";
const DIM: &str = "2";

impl Say {
    pub fn new() -> Self {
        let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
        // The order in which the C library looks.
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable);
        let locale = locale.unwrap_or_default().to_lowercase();
        let is_unicode = locale.contains("utf-8") || locale.contains("utf8");
        Self {
            started: Instant::now(),
            marks: if is_unicode { UNICODE } else { ASCII },
            is_coloured: io::stdout().is_terminal()
                && variable("NO_COLOR").is_none()
                && variable("TERM").is_some_and(|term| term != "dumb"),
        }
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    pub fn step(&self, title: &str) {
        let rule = self.marks.rule;
        print("");
        print(&format!("{}  {}", self.time(), self.paint(BOLD, &format!("{rule} {title} {rule}"))));
    }

    pub fn line(&self, text: &str) {
        print(&format!("{}    {text}", self.time()));
    }

    /// Something that was claimed, and was looked at.
    pub fn done(&self, text: &str) {
        print(&format!("{}  {} {text}", self.time(), self.paint(GREEN, self.marks.done)));
    }

    pub fn failed(&self, text: &str) {
        print(&format!("{}  {} {text}", self.time(), self.paint(RED, self.marks.failed)));
    }

    /// What a command of `actuator` said, word for word; its log is not shown.
    pub fn quote(&self, command: &str, said: &Said) {
        self.line(&format!("$ {command}"));
        let refusals = said.err.lines().filter(|line| line.starts_with("actuator: "));
        self.lines(said.out.lines().chain(refusals));
    }

    /// The last lines of a log.
    pub fn tail(&self, name: &str, log: &str, count: usize) {
        let lines: Vec<&str> = log.lines().collect();
        self.line(&format!("the end of the log of {name}:"));
        self.lines(lines[lines.len().saturating_sub(count)..].iter().copied());
    }

    /// Rows of two columns.
    pub fn table<L: AsRef<str>, R: AsRef<str>>(rows: &[(L, R)]) {
        let rows = rows.iter().map(|(left, right)| (left.as_ref(), right.as_ref()));
        let width = rows.clone().map(|(left, _)| left.chars().count()).max().unwrap_or(0);
        for (left, right) in rows {
            print(&format!("    {left:<width$}   {right}"));
        }
    }

    fn lines<'a>(&self, lines: impl Iterator<Item = &'a str>) {
        let quote = self.paint(DIM, self.marks.quote);
        for line in lines {
            print(&format!("             {quote} {line}"));
        }
    }

    fn time(&self) -> String {
        let time = format!("[{:6.1} s]", self.started.elapsed().as_secs_f64());
        self.paint(DIM, &time)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.is_coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

pub fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn print(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}
