//! `lab demo`: the whole story on real parts, live, with the rules, the configuration and the
//! intervals as shipped. It ends with success only if every step did what it claims; what it
//! prints as measured was measured in this run.

mod failover;
mod failure;
mod keep;
mod leak;
mod measured;
mod say;
mod stage;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use lab::{Exit, World};

use failure::{Done, ensure};
use measured::FILES;
use say::{Say, seconds};
use stage::Stage;

/// Where the world keeps the logs of its programs; they outlive it, in this mount namespace.
const LOGS: &str = "/run/lab";
/// Lines of each log that belongs to a failure.
const LOG_LINES: usize = 15;

#[derive(clap::Args)]
pub struct Arguments {
    /// Leave everything running at the end, until Enter or Ctrl-C.
    #[arg(long)]
    keep: bool,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    if arguments.keep && keep::is_outside() {
        keep::serve_outside();
    }
    lab::enter_for_bin();
    let say = Say::new();
    let Err(failure) = play(say, arguments) else {
        return ExitCode::SUCCESS;
    };
    say.failed(&failure.what);
    for name in failure.logs {
        let log = fs::read(Path::new(LOGS).join(name).with_extension("log")).unwrap_or_default();
        say.tail(name, &String::from_utf8_lossy(&log), LOG_LINES);
    }
    ExitCode::FAILURE
}

fn play(say: Say, arguments: &Arguments) -> Done {
    say.step("0. A world of its own");
    let mut stage = Stage::raise(say, World::build())?;
    failover::primary_dies(&mut stage)?;
    failover::primary_returns(&stage)?;
    failover::converge_fails_back(&mut stage)?;
    leak::hole(&mut stage)?;
    leak::release(&stage)?;
    finish(&mut stage)?;
    if arguments.keep { keep::wait(&stage.world) } else { Ok(()) }
}

/// The observer has the last word.
fn finish(stage: &mut Stage) -> Done {
    let outside = stage.world.observed_outside();
    let seen = || format!("{outside} packets: {:?}", stage.world.observations());
    ensure(outside == 0, "the router saw nothing outside the tunnel since the lock", seen())?;
    let answers = stage.workload.answers();
    let direct = answers.iter().filter(|answer| answer.exit == Exit::Direct).count();
    ensure(direct == 0, "no answer came to the host's own address", direct)?;
    stage.measured.outside = Some(outside);
    stage.say.step("Measured in this run");
    Say::table(&stage.measured.rows());
    stage.say.step("Where to look");
    Say::table(&FILES);
    let time = seconds(stage.say.started().elapsed());
    stage.say.done(&format!("every step did what it says, in {time}"));
    Ok(())
}
