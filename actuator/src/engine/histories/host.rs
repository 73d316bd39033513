//! The host that histories are played on: the engine's own state and transitions; the kernel is a
//! leak counter. What does not outlive a process or a boot does not outlive it here.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use egress::clock::Moment;
use egress::config::{Config, PathConfig};
use egress::firewall::{Count, Leaked, Rules};
use egress::names::EndpointName;
use egress::state::{Act, Intended, Latch, PathState, Timestamp};

use super::super::transition::{Enforced, released, standing, stopped, switched};
use crate::decide::Standing;

/// What a person may make of the list, by name and by the last number of the address.
const LISTS: [&[(&str, u8)]; 6] = [
    &[("a", 1), ("b", 2), ("c", 3), ("d", 4)],
    // Reordered; without its first; without its second and its last.
    &[("d", 4), ("c", 3), ("b", 2), ("a", 1)],
    &[("b", 2), ("c", 3), ("d", 4)],
    &[("a", 1), ("c", 3)],
    // Another server by the same name; the same server by another name.
    &[("a", 1), ("b", 2), ("c", 9), ("d", 4)],
    &[("a", 1), ("x", 2), ("c", 3), ("d", 4)],
];
/// One of them is in no list.
pub const NAMES: [&str; 6] = ["a", "b", "c", "d", "x", "nobody"];

pub type Paths = Vec<(PathConfig, Rules)>;

pub fn paths() -> Paths {
    let directory = tempfile::tempdir().expect("a directory");
    let key = directory.path().join("key");
    // Of RFC 7748, section 6.1.
    std::fs::write(&key, "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=").expect("written");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("mode");
    let one = |list: &&[(&str, u8)]| {
        let endpoints: Vec<serde_json::Value> = list
            .iter()
            .map(|(name, number)| {
                serde_json::json!({
                    "name": name, "address": format!("203.0.113.{number}:51820"),
                    "public_key": "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=",
                    "private_key_file": key,
                })
            })
            .collect();
        let path = serde_json::json!({"name": "media", "interface": "wg0", "endpoints": endpoints});
        let file = directory.path().join("egress.yml");
        std::fs::write(&file, serde_json::json!({"paths": [path]}).to_string()).expect("written");
        let path = Config::load(&file).expect("a config").paths.remove(0);
        let rules = Rules::of(&path);
        (path, rules)
    };
    LISTS.iter().map(one).collect()
}

/// Choices, drawn from one number: quick, and it shrinks to the first choice of each.
pub struct Draw(pub u64);

impl Draw {
    pub fn of(&mut self, number: u64) -> u64 {
        let drawn = self.0 % number;
        self.0 /= number;
        drawn
    }

    pub fn from<T: Copy>(&mut self, choices: &[T]) -> T {
        let drawn = usize::try_from(self.of(choices.len() as u64)).expect("small");
        choices[drawn]
    }
}

/// The host: what outlives a process, what does not, and what has happened.
pub struct Host<'a> {
    pub paths: &'a Paths,
    /// The list on disk, in the daemon's hand, and converged last.
    pub disk: usize,
    pub hand: usize,
    pub converged: usize,
    pub state: PathState,
    pub leaked: u64,
    /// Whether the kernel does what the latch says.
    pub enforced: Enforced,
    pub now: Moment,
    // What the promises are checked against.
    pub leaking: bool,
    pub left: BTreeSet<EndpointName>,
    /// Of this boot: until when failover is paused, in uptime.
    pub pause: Option<u64>,
}

impl<'a> Host<'a> {
    pub fn new(paths: &'a Paths) -> Self {
        let mut state = PathState::new(paths[0].0.primary().name.clone());
        state.intended = Some(intended(&paths[0].1));
        let now = Moment { wall: Timestamp(1_800_000_000), boot: "0".to_owned(), uptime: 100 };
        Self {
            paths,
            disk: 0,
            hand: 0,
            converged: 0,
            state,
            leaked: 0,
            enforced: Enforced::Cut,
            now,
            leaking: false,
            left: BTreeSet::new(),
            pause: None,
        }
    }

    pub fn standing(&self) -> Standing {
        let (path, rules) = &self.paths[self.hand];
        standing(path, rules, &self.state, self.enforced, &self.now)
    }

    pub fn stop(&mut self) {
        let (reason, evidence) = ("leak".to_owned(), String::new());
        stopped(&mut self.state, Latch { reason, evidence, at: self.now.wall, by: None });
    }

    /// Whatever can happen but an alert.
    pub fn play(&mut self, draw: &mut Draw) {
        match draw.of(12) {
            0 | 1 => self.converge(draw),
            2 => self.disk = usize::try_from(draw.of(LISTS.len() as u64)).expect("small"),
            3 => self.restart(),
            4 => {
                self.reboot(draw);
                self.restart();
            }
            // Without the walls nothing is counted.
            5 | 6 if self.state.unlocked.is_none() => {
                self.leaked += 1 + draw.of(3);
                self.leaking = true;
            }
            7 if self.state.latch.is_some() => {
                let act = Act { reason: String::new(), at: self.now.wall };
                let counted = self.counted();
                released(&mut self.state, counted, act);
                self.leaking = false;
            }
            8 => {
                let time = 1 + draw.of(3000);
                self.state.pause(Duration::from_secs(time), &self.now);
                self.pause = Some(self.now.uptime + time);
            }
            9 if self.state.latch.is_none() => {
                self.state.unlocked = Some(Act { reason: String::new(), at: self.now.wall });
                self.leaking = false;
            }
            10 => {
                let passed = draw.of(2000);
                self.now.uptime += passed;
                self.now.wall.0 += passed;
            }
            11 => self.now.wall.0 = draw.from(&[0, 1_799_900_000, 1_800_000_000, 1_900_000_000]),
            _ => {}
        }
    }

    /// As the kernel would say it.
    pub fn counted(&self) -> Leaked {
        Leaked { watch: Some(Count { packets: self.leaked, bytes: 0 }), guard: None }
    }

    /// A new process has what state has, the config on disk, and looks for leaks first.
    fn restart(&mut self) {
        let kept = serde_json::to_vec(&self.state).expect("written");
        self.state = serde_json::from_slice(&kept).expect("read");
        self.hand = self.disk;
        let open = self.state.latch.is_none() && self.state.unlocked.is_none();
        if open && self.leaked > self.state.leak_baseline {
            self.stop();
        }
    }

    /// The kernel begins anew, and the load that follows takes its count for the baseline.
    fn reboot(&mut self, draw: &mut Draw) {
        self.now = Moment {
            wall: Timestamp(self.now.wall.0 + draw.from(&[60, 0, 100_000])),
            boot: format!("{}'", self.now.boot),
            uptime: 10,
        };
        self.pause = None;
        (self.leaked, self.state.leak_baseline) = (0, 0);
        // A leak that nothing had acted on is gone with the counter that had it.
        self.leaking &= self.state.latch.is_some();
    }

    fn converge(&mut self, draw: &mut Draw) {
        if self.state.latch.is_some() {
            return;
        }
        // What was unlocked is counted anew from the load on.
        if self.state.unlocked.take().is_some() {
            self.state.leak_baseline = self.leaked;
        }
        (self.hand, self.converged) = (self.disk, self.disk);
        let (path, rules) = &self.paths[self.hand];
        self.state.intended = Some(intended(rules));
        let primary = &path.primary().name;
        let is_dead = draw.of(4) == 3;
        if self.state.active != *primary && !is_dead {
            switched(&mut self.state, primary, self.now.wall);
        }
        self.left.clear();
    }
}

fn intended(rules: &Rules) -> Intended {
    let digest = String::new();
    Intended {
        cgroups: std::collections::BTreeMap::new(),
        killswitch: digest.clone(),
        watch: digest,
        rules: rules.clone(),
        coverage: egress::firewall::Coverage::default(),
    }
}
