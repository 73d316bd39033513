//! TCP sessions between hosts of the world: who reaches a service, and for how long.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::addresses::Ns;
use crate::eventually::eventually;
use crate::process::Process;
use crate::world::World;

/// How long a program may take to start listening, or a session to say its next word after a pause
/// that TCP's retransmissions made longer.
const LIMIT: Duration = Duration::from_secs(20);

/// A client's end. Ended when dropped.
pub struct Session {
    process: Process,
}

impl World {
    /// A service that talks to whoever connects.
    #[track_caller]
    pub fn listen(&self, ns: Ns, port: u16) -> Process {
        let lab = Self::program("lab").display().to_string();
        let listen = format!("0.0.0.0:{port}");
        let mut process =
            self.spawn(ns, &format!("listen-{ns}-{port}"), &[&lab, "session", "--listen", &listen]);
        // State 0A is LISTEN.
        let wanted = format!(":{port:04X} 00000000:0000 0A ");
        eventually(LIMIT, "a service listens", || {
            assert!(process.is_alive(), "{}", process.log());
            let table = fs::read_to_string(format!("/proc/{}/net/tcp", process.pid()));
            table.is_ok_and(|table| table.contains(&wanted))
        });
        process
    }

    /// Connects to `target`; it is not said that this succeeds.
    #[track_caller]
    pub fn open_session(&mut self, ns: Ns, source: IpAddr, target: SocketAddr) -> Session {
        self.workloads += 1;
        let lab = Self::program("lab").display().to_string();
        let (source, target) = (source.to_string(), target.to_string());
        let line = [&lab, "session", "--connect", &target, "--source", &source];
        let name = format!("session-{}", self.workloads);
        Session { process: self.spawn(ns, &name, &line) }
    }
}

impl Session {
    /// Whether something is heard that had not been heard yet.
    #[track_caller]
    pub fn goes_on(&mut self) -> bool {
        let before = self.heard();
        eventually(LIMIT, "a session says more or ends", || {
            self.heard() > before || !self.process.is_alive()
        });
        self.heard() > before
    }

    /// Waits until it has ended.
    #[track_caller]
    pub fn ends(&mut self) {
        assert!(self.process.wait(LIMIT).is_some(), "a session goes on: {}", self.process.log());
    }

    fn heard(&self) -> usize {
        self.process.log().lines().filter(|line| line.parse::<u64>().is_ok()).count()
    }
}
