//! The status as one screen for a person. What needs a person's eye is red.

use std::fmt::Write as _;
use std::time::Duration;

use egress::state::Timestamp;

use super::status::{EndpointStatus, PathStatus, Status, Word};
use crate::history::Decision;

/// Whether the screen shows colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ink {
    Plain,
    Colour,
}

impl Ink {
    fn red(self, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colour => format!("\x1b[1;31m{text}\x1b[0m"),
        }
    }
}

impl Status {
    pub fn lines(&self, ink: Ink) -> Vec<String> {
        let mut lines = Vec::new();
        if self.age_seconds > 0 {
            let age = span(Duration::from_secs(self.age_seconds));
            lines.push(ink.red(&format!("as the kernel was {age} ago: it cannot be read now")));
        }
        if let Some(busy) = &self.busy {
            let lasts = span(Duration::from_secs(busy.seconds));
            lines.push(format!("busy for {lasts}: {}", busy.with));
        }
        for wait in &self.waiting {
            let lasts = span(Duration::from_secs(wait.seconds));
            lines.push(ink.red(&format!("waiting for {lasts}: {}", wait.what)));
        }
        lines.extend(self.paths.iter().flat_map(|path| path.lines(ink)));
        if let Some(watchdog) = self.watchdog.as_ref().filter(|watchdog| watchdog.silent) {
            let since = span(Duration::from_secs(watchdog.since_seconds));
            lines.push(
                ink.red(&format!("watchdog silent for {since}: no alert may reach this host")),
            );
        }
        if self.daemon && !self.heard {
            lines.push(
                "no heartbeat yet: nobody tells this daemon of alerts until Prometheus and \
                 Alertmanager run, with the rules and the route of alerting-rules/"
                    .to_owned(),
            );
        }
        if !self.daemon {
            lines.push("no daemon: nobody acts on alerts; `actuator serve`".to_owned());
        }
        lines
    }
}

impl PathStatus {
    pub fn lines(&self, ink: Ink) -> Vec<String> {
        let mut lines = vec![format!("path {}: {}", self.path, self.headline(ink))];
        let mut add = |label: &str, text: String| lines.push(format!("  {label:<12}{text}"));
        if let Some(stop) = &self.stop {
            let since = stop.since.map_or_else(String::new, |since| format!(", {}", ago(since)));
            let evidence = in_brackets(&stop.evidence);
            add("hard stop", ink.red(&format!("{}{since}{evidence}", stop.reason)));
        }
        add("latched", if self.latched { ink.red("yes") } else { "no".to_owned() });
        let cut = self.cut.as_ref().map(|cut| {
            let since = cut.since.map_or_else(String::new, |at| format!(", since {}", ago(at)));
            format!("yes, {}{since}", cut.by.explained())
        });
        let not_cut =
            || if self.latched { ink.red("NO: packets may pass") } else { "no".to_owned() };
        add("cut", cut.unwrap_or_else(not_cut));
        let locked = match self.locked {
            Some(true) => "yes".to_owned(),
            Some(false) => ink.red("no: the killswitch in the kernel is not the intended one"),
            None => ink.red("unknown: the kernel's rules cannot be read"),
        };
        add("locked", locked);
        if let Some(unlocked) = &self.unlocked {
            let text = format!(
                "{}, {}; `actuator converge` puts the lock on again",
                unlocked.reason,
                ago(unlocked.at)
            );
            add("unlocked", ink.red(&text));
        }
        if let Some(active) = &self.active_endpoint {
            let role = if *active == self.primary_endpoint { "primary" } else { "backup" };
            let mut text = format!("{active} ({role})");
            if let Some(since) = self.active_since {
                let _ = write!(text, ", chosen {}", ago(since));
            }
            text.push_str(&in_brackets(self.active_reason.as_deref().unwrap_or_default()));
            add("endpoint", text);
        }
        let handshake = self.handshake_age_seconds.map(Duration::from_secs);
        let handshake = handshake.map_or("never".to_owned(), |age| format!("{} ago", span(age)));
        add("handshake", handshake);
        for one in &self.endpoints {
            add("reachable", reachability(one));
        }
        let rules = match self.rules_intact {
            Some(true) => "intact".to_owned(),
            Some(false) => ink.red("not the intended ones"),
            None => ink.red("unknown"),
        };
        add("rules", rules);
        let guard = if self.guarded { "held by the daemon" } else { "none, the rules are alone" };
        add("guard", guard.to_owned());
        for (one, host) in
            self.endpoints.iter().filter_map(|one| Some((one, one.hostname.as_ref()?)))
        {
            let when = one.pinned_at.map_or_else(String::new, |at| format!(", pinned {}", ago(at)));
            add("hostname", format!("{host} is {}{when}", one.address));
        }
        for uplink in &self.uplinks {
            let covered =
                if uplink.covered { "watched".to_owned() } else { ink.red("NOT watched yet") };
            add("device", format!("{} {covered}", uplink.device));
        }
        if let (Some(leaked), Some(baseline)) = (self.leaked_packets, self.leak_baseline) {
            add("leaked", format!("{leaked} packets, {baseline} of them dealt with"));
        }
        for flow in &self.leaked_flows {
            let when = span(Duration::from_secs(flow.seen_seconds_ago));
            add("leaked", ink.red(&format!("{}, {when} ago", flow.words)));
        }
        if let Some(until) = self.paused_until {
            let left = Duration::from_secs(until.saturating_sub(Timestamp::now().0));
            add("paused", format!("no automatic failover for {}", span(left)));
        }
        if self.exhausted {
            add("exhausted", ink.red("no later endpoint is left to fail forward to"));
        }
        for problem in &self.problems {
            add("problem", ink.red(problem));
        }
        for decision in &self.decisions {
            add("decided", told(decision));
        }
        lines
    }

    fn headline(&self, ink: Ink) -> String {
        match self.standing {
            Word::Locked => "locked".to_owned(),
            Word::Stopped => ink.red("stopped"),
            Word::Latched => ink.red("LATCHED, NOT CUT: packets may pass"),
            Word::Unlocked => ink.red("UNLOCKED"),
            Word::Open => ink.red("OPEN: the killswitch is not there"),
            Word::Unknown => ink.red("unknown"),
        }
    }
}

fn reachability(one: &EndpointStatus) -> String {
    let said = match one.reachable {
        Some(true) => "answers",
        Some(false) => "does not answer",
        None if one.live => "in use",
        None => "not asked",
    };
    let asked = one.asked_at.map_or_else(String::new, |at| format!(", asked {}", ago(at)));
    let live = if one.live && one.reachable.is_some() { ", in use" } else { "" };
    format!("{:<12}{said}{asked}{live}", one.endpoint)
}

fn told(decision: &Decision) -> String {
    let mut text = format!("{}: {}", ago(decision.at.0), decision.ask);
    if let Some(endpoint) = &decision.endpoint {
        let _ = write!(text, " at {endpoint}");
    }
    let _ = write!(text, " -> {}", decision.outcome);
    if decision.count > 1 {
        let _ = write!(text, ", {} times", decision.count);
    }
    if let Some(reason) = &decision.reason {
        let _ = write!(text, ": {reason}");
    }
    text.push_str(&in_brackets(&decision.evidence));
    text
}

fn in_brackets(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

fn ago(at: u64) -> String {
    let now = Timestamp::now();
    // A clock that was set back.
    if at > now.0 {
        "in the future".to_owned()
    } else {
        format!("{} ago", span(Timestamp(at).age()))
    }
}

/// In the two units that matter.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        (_, _, _) => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_told_in_the_units_that_matter() {
        let told = [0, 59, 60, 3_599, 3_600, 90_000].map(|s| span(Duration::from_secs(s)));
        assert_eq!(told, ["0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "1 d 1 h"]);
    }

    #[test]
    fn colour_is_for_terminals() {
        assert_eq!(Ink::Plain.red("x"), "x");
        assert!(Ink::Colour.red("x").starts_with("\x1b["));
    }
}
