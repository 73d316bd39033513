//! The workload: something on the host under test that sends all the time, and writes down by
//! which exit it was answered.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::addresses::{ECHO, Exit, Ns};
use crate::clock::Clock;
use crate::eventually::eventually;
use crate::process::Process;
use crate::world::World;

/// Often enough to measure a gap to a twentieth of a second.
const INTERVAL_MS: &str = "50";
/// Bytes of a datagram: its number, and no more; or a large one.
const SMALL: usize = 0;
const LARGE: usize = 1300;

/// An answer `world` gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub sequence: u64,
    /// When the datagram was sent that it answers.
    pub sent: Instant,
    pub received: Instant,
    pub exit: Exit,
}

/// A stream of numbered datagrams. It goes on while sending fails. Ended when dropped.
pub struct Workload {
    process: Process,
    started: Instant,
    seen: Mutex<Seen>,
}

/// How far the record has been read.
#[derive(Default)]
struct Seen {
    bytes: usize,
    answers: Vec<Answer>,
}

impl World {
    /// Starts a workload that sends to the echo service of `world` by the host's default route.
    #[track_caller]
    pub fn start_workload(&mut self) -> Workload {
        self.start_workload_to(ECHO)
    }

    /// The same to another address of `world`.
    #[track_caller]
    pub fn start_workload_to(&mut self, target: SocketAddr) -> Workload {
        self.start_traffic(Ns::Egress, target, SMALL)
    }

    /// The same in another namespace, such as the container's.
    #[track_caller]
    pub fn start_workload_in(&mut self, ns: Ns) -> Workload {
        self.start_traffic(ns, ECHO, SMALL)
    }

    /// Datagrams that fill a tunnel packet nearly; the answers are small.
    #[track_caller]
    pub fn start_large_workload(&mut self) -> Workload {
        self.start_traffic(Ns::Egress, ECHO, LARGE)
    }

    #[track_caller]
    fn start_traffic(&mut self, ns: Ns, target: SocketAddr, size: usize) -> Workload {
        self.workloads += 1;
        let lab = Self::program("lab");
        let process = self.spawn(
            ns,
            &format!("workload-{}", self.workloads),
            &[
                &lab.to_string_lossy(),
                "traffic",
                "--target",
                &target.to_string(),
                "--interval-ms",
                INTERVAL_MS,
                "--size",
                &size.to_string(),
            ],
        );
        Workload { process, started: Instant::now(), seen: Mutex::default() }
    }
}

impl Workload {
    /// By which exit the latest answer came; `None` before the first.
    pub fn last_exit(&self) -> Option<Exit> {
        self.read().answers.last().map(|answer| answer.exit)
    }

    /// Waits for an answer by `exit` to something sent from now on; panics when none comes.
    #[track_caller]
    pub fn wait_for_exit(&self, exit: Exit, limit: Duration) -> Answer {
        let since = Instant::now();
        eventually(limit, &format!("traffic flows by exit {exit:?}"), || {
            let seen = self.read();
            seen.answers
                .iter()
                .find(|answer| answer.sent >= since && answer.exit == exit)
                .copied()
                .ok_or(seen.answers.last().copied())
        })
    }

    /// Answers to what was sent since `since`.
    pub fn answers_since(&self, since: Instant) -> Vec<Answer> {
        let mut answers = self.read().answers.clone();
        answers.retain(|answer| answer.sent >= since);
        answers
    }

    pub fn answers(&self) -> Vec<Answer> {
        self.read().answers.clone()
    }

    /// The longest time without an answer, from the first answer until now.
    pub fn longest_gap(&self) -> Duration {
        self.longest_gap_since(self.started)
    }

    /// The longest time without an answer since `since`; the time until now counts, and the time
    /// from `since` to the first answer unless that is the workload's very first.
    pub fn longest_gap_since(&self, since: Instant) -> Duration {
        let seen = self.read();
        let mut from = seen.answers.first().map_or(since, |first| first.received.max(since));
        let mut longest = Duration::ZERO;
        for answer in &seen.answers {
            if answer.received > from {
                longest = longest.max(answer.received - from);
                from = answer.received;
            }
        }
        longest.max(from.elapsed())
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn read(&self) -> MutexGuard<'_, Seen> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let log = self.process.log();
        let new = log.get(seen.bytes..).unwrap_or_default();
        let clock = Clock::read();
        for line in new.split_inclusive('\n') {
            // The rest of a line that is being written comes with the next reading.
            if !line.ends_with('\n') {
                break;
            }
            seen.bytes += line.len();
            let answer =
                serde_json::from_str(line).ok().and_then(|json: Value| parse(&json, &clock));
            seen.answers.extend(answer);
        }
        seen
    }
}

fn parse(json: &Value, clock: &Clock) -> Option<Answer> {
    Some(Answer {
        sequence: json["sequence"].as_u64()?,
        sent: clock.instant(json["sent_ns"].as_u64()?),
        received: clock.instant(json["received_ns"].as_u64()?),
        exit: Exit::from_source(json["source"].as_str()?.parse().ok()?)?,
    })
}
