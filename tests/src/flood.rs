//! The leak matrix's traffic: all kinds of it at once, from the processes that send them.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use clap::ValueEnum as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::addresses::{Ns, WORLD, WORLD_HOLE};
use crate::kinds::{Kind, Sender};
use crate::process::Process;
use crate::world::{World, await_listening};

/// What a sender says of a mark that it was given and must not have.
pub const MARKED: &str = "the mark was set";

/// What was tried of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// Packets, whatever became of them.
    pub packets: u64,
    /// Of these, the ones that the kernel refused at once, by its error.
    pub refused: BTreeMap<String, u64>,
}

/// One process that sends; killed when dropped.
pub struct Flood {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Flood {
    /// What was tried so far.
    #[track_caller]
    pub fn tried(&mut self) -> BTreeMap<Kind, Tried> {
        self.input.write_all(b"\n").unwrap_or_else(|error| panic!("asking the sender: {error}"));
        self.read()
    }

    /// Holds it where it is, or lets it go on.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).unwrap_or_else(|error| panic!("its id: {error}"));
        kill(Pid::from_raw(id), signal).unwrap_or_else(|error| panic!("{signal}: {error}"));
    }

    #[track_caller]
    fn read(&mut self) -> BTreeMap<Kind, Tried> {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .unwrap_or_else(|error| panic!("reading the sender: {error}"));
        serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("the sender said {line:?}: {error}"))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl World {
    /// Starts to send, `rate` packets per second of each kind that `sender` is to send and `wanted`
    /// wants; returns when the flows that are to be old are open.
    #[track_caller]
    pub fn start_flood(
        &self,
        sender: Sender,
        rate: u32,
        wanted: impl Fn(Kind) -> bool,
    ) -> Option<Flood> {
        Self::flood(sender, rate, wanted, &[])
    }

    /// The same where the lock is there already, and lets no flow be answered.
    #[track_caller]
    pub fn start_late_flood(
        &self,
        sender: Sender,
        rate: u32,
        wanted: impl Fn(Kind) -> bool,
    ) -> Option<Flood> {
        Self::flood(sender, rate, wanted, &["--late"])
    }

    #[track_caller]
    fn flood(
        sender: Sender,
        rate: u32,
        wanted: impl Fn(Kind) -> bool,
        more: &[&str],
    ) -> Option<Flood> {
        let kinds: Vec<String> = Kind::value_variants()
            .iter()
            .filter(|kind| kind.sender() == sender && wanted(**kind))
            .map(|kind| kind.name())
            .collect();
        if kinds.is_empty() {
            return None;
        }
        let ns = if sender == Sender::Container { Ns::Container } else { Ns::Egress };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", ns.name()]);
        if sender == Sender::User {
            command.args(["unshare", "--user", "--map-user=1000", "--map-group=1000"]);
        }
        let mut child = command
            .arg(Self::program("lab"))
            .args(["flood", "--rate", &rate.to_string(), "--kinds", &kinds.join(",")])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{ns}: cannot start the sender: {error}"));
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            panic!("the sender has no pipes");
        };
        let mut flood = Flood { child, input, output: BufReader::new(output) };
        flood.read();
        Some(flood)
    }

    /// What answers old flows, in the world: echo for UDP, a listener for TCP.
    #[track_caller]
    pub fn start_far_ends(&self) -> Vec<Process> {
        let lab = Self::program("lab").display().to_string();
        let udp = [Kind::UdpOld, Kind::Forwarded].map(Kind::port);
        let mut echo = vec![lab.clone(), "echo".into()];
        for port in udp {
            echo.extend([WORLD, WORLD_HOLE].map(|address| format!("--listen={address}:{port}")));
        }
        let tcp = Kind::TcpOld.port();
        let sink = vec![lab, "sink".into(), format!("--listen=0.0.0.0:{tcp}")];
        let spawn = |name, line: &[String]| {
            let line: Vec<&str> = line.iter().map(String::as_str).collect();
            self.spawn(Ns::World, name, &line)
        };
        let (mut echo, mut sink) = (spawn("far-udp", &echo), spawn("far-tcp", &sink));
        for port in udp {
            await_listening(&mut echo, &["udp"], port, 2);
        }
        await_listening(&mut sink, &["tcp"], tcp, 1);
        vec![echo, sink]
    }
}
