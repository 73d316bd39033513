//! A table as we want it, before it is loaded; its text in nft's own language.

use std::fmt::Write as _;

use nftables::types::NfFamily;

use super::dsl::{Rule, quoted};
use super::listing::family_word;

/// nft refuses a longer comment.
#[cfg(test)]
pub const LONGEST_COMMENT: usize = 127;

/// Where a base chain is attached. The words are nft's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// `filter` or `route`.
    pub kind: &'static str,
    pub point: &'static str,
    pub priority: i32,
    pub policy: Policy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Accept,
    Drop,
}

impl Policy {
    pub fn word(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
        }
    }

    /// `linux/netfilter.h`
    pub fn number(self) -> u32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
        }
    }
}

impl Hook {
    pub fn filter(point: &'static str, priority: i32, policy: Policy) -> Self {
        Self { kind: "filter", point, priority, policy }
    }
}

#[derive(Debug, Clone)]
pub struct Set {
    pub name: String,
    /// As in `ipv4_addr . inet_service`. Never a single type: nft before 1.1.2 crashes on such a set
    /// that a later one wrote.
    pub types: &'static str,
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// These elements.
    Fixed(Vec<String>),
    /// What rules add: so many elements, each for so long. They outlive a replacement of the table.
    Dynamic { size: u32, timeout: &'static str },
}

impl Set {
    pub fn is_dynamic(&self) -> bool {
        matches!(self.content, Content::Dynamic { .. })
    }
}

#[derive(Debug, Clone)]
pub struct Chain {
    pub name: String,
    /// `None`: not attached, other chains go to it.
    pub hook: Option<Hook>,
    pub device: Option<String>,
    pub rules: Vec<Rule>,
}

/// All objects of one table.
#[derive(Debug, Clone)]
pub struct TableSpec {
    pub family: NfFamily,
    pub name: &'static str,
    pub flags: Option<&'static str>,
    /// What its transaction begins with, in nft's own language.
    pub first: Option<String>,
    pub counters: Vec<String>,
    pub sets: Vec<Set>,
    pub chains: Vec<Chain>,
}

impl TableSpec {
    pub fn new(family: NfFamily, name: &'static str) -> Self {
        let (counters, sets, chains) = (vec![], vec![], vec![]);
        Self { family, name, flags: None, first: None, counters, sets, chains }
    }

    /// The same by another name and with other flags, its base chains `later` steps of priority later.
    pub fn copy_to(mut self, name: &'static str, flags: &'static str, later: i32) -> Self {
        (self.name, self.flags, self.first) = (name, Some(flags), None);
        for hook in self.chains.iter_mut().filter_map(|chain| chain.hook.as_mut()) {
            hook.priority += later;
        }
        self
    }

    pub fn counter(&mut self, name: &str) {
        self.counters.push(name.to_owned());
    }

    pub fn set(&mut self, name: impl Into<String>, types: &'static str, content: Content) {
        self.sets.push(Set { name: name.into(), types, content });
    }

    /// Adds a chain that others go to.
    pub fn chain(&mut self, name: &str, rules: Vec<Rule>) {
        self.chains.push(Chain { name: name.to_owned(), hook: None, device: None, rules });
    }

    pub fn base_chain(&mut self, name: &str, at: Hook, device: Option<&str>, rules: Vec<Rule>) {
        let device = device.map(str::to_owned);
        self.chains.push(Chain { name: name.to_owned(), hook: Some(at), device, rules });
    }

    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.chains.iter().flat_map(|chain| &chain.rules)
    }

    /// Objects that a listing of the loaded table holds, the table itself and the rules too.
    pub fn objects(&self) -> usize {
        1 + self.counters.len() + self.sets.len() + self.chains.len() + self.rules().count()
    }

    /// The table in nft's own language.
    pub fn text(&self) -> String {
        let mut text = format!("table {} {} {{\n", family_word(self.family), self.name);
        if let Some(flags) = self.flags {
            let _ = writeln!(text, "\tflags {flags}");
        }
        for counter in &self.counters {
            let _ = writeln!(text, "\tcounter {counter} {{ }}");
        }
        for set in &self.sets {
            set.write(&mut text);
        }
        for chain in &self.chains {
            chain.write(&mut text);
        }
        text.push_str("}\n");
        text
    }
}

impl Set {
    fn write(&self, text: &mut String) {
        let _ = write!(text, "\tset {} {{\n\t\ttype {}\n", self.name, self.types);
        match &self.content {
            Content::Dynamic { size, timeout } => {
                let flags = "flags dynamic,timeout";
                let _ = writeln!(text, "\t\tsize {size}\n\t\t{flags}\n\t\ttimeout {timeout}");
            }
            // nft refuses an empty element list; a set without one is simply empty.
            Content::Fixed(elements) if elements.is_empty() => {}
            Content::Fixed(elements) => {
                let _ = writeln!(text, "\t\telements = {{ {} }}", elements.join(", "));
            }
        }
        text.push_str("\t}\n");
    }
}

impl Chain {
    fn write(&self, text: &mut String) {
        let _ = writeln!(text, "\n\tchain {} {{", self.name);
        if let Some(Hook { kind, point, priority, policy }) = self.hook {
            let device =
                self.device.as_ref().map_or_else(String::new, |name| format!(" device \"{name}\""));
            let policy = policy.word();
            let _ = writeln!(
                text,
                "\t\ttype {kind} hook {point}{device} priority {priority}; policy {policy};"
            );
        }
        for rule in &self.rules {
            let _ = writeln!(text, "\t\t{} comment {}", rule.words.join(" "), quoted(rule.why));
        }
        text.push_str("\t}\n");
    }
}
