//! Running a program to its end within a time limit.

use std::io::{self, Read, Write};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a command of the lab may take: all of them are quick, the machine may not be.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// Runs `command` with `input` on its standard input and collects what it says. Killed when it
/// takes longer than `limit`, which is an error of kind `TimedOut`.
pub fn run(mut command: Command, input: &[u8], limit: Duration) -> io::Result<Output> {
    let deadline = Instant::now() + limit;
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        // A program that does not read its input closes it: that is its right, not an error.
        thread::spawn(move || drop(stdin.write_all(&input)));
    }
    let status = wait_until(deadline, || child.try_wait())?;
    let Some(status) = status else {
        child.kill()?;
        child.wait()?;
        return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no end within {limit:?}")));
    };
    // A daemon left behind may hold the pipe open: what has come until the deadline is all.
    let rest = |pipe: &mpsc::Receiver<Vec<u8>>| {
        pipe.recv_timeout(deadline.saturating_duration_since(Instant::now())).unwrap_or_default()
    };
    Ok(Output { status, stdout: rest(&stdout), stderr: rest(&stderr) })
}

/// Waits for a child with short, growing pauses: most commands end within a few milliseconds.
pub fn wait_until(
    deadline: Instant,
    mut ended: impl FnMut() -> io::Result<Option<ExitStatus>>,
) -> io::Result<Option<ExitStatus>> {
    const LONGEST: Duration = Duration::from_millis(10);
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = ended()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST);
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        let _ = sender.send(bytes);
    });
    receiver
}
