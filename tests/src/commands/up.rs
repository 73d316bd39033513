//! `lab up`: a world to look around in.

use std::io::{self, Read, Write};
use std::process::{Command, ExitCode};

use lab::{Ns, World};

#[derive(clap::Args)]
pub struct Arguments {
    /// What to run in the host under test; without it, wait until standard input ends.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    lab::enter_for_bin();
    let world = World::build();
    println!(
        "ready: {:?} WireGuard, namespaces {}, scratch {}",
        world.backend(),
        Ns::ALL.map(Ns::name).join(" "),
        world.scratch().display()
    );
    // The one who waits for this line may be gone.
    let _ = io::stdout().flush();
    if arguments.command.is_empty() {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        return ExitCode::SUCCESS;
    }
    let status = Command::new("ip")
        .args(["netns", "exec", Ns::Egress.name()])
        .args(&arguments.command)
        .status();
    match status.map(|status| status.code().and_then(|code| u8::try_from(code).ok())) {
        Ok(Some(code)) => ExitCode::from(code),
        Ok(None) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lab: cannot run {:?}: {error}", arguments.command);
            ExitCode::FAILURE
        }
    }
}
