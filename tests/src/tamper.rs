//! The five ways in which other programs and people take a killswitch off, most often without
//! meaning it; and how long until it is whole again.

use std::time::{Duration, Instant};

use crate::addresses::Ns;
use crate::eventually::eventually;
use crate::leaks::Leak;
use crate::process::Process;
use crate::world::World;

/// The tables that are there with and without a daemon.
const WALLS: [(&str, &str); 2] = [("inet", "vpn_egress"), ("netdev", "vpn_egress_watch")];

/// Far longer than is promised: what took how long is for the test to judge.
const PATIENCE: Duration = Duration::from_secs(20);

/// As Debian ships `/etc/nftables.conf`, which `systemctl restart nftables` loads.
const FOREIGN: &str = "flush ruleset
table inet filter {
    chain input { type filter hook input priority filter; }
    chain forward { type filter hook forward priority filter; }
    chain output { type filter hook output priority filter; }
}
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tampering {
    Flush,
    /// A restart of the distribution's nftables service.
    ForeignRuleset,
    Delete,
    AcceptAtHead,
    PolicyAccept,
}

impl Tampering {
    pub const ALL: [Self; 5] =
        [Self::Flush, Self::ForeignRuleset, Self::Delete, Self::AcceptAtHead, Self::PolicyAccept];

    const fn commands(self) -> &'static str {
        match self {
            Self::Flush => "flush ruleset",
            Self::ForeignRuleset => FOREIGN,
            Self::Delete => "delete table inet vpn_egress",
            Self::AcceptAtHead => {
                "insert rule inet vpn_egress leaving accept\ninsert rule inet vpn_egress forward accept"
            }
            Self::PolicyAccept => "chain inet vpn_egress leaving { policy accept; }",
        }
    }

    /// The word that stands for it in a table of results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flush => "nft flush ruleset",
            Self::ForeignRuleset => "nftables.service restarted",
            Self::Delete => "table deleted",
            Self::AcceptAtHead => "accept at the head",
            Self::PolicyAccept => "policy accept",
        }
    }
}

impl World {
    #[track_caller]
    pub fn tamper_with(&self, tampering: Tampering) {
        self.nft(Ns::Egress, tampering.commands());
    }

    /// Both walls as nft prints them, without what counts; chains in no order, for one that was made
    /// anew comes last. Empty where a table is missing.
    pub fn walls(&self) -> Vec<String> {
        let mut parts = Vec::new();
        for (family, table) in WALLS {
            let listed = self.run(Ns::Egress, &["nft", "-s", "list", "table", family, table]);
            let listed = String::from_utf8_lossy(&listed.stdout);
            let inside = listed.trim_end().trim_end_matches('}').replace("{\n", "{\n\n");
            parts.extend(inside.split("\n\n").map(|part| format!("{table} {}", part.trim())));
        }
        parts.sort();
        parts
    }

    /// Tampers, and waits until the walls are again as they were: how long that took, from before
    /// the tampering.
    #[track_caller]
    pub fn tamper_and_await(&self, tampering: Tampering) -> Duration {
        let intact = self.walls();
        assert!(intact.len() > 10, "intact before: {intact:?}");
        let started = Instant::now();
        self.tamper_with(tampering);
        eventually(PATIENCE, "the walls are intact again", || self.walls() == intact);
        started.elapsed()
    }

    /// Sends past the tunnel as fast as it can, until it is dropped.
    #[track_caller]
    pub fn start_leaking(&self, kinds: &[Leak]) -> Process {
        let lab = Self::program("lab").display().to_string();
        let script = "while :; do for kind; do \"$0\" leak --kind $kind --count 100; done; done";
        let kinds: Vec<String> = kinds.iter().map(|kind| kind.name()).collect();
        let mut line = vec!["sh", "-c", script, &lab];
        line.extend(kinds.iter().map(String::as_str));
        self.spawn(Ns::Egress, "leaking", &line)
    }
}
