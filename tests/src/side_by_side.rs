//! Worlds side by side. A process enters one world, so each job is a process; most of a world's
//! time is waiting, so some run at the same time.

use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use serde::de::DeserializeOwned;

/// Runs every job, so many at a time, and says what came of each.
pub fn side_by_side<J: Copy + Send + Sync, R: Send>(
    jobs: &[J],
    at_once: usize,
    run: impl Fn(J) -> R + Sync,
) -> Vec<(J, R)> {
    let queue = Mutex::new(jobs.iter());
    let (sender, results) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..at_once.max(1) {
            let (queue, run, sender) = (&queue, &run, sender.clone());
            scope.spawn(move || {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next().copied();
                    let Some(job) = next else { return };
                    if sender.send((job, run(job))).is_err() {
                        return;
                    }
                }
            });
        }
    });
    drop(sender);
    results.into_iter().collect()
}

/// Runs this program again with these arguments, and reads the JSON that it prints.
///
/// # Errors
///
/// It failed, or printed something else: what it said.
pub fn run_again<T: DeserializeOwned>(arguments: &[String]) -> Result<T, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{}\n{said}", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.trim()).map_err(|error| format!("{error}: {text}\n{said}"))
}
