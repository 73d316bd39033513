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
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(run) {
        tracing::error!(name, %error, "thread cannot be started: ended, the lock stays");
        std::process::exit(exit::REFUSED.into());
    }
}

/// Dropped when its thread panics, and never else.
struct Vital(&'static str);

impl Drop for Vital {
    fn drop(&mut self) {
        tracing::error!(thread = self.0, "thread has died: ended, the lock stays");
        std::process::exit(exit::REFUSED.into());
    }
}
