//! Runs another program to its end, and for no longer than it may take: one that hangs is killed
//! with all that it started, so that nothing of it is left behind.

use std::io::{self, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::bounded::TimedOut;

/// A killed process is gone at once, unless the kernel holds it: then it is left to the kernel.
const DEATH: Duration = Duration::from_millis(200);

/// Between two looks at a process that is about to end.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("it could not be started")]
    Start(#[source] io::Error),
    #[error("it was killed")]
    Hung(#[source] TimedOut),
}

/// Runs `command` with `input`, at most for `limit`.
pub fn run(mut command: Command, input: &[u8], limit: Duration) -> Result<Output, RunError> {
    let deadline = Instant::now() + limit;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own, so that what it starts dies with it.
    let mut child = command.process_group(0).spawn().map_err(RunError::Start)?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        // It may want to answer before it has read all. One that closes its input says why itself.
        thread::spawn(move || stdin.write_all(&input));
    }
    let rest = |pipe: Receiver<Vec<u8>>| {
        pipe.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    };
    let output = rest(stdout).zip(rest(stderr)).and_then(|(stdout, stderr)| {
        Some(Output { status: wait(&mut child, deadline)?, stdout, stderr })
    });
    output.ok_or_else(|| {
        end(child);
        RunError::Hung(TimedOut(limit))
    })
}

/// Kills a process and its group, and sees it gone.
pub fn end(mut child: Child) {
    if let Some(group) = i32::try_from(child.id()).ok().filter(|id| *id > 1) {
        // Fails where the group is gone already, which is as well.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    if wait(&mut child, Instant::now() + DEATH).is_none() {
        thread::spawn(move || child.wait());
    }
}

fn wait(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before an error is all there is.
            let _ = pipe.read_to_end(&mut bytes);
        }
        sender.send(bytes)
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn more_than_a_pipe_holds_goes_in_and_comes_out() {
        let input = vec![b'x'; 1 << 20];
        let output = run(shell("cat; echo no >&2"), &input, Duration::from_secs(20));
        let output = output.expect("it runs");
        assert_eq!((output.stdout.len(), output.stderr.as_slice()), (input.len(), &b"no\n"[..]));
    }

    #[test]
    fn what_hangs_is_killed_with_all_that_it_started() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("pid");
        // Ended by a signal no more than by its parent's end.
        let script = format!("trap '' TERM HUP; sleep 600 & echo $! > {}; wait", file.display());
        let hung = run(shell(&script), b"", Duration::from_millis(500));
        assert!(matches!(hung, Err(RunError::Hung(_))), "{hung:?}");
        let pid = std::fs::read_to_string(file).expect("it got so far");
        let proc = format!("/proc/{}/stat", pid.trim());
        let started = Instant::now();
        // Gone, or dead and not yet collected by whoever inherited it.
        let lives = || std::fs::read_to_string(&proc).is_ok_and(|stat| !stat.contains(") Z "));
        while lives() {
            assert!(started.elapsed() < Duration::from_secs(20), "the grandchild is left over");
            thread::sleep(PAUSE);
        }
    }
}
