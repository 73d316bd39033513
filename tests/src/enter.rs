//! From the outside to the inside: the own binary is executed again in namespaces of its own.
//!
//! Nothing may outlive the process that asked for the world. The chain that sees to it:
//! `setpriv --pdeathsig KILL` ends `unshare` with the thread that started it (so that thread
//! waits here), `--kill-child` ends the namespace's first process with `unshare`, and with that
//! one the kernel ends every process of the pid namespace.

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::exec::wait_until;
use crate::mounts;
use crate::preflight::{self, Users};
use crate::world::World;

/// Set for the process inside; its value says for which test, or which program.
const MARKER: &str = "LAB_INSIDE";
/// The value of the marker for a program.
const BIN: &str = "bin";
/// How long one test may take, set-up included. `LAB_TIME_LIMIT` (seconds) overrides it.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// Runs `test` in a world of its own. `name` is the test's name as the harness prints it.
///
/// Outside it executes this very test binary again, for that one test, in new namespaces, and
/// fails where it fails, takes too long, or did not run exactly that test.
#[track_caller]
pub fn inside(name: &str, test: impl FnOnce(&mut World)) {
    inside_as(name, Users::One, test);
}

/// The same; outside, what was printed inside, line by line. What is made inside can be kept so,
/// where nothing but the world's own files can be written.
#[track_caller]
pub fn inside_heard(name: &str, test: impl FnOnce(&mut World)) -> Option<Vec<String>> {
    inside_as(name, Users::One, test)
}

/// The same with more users than one and with cgroups of its own, where root runs it: a user
/// namespace made by an ordinary user has neither. What could not be had is for the test to say.
#[track_caller]
pub fn inside_with_users(name: &str, test: impl FnOnce(&mut World)) {
    inside_as(name, Users::Several, test);
}

#[track_caller]
fn inside_as(name: &str, users: Users, test: impl FnOnce(&mut World)) -> Option<Vec<String>> {
    if env::var_os(MARKER).is_some_and(|marker| marker == name) {
        mounts::prepare();
        test(&mut World::build());
        return None;
    }
    let mut command = reexecute(name, users).unwrap_or_else(|refused| panic!("{refused}"));
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .arg("--include-ignored")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let limit = time_limit();
    let mut child = spawn(&mut command);
    let (sender, lines) = mpsc::channel();
    relay(child.stdout.take(), sender.clone());
    relay(child.stderr.take(), sender);
    let status = wait(&mut child, limit);
    let lines: Vec<String> = lines.iter().collect();
    let ran_it = lines.iter().any(|line| line.starts_with("test result: ok. 1 passed; 0 failed;"));
    let Some(status) = status else {
        panic!("{name}: not finished within {limit:?}, ended");
    };
    assert!(status.success(), "{name}: failed inside the lab ({status})");
    assert!(
        ran_it,
        "{name}: no test of that name ran inside the lab; `inside` must be given the test's own \
         name, with its module path"
    );
    Some(lines)
}

/// For a program: returns inside the namespaces. Outside it executes the program again with the
/// same arguments, and ends with the status of that.
pub fn enter_for_bin() {
    enter_as(Users::One);
}

/// The same with more users than one and with cgroups, where root runs it.
pub fn enter_with_users_for_bin() {
    enter_as(Users::Several);
}

fn enter_as(users: Users) {
    if env::var_os(MARKER).is_some_and(|marker| marker == BIN) {
        mounts::prepare();
        return;
    }
    let mut command = reexecute(BIN, users).unwrap_or_else(|refused| {
        eprintln!("lab: {refused}");
        std::process::exit(1);
    });
    command.args(env::args_os().skip(1));
    let status =
        spawn(&mut command).wait().unwrap_or_else(|error| panic!("waiting for the lab: {error}"));
    std::process::exit(status.code().unwrap_or(1));
}

fn reexecute(marker: &str, users: Users) -> Result<Command, String> {
    let entry = preflight::check(users)?;
    let program =
        env::current_exe().unwrap_or_else(|error| panic!("the path of this program: {error}"));
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "unshare"])
        .args(entry.arguments())
        .arg("--")
        .arg(program)
        // Whoever runs the lab over SSH is not cut off by a lock in it.
        .env_remove("SSH_CONNECTION")
        .env("PATH", preflight::path())
        .env("TMPDIR", mounts::TEMPORARY)
        .env(MARKER, marker);
    Ok(command)
}

fn spawn(command: &mut Command) -> Child {
    command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let status = wait_until(Instant::now() + limit, || child.try_wait())
        .unwrap_or_else(|error| panic!("waiting for the lab: {error}"));
    if status.is_none() {
        child
            .kill()
            .and_then(|()| child.wait())
            .unwrap_or_else(|error| panic!("ending the lab: {error}"));
    }
    status
}

/// Prints what comes, at once and where the harness captures it, and passes it on.
fn relay(pipe: Option<impl Read + Send + 'static>, lines: mpsc::Sender<String>) {
    let Some(pipe) = pipe else { return };
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            println!("{line}");
            if lines.send(line).is_err() {
                return;
            }
        }
    });
}

fn time_limit() -> Duration {
    env::var("LAB_TIME_LIMIT")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .map_or(TIME_LIMIT, Duration::from_secs)
}
