//! Threads that the daemon is nothing without. One that dies takes the program with it, so that it
//! is started anew: a daemon that answers and no longer cares would be believed.

use std::thread;

use egress::fault;
use web::{Beat, Supervisor};

use crate::control::exit;

/// Runs `round` again and again on a thread of its own, and tells of each.
pub fn rounds(
    name: &'static str,
    supervisor: &Supervisor,
    mut round: impl FnMut(&Beat) + Send + 'static,
) {
    let beat = supervisor.expect_loop();
    let run = move || {
        let _end = Vital(name);
        loop {
            fault::round_of(name);
            round(&beat);
            beat.beat();
        }
    };
    start(name, run);
}

/// Runs `work` on a thread of its own, to its end.
pub fn once(name: &'static str, work: impl FnOnce() + Send + 'static) {
    let run = move || {
        let _end = Vital(name);
        work();
    };
    start(name, run);
}

fn start(name: &'static str, run: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(run) {
        tracing::error!(name, %error, "thread cannot be started: ended, the lock stays");
        std::process::exit(exit::REFUSED.into());
    }
}

/// Ends the program where its thread panics.
struct Vital(&'static str);

impl Drop for Vital {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        tracing::error!(thread = self.0, "thread has died: ended, the lock stays");
        std::process::exit(exit::REFUSED.into());
    }
}
