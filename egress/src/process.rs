//! Runs another program to its end, for as long as the caller's situation allows. A program that
//! takes longer is killed with all that it started, so that nothing of it is left behind. A long wait
//! is logged, never silent.

use std::io::{self, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::bounded::TimedOut;
use crate::waiting;

/// A killed process is gone at once, unless the kernel holds it: then it is left to the kernel.
const DEATH: Duration = Duration::from_millis(200);

/// Between two looks at a process that is about to end.
const PAUSE: Duration = Duration::from_millis(1);

/// A wait is logged after this time, and again each time it has doubled.
const FIRST_NOTICE: Duration = Duration::from_secs(5);

/// How long a program may take, by what its caller can do without the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Somebody waits who has something else to do: the program is killed after this time.
    Interactive(Duration),
    /// Nothing useful can be done without the answer: giving up would leave the host open.
    Forever,
}

impl From<Duration> for Patience {
    fn from(limit: Duration) -> Self {
        Self::Interactive(limit)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("it could not be started")]
    Start(#[source] io::Error),
    #[error("it was killed")]
    Hung(#[source] TimedOut),
}

/// Runs `command` with `input`, at most for as long as `patience` lasts.
pub fn run(
    mut command: Command,
    input: &[u8],
    patience: impl Into<Patience>,
) -> Result<Output, RunError> {
    let mut wait = Wait::new(&command, patience.into());
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
    let output = wait.receive(&stdout).zip(wait.receive(&stderr)).and_then(|(stdout, stderr)| {
        Some(Output { status: status(&mut child, || wait.is_over())?, stdout, stderr })
    });
    output.ok_or_else(|| {
        end(child);
        RunError::Hung(TimedOut(wait.started.elapsed()))
    })
}

/// A wait for a program, from its start.
struct Wait {
    program: String,
    started: Instant,
    limit: Option<Duration>,
    next_notice: Duration,
    _shown: waiting::Shown,
}

impl Wait {
    fn new(command: &Command, patience: Patience) -> Self {
        Self {
            _shown: waiting::on(command.get_program().to_string_lossy()),
            program: command.get_program().to_string_lossy().into_owned(),
            started: Instant::now(),
            limit: match patience {
                Patience::Interactive(limit) => Some(limit),
                Patience::Forever => None,
            },
            next_notice: FIRST_NOTICE,
        }
    }

    fn is_over(&self) -> bool {
        self.limit.is_some_and(|limit| self.started.elapsed() >= limit)
    }

    /// What comes out of the pipe, or `None` once the wait is over.
    fn receive(&mut self, pipe: &Receiver<Vec<u8>>) -> Option<Vec<u8>> {
        loop {
            let until = self.limit.map_or(self.next_notice, |limit| limit.min(self.next_notice));
            match pipe.recv_timeout(until.saturating_sub(self.started.elapsed())) {
                Ok(bytes) => return Some(bytes),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if self.is_over() => return None,
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = self.started.elapsed().as_secs();
                    tracing::warn!(
                        program = self.program,
                        seconds,
                        "still running: waiting for it"
                    );
                    self.next_notice *= 2;
                }
            }
        }
    }
}

/// Kills a process and its group, and sees it gone.
pub fn end(mut child: Child) {
    if let Some(group) = i32::try_from(child.id()).ok().filter(|id| *id > 1) {
        // Fails where the group is gone already, which is as well.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let killed = Instant::now();
    if status(&mut child, || killed.elapsed() >= DEATH).is_none() {
        thread::spawn(move || child.wait());
    }
}

fn status(child: &mut Child, is_over: impl Fn() -> bool) -> Option<ExitStatus> {
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if is_over() {
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
    fn a_caller_without_a_limit_gets_a_late_answer() {
        let late = || shell("sleep 0.5; echo late");
        let limit = Duration::from_millis(100);
        let hung = run(late(), b"", limit);
        assert!(matches!(hung, Err(RunError::Hung(TimedOut(after))) if after >= limit), "{hung:?}");
        let output = run(late(), b"", Patience::Forever).expect("it ends");
        assert_eq!(output.stdout, b"late\n");
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
