//! TCP sessions between hosts of the world: who reaches a service, and for how long.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use crate::addresses::Ns;
use crate::eventually::eventually;
use crate::process::Process;
use crate::world::World;

/// How long a program may take to start listening.
const LIMIT: Duration = Duration::from_secs(20);

/// After so long without a word a session is dead: TCP has repeated itself five times by then.
const SILENCE: Duration = Duration::from_secs(8);

/// A client's end. Ended when dropped.
pub struct Session {
    process: Process,
}

impl World {
    /// A service that talks to whoever connects.
    #[track_caller]
    pub fn listen(&self, ns: Ns, port: u16) -> Process {
        let lab = Self::program("lab").display().to_string();
        self.listen_by(&lab, ns, port, &[])
    }

    /// What an SSH server is to a session: a program of that name which holds the connection, and
    /// runs `script` for each.
    #[track_caller]
    pub fn listen_as_sshd(&self, ns: Ns, port: u16, script: &str) -> Process {
        let sshd = self.scratch().join("sshd");
        if !sshd.exists() {
            symlink(Self::program("lab"), &sshd).unwrap_or_else(|error| panic!("{error}"));
        }
        let script = self.write_file(&format!("run-{port}.sh"), script, 0o755);
        self.listen_by(&sshd.to_string_lossy(), ns, port, &["--run", &script.to_string_lossy()])
    }

    #[track_caller]
    fn listen_by(&self, program: &str, ns: Ns, port: u16, more: &[&str]) -> Process {
        let listen = format!("0.0.0.0:{port}");
        let line = [&[program, "session", "--listen", &listen], more].concat();
        let mut process = self.spawn(ns, &format!("listen-{ns}-{port}"), &line);
        // State 0A is LISTEN.
        let wanted = format!(":{port:04X} 00000000:0000 0A ");
        eventually(LIMIT, "a service listens", || {
            assert!(process.is_alive(), "{}", process.log());
            let table = fs::read_to_string(format!("/proc/{}/net/tcp", process.pid()));
            table.is_ok_and(|table| table.contains(&wanted))
        });
        process
    }

    /// A service that says one number, and nothing more for so long.
    #[track_caller]
    pub fn listen_silently(&self, ns: Ns, port: u16, silent: Duration) -> Process {
        let lab = Self::program("lab").display().to_string();
        let silent = silent.as_millis().to_string();
        self.listen_by(&lab, ns, port, &["--silent-ms", &silent])
    }

    /// Connects to `target`; it is not said that this succeeds.
    #[track_caller]
    pub fn open_session(&mut self, ns: Ns, source: IpAddr, target: SocketAddr) -> Session {
        self.open_silent_session(ns, source, target, Duration::ZERO)
    }

    /// The same, by a client that says one number, and nothing more for so long.
    #[track_caller]
    pub fn open_silent_session(
        &mut self,
        ns: Ns,
        source: IpAddr,
        target: SocketAddr,
        silent: Duration,
    ) -> Session {
        self.workloads += 1;
        let lab = Self::program("lab").display().to_string();
        let (source, target) = (source.to_string(), target.to_string());
        let silent = silent.as_millis().to_string();
        let line =
            [&lab, "session", "--connect", &target, "--source", &source, "--silent-ms", &silent];
        let name = format!("session-{}", self.workloads);
        Session { process: self.spawn(ns, &name, &line) }
    }
}

impl Session {
    /// Whether something is heard that had not been heard yet.
    #[track_caller]
    pub fn goes_on(&mut self) -> bool {
        let (before, until) = (self.heard(), Instant::now() + SILENCE);
        eventually(2 * SILENCE, "a session says more, ends or is silent", || {
            self.heard() > before || !self.process.is_alive() || Instant::now() > until
        });
        self.heard() > before
    }

    /// How much it was told so far.
    pub fn heard(&self) -> usize {
        self.process.log().lines().filter(|line| line.parse::<u64>().is_ok()).count()
    }

    /// Everything it was told.
    pub fn log(&self) -> String {
        self.process.log()
    }
}
