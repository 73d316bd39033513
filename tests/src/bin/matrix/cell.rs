//! One row under one lock, in a world of its own: traffic of every kind before the lock, before
//! the fault, while it happens and after it; the router counts.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::ValueEnum as _;
use lab::addresses::{TUNNEL_SERVER, WORLD_HOLE};
use lab::flood::{Flood, MARKED, Tried};
use lab::kinds::Sender;
use lab::{Endpoint, addresses};
use lab::{Keepalive, Kind, Ns, Process, World, eventually};
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::lock::Lock;

/// A machine that is this slow cannot be measured on.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which kinds: what the watch counts as a leak by itself is sent in a world of its own, or the
/// hard stop would be all that the others ever met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kinds {
    All,
    Stack,
    Raw,
}

impl Kinds {
    pub fn has(self, kind: Kind) -> bool {
        match self {
            Self::All => true,
            Self::Stack => !kind.is_raw(),
            Self::Raw => kind.is_raw(),
        }
    }
}

/// How much is sent.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Amount {
    /// Packets of each kind, per second.
    #[arg(long, default_value_t = 100)]
    pub rate: u32,
    /// Packets of each kind before the fault.
    #[arg(long, default_value_t = 20)]
    pub before: u64,
    /// Packets of each kind from the fault on.
    #[arg(long, default_value_t = 80)]
    pub after: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Row {
    pub kinds: BTreeMap<Kind, Cell>,
    /// Packets outside the tunnel that are of no kind.
    pub others: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cell {
    pub tried: u64,
    pub seen: u64,
    /// Of these, from the fault on: what makes a control one of this row.
    pub seen_since_fault: u64,
    /// How often an unprivileged process could put the mark on a packet.
    pub marked: u64,
}

pub struct Stage {
    pub world: World,
    pub lock: Lock,
    /// The actuator, then the exporter.
    pub programs: Vec<Process>,
    kinds: Kinds,
    rate: u32,
    floods: Vec<Flood>,
    container: Option<Flood>,
    /// What senders tried that have ended.
    ended: BTreeMap<Kind, Tried>,
    _far: Vec<Process>,
}

impl Stage {
    /// Only inside the lab's namespaces.
    pub fn raise(fault: Fault, lock: Lock, kinds: Kinds, amount: Amount) -> Self {
        let mut world = World::build();
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.add_container();
        world.route_outside(WORLD_HOLE);
        fault.prepare(&world);
        let far = world.start_far_ends();
        eventually(PATIENCE, "the tunnel answers", || {
            world.ping(Ns::Egress, &TUNNEL_SERVER.to_string())
                && world.ping(Ns::Container, &addresses::WORLD.to_string())
        });
        let mut stage = Self {
            world,
            lock,
            programs: Vec::new(),
            kinds,
            rate: amount.rate,
            floods: Vec::new(),
            container: None,
            ended: BTreeMap::new(),
            _far: far,
        };
        // The lock comes into the traffic; but a daemon that finds a leak when it starts cuts the
        // path at once, which would be all there is to see.
        if kinds != Kinds::Raw {
            stage.flood();
        }
        stage.programs = lock.apply(&stage.world);
        if kinds == Kinds::Raw {
            stage.flood();
        }
        stage
    }

    fn flood(&mut self) {
        let kinds = self.kinds;
        let senders = [Sender::Host, Sender::User];
        let start = |sender| self.world.start_flood(sender, self.rate, |kind| kinds.has(kind));
        self.floods = senders.into_iter().filter_map(start).collect();
        self.container =
            self.world.start_flood(Sender::Container, self.rate, |kind| kinds.has(kind));
    }

    /// The container as it is after a restart: none of its flows is from before the lock.
    pub fn flood_new_container(&mut self) {
        let kinds = self.kinds;
        self.container =
            self.world.start_late_flood(Sender::Container, self.rate, |kind| kinds.has(kind));
    }

    /// The container's processes end; what they tried stays counted.
    pub fn end_container(&mut self) {
        if let Some(mut flood) = self.container.take() {
            add(&mut self.ended, flood.tried());
        }
    }

    fn tried(&mut self) -> BTreeMap<Kind, Tried> {
        let mut all = self.ended.clone();
        for flood in self.floods.iter_mut().chain(self.container.as_mut()) {
            add(&mut all, flood.tried());
        }
        all
    }

    /// Waits until each kind was tried so many times more.
    pub fn await_tries(&mut self, more: u64) {
        let from = self.tried();
        eventually(PATIENCE, "every kind is sent", || {
            let now = self.tried();
            let packets = |of: &BTreeMap<Kind, Tried>, kind| {
                of.get(kind).map_or(0, |tried: &Tried| tried.packets)
            };
            let slowest = now.keys().map(|kind| packets(&now, kind) - packets(&from, kind)).min();
            if slowest >= Some(more) { Ok(()) } else { Err(slowest) }
        });
    }
}

fn add(all: &mut BTreeMap<Kind, Tried>, more: BTreeMap<Kind, Tried>) {
    for (kind, tried) in more {
        let sum = all.entry(kind).or_default();
        sum.packets += tried.packets;
        for (error, count) in tried.refused {
            *sum.refused.entry(error).or_default() += count;
        }
    }
}

pub fn run(stage: &mut Stage, fault: Fault, amount: Amount) -> Row {
    let (lock, kinds) = (stage.lock, stage.kinds);
    stage.world.reset_observer();
    let (tried, seen) = (stage.tried(), stage.world.observed_kinds());
    stage.await_tries(amount.before);
    let at_fault = stage.world.observed_kinds();
    fault.commit(stage);
    stage.await_tries(amount.after);
    if lock == Lock::Ours && kinds == Kinds::Stack && fault.is_survived() {
        assert_standing(&stage.world, fault);
    }
    let tried_now = stage.tried();
    // In this order: what a leaking row lets out between the two looks is not of no kind.
    let outside = stage.world.observed_outside();
    let seen_now = stage.world.observed_kinds();

    let mut row = Row::default();
    for &kind in Kind::value_variants().iter().filter(|kind| kinds.has(**kind)) {
        let of = |tried: &BTreeMap<Kind, Tried>| tried.get(&kind).cloned().unwrap_or_default();
        let (before, now) = (of(&tried), of(&tried_now));
        let cell = Cell {
            tried: now.packets - before.packets,
            seen: seen_now[&kind] - seen[&kind],
            seen_since_fault: seen_now[&kind] - at_fault[&kind],
            marked: now.refused.get(MARKED).copied().unwrap_or(0),
        };
        row.kinds.insert(kind, cell);
    }
    let known: u64 = row.kinds.values().map(|cell| cell.seen).sum();
    row.others = outside.saturating_sub(known);
    row
}

/// A row in which nothing left because everything was cut would say nothing.
fn assert_standing(world: &World, fault: Fault) {
    // A busy machine may not have answered the last look.
    eventually(PATIENCE, &format!("{}: the lock stands", fault.name()), || {
        let status = world.status();
        if status["standing"] == "locked" { Ok(()) } else { Err(status) }
    });
}
