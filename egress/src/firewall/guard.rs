//! Copies of both walls and of the hard stop in tables that nobody but their owner can change or
//! flush, not even as root: while the daemon lives, no `nft flush ruleset` opens a gap.
//!
//! The kernel ties a table with `flags owner` to one netlink socket, and removes it with that. The
//! socket is that of an `nft` that reads one transaction per line for as long as we live. It adds to
//! the lock and never stands in for it: the plain tables are what holds without a process of ours.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Instant;

use nftables::types::NfFamily;

use super::listing::Listing;
use super::nft::{NFT_TIMEOUT, NftError};
use super::table::TableSpec;
use super::transaction;
use crate::bounded::TimedOut;
use crate::process;
use crate::waiting;

/// The copies' names.
pub const KILLSWITCH: &str = "vpn_egress_guard";
pub const WATCH: &str = "vpn_egress_watch_guard";
pub const STOP: &str = "vpn_egress_stop_guard";

/// The copy's chains come after those of the original: what the original refuses, it counts.
const AFTER: i32 = 1;

/// Ours alone, as long as the socket lives that made it.
const FLAGS: &str = "owner";

/// `nft` keeps every line that it was given; so it is exchanged for a fresh one now and then.
const LOADS: u32 = 500;

/// What `list tables` is answered with; other lines are complaints.
const ANSWER: &str = "{\"nftables\"";

/// Holds the copies for as long as it lives.
#[derive(Debug, Default)]
pub struct Guard {
    walls: Holder,
    /// Of its own: a stop comes and goes, and what is wrong with one must not cost the other.
    stop: Holder,
}

impl Guard {
    /// Makes the copies those of the walls, both in one transaction.
    pub fn hold_walls(&mut self, killswitch: TableSpec, watch: TableSpec) -> Result<(), NftError> {
        self.walls.hold(&[copy(killswitch, KILLSWITCH), copy(watch, WATCH)])
    }

    pub fn hold_stop(&mut self, stop: TableSpec) -> Result<(), NftError> {
        self.stop.hold(&[copy(stop, STOP)])
    }

    /// Takes the walls' copies off.
    pub fn let_walls_go(&mut self) {
        self.walls.let_go();
    }

    /// Takes the stop's copy off.
    pub fn let_stop_go(&mut self) {
        self.stop.let_go();
    }
}

fn copy(original: TableSpec, name: &'static str) -> TableSpec {
    original.copy_to(name, FLAGS, AFTER)
}

/// What one owner holds.
#[derive(Debug, Default)]
struct Holder {
    keeper: Option<Keeper>,
}

impl Holder {
    /// Where a copy cannot be made what it is to be, there is none: an old one would refuse what the
    /// original permits by now (S2).
    fn hold(&mut self, copies: &[TableSpec]) -> Result<(), NftError> {
        if let Some(keeper) = self.keeper.take_if(|keeper| keeper.loads < LOADS) {
            match self.load(keeper, copies) {
                Ok(()) => return Ok(()),
                Err(error) => tracing::warn!(%error, "the guard's nft is started anew"),
            }
        }
        self.let_go();
        let keeper = Keeper::start().map_err(NftError::Missing)?;
        self.load(keeper, copies)
    }

    fn let_go(&mut self) {
        self.keeper = None;
    }

    fn load(&mut self, mut keeper: Keeper, copies: &[TableSpec]) -> Result<(), NftError> {
        let mut commands = String::new();
        for copy in copies {
            let present = Listing::read(copy.family, copy.name)?;
            commands += &transaction::commands(copy, present.as_ref());
        }
        keeper.carry_out(&commands)?;
        self.keeper = Some(keeper);
        Ok(())
    }
}

/// A copy, with the digest that the original has.
pub fn read(family: NfFamily, copy: &str) -> Result<Option<Listing>, NftError> {
    Listing::read_later(family, copy, AFTER)
}

/// The `nft` that owns the copies. It ends with us, however we end: the kernel kills it with the
/// thread that feeds it, and with that thread its input ends, too.
#[derive(Debug)]
struct Keeper {
    child: Option<Child>,
    lines: Sender<String>,
    said: Receiver<String>,
    loads: u32,
}

impl Keeper {
    fn start() -> io::Result<Self> {
        let (output, end) = io::pipe()?;
        let (lines, to_feed) = mpsc::channel::<String>();
        let (born, birth) = mpsc::sync_channel(1);
        thread::Builder::new().name("guard".to_owned()).spawn(move || {
            let spawned = spawn(&end);
            // The only writer left is nft: its end is the end of what it says.
            drop(end);
            let mut child = match spawned {
                Ok(child) => child,
                Err(error) => return drop(born.send(Err(error))),
            };
            let stdin = child.stdin.take();
            let fed = born.send(Ok(child)).ok().and(stdin);
            if let Some(mut stdin) = fed {
                // An error is that of an nft that has ended; whoever waits for its answer is told.
                to_feed.iter().try_for_each(|line| stdin.write_all(line.as_bytes())).ok();
            }
        })?;
        let child = birth.recv().map_err(io::Error::other)??;
        let (say, said) = mpsc::channel();
        let keeper = Self { child: Some(child), lines, said, loads: 0 };
        thread::Builder::new().name("guard's nft".to_owned()).spawn(move || {
            let mut lines = BufReader::new(output).lines().map_while(Result::ok);
            lines.try_for_each(|line| say.send(line)).ok();
        })?;
        Ok(keeper)
    }

    /// One transaction: to this nft, a line is one.
    fn carry_out(&mut self, commands: &str) -> Result<(), NftError> {
        let refused = |said: String| NftError::Refused { doing: "guard the walls", said };
        self.loads += 1;
        let _shown = waiting::on("the guard's nft");
        let deadline = Instant::now() + NFT_TIMEOUT;
        // Answered whatever becomes of the line before.
        let line = commands.trim_end().replace('\n', "; ");
        let sent = self.lines.send(format!("{line}\nlist tables\n"));
        sent.map_err(|_| refused("it has ended".to_owned()))?;
        let mut complaint = None;
        loop {
            match self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.starts_with(ANSWER) => break,
                Ok(line) => drop(complaint.get_or_insert(line)),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(NftError::Hung(TimedOut(NFT_TIMEOUT)));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(refused(complaint.unwrap_or_else(|| "it has ended".to_owned())));
                }
            }
        }
        complaint.map_or(Ok(()), |said| Err(refused(said)))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            process::end(child);
        }
    }
}

fn spawn(output: &io::PipeWriter) -> io::Result<Child> {
    let command = |program: &str, arguments: &[&str]| -> io::Result<Child> {
        let mut command = Command::new(program);
        command.args(arguments).process_group(0);
        // It would keep a history of what it was told.
        command.env("HOME", "/dev/null").env("TERM", "dumb").env("LC_ALL", "C");
        command.stdin(Stdio::piped()).stdout(output.try_clone()?).stderr(output.try_clone()?);
        command.spawn()
    };
    // One that hangs does not see its input end: the kernel kills it then.
    match command("setpriv", &["--pdeathsig", "KILL", "nft", "-j", "-i"]) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => command("nft", &["-j", "-i"]),
        other => other,
    }
}
