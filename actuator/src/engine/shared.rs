//! The engine, one act at a time: alerts, the command line's requests and the daemon's own care take
//! turns. What does not act needs no turn: the [`Board`] answers it.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::keep::Order;
use super::{Board, Engine};

/// How long the care of one path lets others go first.
const COURTESY: Duration = Duration::from_millis(200);

/// How long the kernel is read for in a round: as long as a device may take to answer.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// Between two looks whether others still wait.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Clone)]
pub struct Shared {
    engine: Arc<Mutex<Engine>>,
    board: Arc<Board>,
    /// Acts that were asked for and wait for their turn.
    waiting: Arc<AtomicUsize>,
    /// Of the daemon's care.
    rounds: Arc<AtomicU64>,
}

/// A turn at the engine. What it changed is shown when it ends.
pub struct Turn<'a> {
    engine: MutexGuard<'a, Engine>,
    board: &'a Board,
}

impl Shared {
    pub fn new(engine: Engine) -> Self {
        let board = Arc::clone(&engine.board);
        Self {
            engine: Arc::new(Mutex::new(engine)),
            board,
            waiting: Arc::default(),
            rounds: Arc::default(),
        }
    }

    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Waits for a turn. `act` names the work; it is shown to callers that wait meanwhile.
    pub fn lock(&self, act: impl Into<String>) -> Turn<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let turn = self.turn(act.into());
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        turn
    }

    fn turn(&self, act: String) -> Turn<'_> {
        // All that counts is in the kernel and in state; a panic left nothing half made in here.
        let engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        self.board.act_began(act);
        Turn { engine, board: &self.board }
    }

    /// One round of the daemon's care, by one snapshot of the kernel. Each path that needs something gets
    /// a turn: what is asked for meanwhile does not wait for the paths that are left.
    pub fn keep(&self) -> Order {
        self.turn("the care for the watchdog".to_owned()).mind_the_heartbeat();
        let round = self.rounds.fetch_add(1, Ordering::Relaxed);
        let view = self.board.view();
        let paths = &view.config.paths;
        // Read before the engine is held: an alert must not wait for a kernel that is slow.
        let snapshot = self.board.kernel.snapshot(paths, Instant::now(), READ_LIMIT);
        let mut order = Order::Found;
        for (path, sight) in snapshot.sights(paths, &self.board.store) {
            // Nothing is done, so nobody has to wait for a turn, nor for this.
            if self.board.is_quiet(&view, path, &sight, round) {
                continue;
            }
            let started = Instant::now();
            while self.waiting.load(Ordering::Relaxed) > 0 && started.elapsed() < COURTESY {
                thread::sleep(PAUSE);
            }
            let mut engine = self.turn(format!("the care for path {}", path.name));
            // A converge may have come in between.
            let Some(path) = engine.config().path(path.name.as_str()).cloned() else { continue };
            if engine.keep_path(&path, &snapshot.host) == Order::Disturbed {
                order = Order::Disturbed;
            }
        }
        order
    }
}

impl Deref for Turn<'_> {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl DerefMut for Turn<'_> {
    fn deref_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.board.show(self.engine.view());
        self.board.act_ended();
    }
}
