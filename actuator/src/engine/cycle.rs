//! The daemon's health cycles: all paths together, by two snapshots of the kernel. Holds no lock of the
//! engine's: an alert must not wait for a probe's timeout.

use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use egress::clock::Uptime;
use egress::config::{FailoverTo, PathConfig};
use egress::health::{Clock, Verdict};
use egress::observe::{self, Cycle, Kernel, Sight, TunnelProbe};
use egress::state::{PathState, Store};

use super::evidence::{Latest, Look, locked};

/// How long the kernel is read for: as long as a device may take to answer.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// A cycle of one path whose probe is under way.
struct Beginning<'scope> {
    state: Arc<PathState>,
    settling: bool,
    probed: Probing<'scope>,
}

enum Probing<'scope> {
    Sent(ScopedJoinHandle<'scope, TunnelProbe>),
    Off(TunnelProbe),
}

/// A cycle of one path after its probe.
struct Begun {
    state: Arc<PathState>,
    settling: bool,
    probed: TunnelProbe,
}

impl Beginning<'_> {
    fn wait(self) -> Begun {
        let Self { state, settling, probed } = self;
        let probed = match probed {
            Probing::Sent(probe) => {
                probe.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
            Probing::Off(probed) => probed,
        };
        Begun { state, settling, probed }
    }
}

fn is_behind(cycle: &Cycle) -> bool {
    matches!(cycle.evidence.clock, Clock::Behind(_)) && matches!(cycle.verdict, Verdict::Unknown(_))
}

impl Latest {
    /// One cycle of all paths: the probes all at once, then one snapshot, by which every path is judged.
    /// While a tunnel is down, the endpoints it could fail forward to are asked too.
    pub fn cycle(&self, paths: &[PathConfig], store: &Store, kernel: &Arc<Kernel>) {
        let before = kernel.snapshot(paths, Instant::now(), READ_LIMIT);
        let begun: Vec<Option<Begun>> = thread::scope(|scope| {
            let mut begun = Vec::new();
            for (path, sight) in before.sights(paths, store) {
                begun.push(self.begin(scope, path, sight));
            }
            begun.into_iter().map(|one| one.map(Beginning::wait)).collect()
        });
        let is_probed = paths.iter().any(|path| path.health.probe.is_some());
        // Where nothing was asked, nothing is older than it.
        let after =
            if is_probed { kernel.snapshot(paths, Instant::now(), READ_LIMIT) } else { before };
        let mut unsettled = Vec::new();
        for ((path, sight), begun) in after.sights(paths, store).zip(begun) {
            if let Some(begun) = begun
                && self.judge(path, sight, &begun)
            {
                unsettled.push((path, begun));
            }
        }
        thread::scope(|scope| {
            for (path, begun) in &unsettled {
                scope.spawn(|| self.ask_candidates(path, begun));
            }
        });
    }

    /// Sends the path's probe. `None`: its state cannot be read.
    fn begin<'scope, 'env>(
        &self,
        scope: &'scope thread::Scope<'scope, 'env>,
        path: &'env PathConfig,
        sight: Sight,
    ) -> Option<Beginning<'scope>> {
        let state = sight.state.ok()?;
        let settling = self.is_settling(path, &state);
        let before = sight.device.ok();
        let probe = move || TunnelProbe::of(path, before);
        // Without one there is nothing to wait for.
        let probed = if path.health.probe.is_some() {
            Probing::Sent(scope.spawn(probe))
        } else {
            Probing::Off(probe())
        };
        Some(Beginning { state, settling, probed })
    }

    /// Records the verdict; whether the path's candidates have to be asked.
    fn judge(&self, path: &PathConfig, sight: Sight, begun: &Begun) -> bool {
        let Begun { state, settling, probed } = begun;
        let handshakes = self.handshakes(path);
        let mut cycle = observe::judge(path, sight, probed, *settling, &handshakes);
        cycle.verdict = self.patient(path, cycle.verdict);
        if matches!(cycle.verdict, Verdict::UplinkDown(_)) {
            self.pace(path, |pace| pace.uplink_is_down(Uptime::now(), path.health.settle));
        }
        let (up, down) = match cycle.verdict {
            Verdict::Up => (true, false),
            Verdict::TunnelDown(_) => (false, true),
            _ => (false, false),
        };
        let behind = is_behind(&cycle);
        let look = Look {
            ended: Uptime::now(),
            active: cycle.active.unwrap_or_else(|| state.active.clone()),
            verdict: cycle.verdict,
            behind,
            received_bytes: cycle.received_bytes,
            last_handshake: cycle.last_handshake,
        };
        locked(&self.looks).insert(path.name.clone(), look);
        if up {
            // What candidates have shown is kept through an outage, and only through it.
            locked(&self.candidates).retain(|(name, _), _| *name != path.name);
        }
        (down || behind) && path.health.failover_to == FailoverTo::Answering
    }

    fn ask_candidates(&self, path: &PathConfig, begun: &Begun) {
        let active = path.position(&begun.state.active).unwrap_or(path.endpoints.len());
        let mut later = path.endpoints.iter().skip(active + 1);
        // The first that answers is the one that a failover would take.
        let answers = later.any(|candidate| self.probe(path, candidate).answers());
        if answers && self.of(path).is_some_and(|look| look.behind) {
            // It was ahead when state was written, and is right: behind it, none could answer.
            locked(&self.clock_proven).insert(path.name.clone());
        }
    }
}
