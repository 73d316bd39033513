//! A program that runs in a namespace of the world until it is ended, or the world is.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::addresses::Ns;
use crate::exec::wait_until;
use crate::mounts::SCRATCH;

/// How long a program may take to end when asked to; after that it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// A running program. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `argv` in `ns`; what it prints goes to `/run/lab/<name>.log`, appended, so that a
    /// restart under the same name keeps the history.
    #[track_caller]
    pub(crate) fn start(ns: Ns, name: &str, argv: &[&str], env: &[(&str, &str)]) -> Self {
        let log = Path::new(SCRATCH).join(format!("{name}.log"));
        let open = || -> std::io::Result<(File, File)> {
            let file = File::options().append(true).create(true).open(&log)?;
            Ok((file.try_clone()?, file))
        };
        let (stdout, stderr) = open().unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let child = Command::new("ip")
            .args(["netns", "exec", ns.name()])
            .args(argv)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|error| panic!("{ns}: cannot start {argv:?}: {error}"));
        Self { name: name.to_owned(), log, child }
    }

    /// `ip netns exec` becomes the program, so this is the program's own id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends `signal`; a program that has ended already is no error.
    pub fn kill(&mut self, signal: Signal) {
        if self.is_alive() {
            kill(self.nix_pid(), signal)
                .unwrap_or_else(|error| panic!("{}: sending {signal}: {error}", self.name));
        }
    }

    pub fn is_alive(&mut self) -> bool {
        self.ended().is_none()
    }

    /// Its status, when it ends within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        wait_until(Instant::now() + limit, || self.child.try_wait())
            .unwrap_or_else(|error| panic!("{}: waiting for it: {error}", self.name))
    }

    /// Asks it to end, and ends it when it does not.
    pub fn stop(&mut self) -> ExitStatus {
        self.kill(Signal::SIGTERM);
        if let Some(status) = self.wait(GRACE) {
            return status;
        }
        self.kill(Signal::SIGKILL);
        self.wait(GRACE).unwrap_or_else(|| panic!("{}: survived SIGKILL", self.name))
    }

    /// Everything it has printed so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    pub fn log_path(&self) -> &Path {
        &self.log
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child
            .try_wait()
            .unwrap_or_else(|error| panic!("{}: looking at it: {error}", self.name))
    }

    fn nix_pid(&self) -> Pid {
        let id = i32::try_from(self.pid())
            .unwrap_or_else(|_| panic!("{}: process id {} out of range", self.name, self.pid()));
        Pid::from_raw(id)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing is left.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of every log of the world, for a test that failed.
pub(crate) fn all_logs(lines: usize) -> String {
    let mut text = String::new();
    let mut files: Vec<_> = fs::read_dir(SCRATCH)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    files.sort();
    for file in files {
        let log = fs::read(&file).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let all: Vec<_> = log.lines().collect();
        let last = &all[all.len().saturating_sub(lines)..];
        // Writing to a String cannot fail.
        let _ = writeln!(text, "--- {}\n{}", file.display(), last.join("\n"));
    }
    text
}
