//! `lab flood`: kinds of traffic of the leak matrix, all at once, each at a fixed pace, whatever
//! becomes of them. Each line on standard input is answered with what was tried so far; it ends
//! with its input.

mod devices;
mod kinds;
mod old;

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lab::Kind;
use lab::flood::Tried;
use nix::errno::Errno;

use devices::Devices;

/// Short against every window, long against a thread's wake-up.
const TICK: Duration = Duration::from_millis(10);

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long, value_delimiter = ',', required = true)]
    kinds: Vec<Kind>,
    /// Packets of each kind, per second.
    #[arg(long)]
    rate: u32,
    /// Do not wait for answers to the flows that are opened first.
    #[arg(long)]
    late: bool,
}

/// By which way an attempt goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Bound to the uplink.
    Bound,
    /// Where the routing table says.
    Routed,
    /// To the address to which a static route leads by the uplink.
    Static,
}

impl Way {
    const ALL: [Self; 3] = [Self::Bound, Self::Routed, Self::Static];
}

/// Sends one packet of its kind at a time.
trait Attempt: Send {
    fn attempt(&mut self, way: Way, number: u64) -> io::Result<()>;
}

type Tally = Arc<Mutex<Tried>>;

pub fn run(arguments: &Arguments) -> io::Result<()> {
    let devices = Devices::watch()?;
    let mut tallies: BTreeMap<Kind, Tally> = BTreeMap::new();
    let mut senders = Vec::new();
    for &kind in &arguments.kinds {
        // Flows that are to be old are opened here, before anything is said to be ready.
        senders.push((kind, kinds::sender(kind, &devices, arguments.late)?));
    }
    for (kind, mut sender) in senders {
        let tally = Tally::default();
        tallies.insert(kind, Arc::clone(&tally));
        let rate = arguments.rate;
        thread::spawn(move || keep_sending(sender.as_mut(), rate, &tally));
    }
    let say = || -> io::Result<()> {
        let tried: BTreeMap<Kind, Tried> = tallies
            .iter()
            .map(|(kind, tally)| {
                (*kind, tally.lock().unwrap_or_else(PoisonError::into_inner).clone())
            })
            .collect();
        let line = serde_json::to_string(&tried)?;
        io::stdout().lock().write_all(format!("{line}\n").as_bytes())
    };
    say()?;
    for line in io::stdin().lock().lines() {
        line?;
        say()?;
    }
    Ok(())
}

fn keep_sending(sender: &mut dyn Attempt, rate: u32, tally: &Tally) {
    let started = Instant::now();
    let mut number = 0;
    // What a busy machine kept from being sent in time is not made up for in a burst.
    let burst = 4 * due(TICK, rate).max(1);
    let mut skipped = 0;
    loop {
        let due = due(started.elapsed(), rate);
        skipped = skipped.max(due.saturating_sub(number + burst));
        while number + skipped < due {
            let way = Way::ALL[usize::try_from(number % 3).unwrap_or(0)];
            let outcome = sender.attempt(way, number / 3);
            let mut tried = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tried.packets += 1;
            if let Err(error) = outcome {
                *tried.refused.entry(word(&error)).or_default() += 1;
            }
            drop(tried);
            number += 1;
        }
        thread::sleep(TICK);
    }
}

fn due(elapsed: Duration, rate: u32) -> u64 {
    let microseconds = elapsed.as_micros() * u128::from(rate) / 1_000_000;
    u64::try_from(microseconds).unwrap_or(u64::MAX)
}

fn word(error: &io::Error) -> String {
    let code = error.raw_os_error();
    code.map_or_else(|| error.to_string(), |code| format!("{:?}", Errno::from_raw(code)))
}
