//! What systemd is told: ready once the program answers, and alive only while every loop goes round.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use lab::programs::{ACTUATOR, EXPORTER};
use lab::{EgressConfig, Endpoint, Keepalive, Ns, Process, World, eventually, inside};

const SOON: Duration = Duration::from_secs(30);

/// Several rounds of every loop with the quick config.
const ROUNDS: Duration = Duration::from_secs(5);

/// What systemd would hear.
struct Ear(UnixDatagram);

impl Ear {
    fn of(world: &World) -> Self {
        let path = world.scratch().join("notify");
        let _ = fs::remove_file(&path);
        Self(UnixDatagram::bind(path).expect("bound"))
    }

    #[track_caller]
    fn hears(&self, what: &str) {
        eventually(SOON, what, || self.next(SOON).is_some_and(|heard| heard == what));
    }

    /// `None`: nothing within that time.
    fn next(&self, limit: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(limit)).expect("set");
        let mut buffer = [0; 128];
        let length = self.0.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    fn heard_within(&self, time: Duration) -> Vec<String> {
        let end = Instant::now() + time;
        let mut heard = Vec::new();
        while let Some(left) =
            end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            heard.extend(self.next(left));
        }
        heard
    }
}

/// Under a supervisor; answers as soon as it is ready, and lives.
#[track_caller]
fn started(world: &World, ear: &Ear, program: &str, more: &[&str], url: &str) -> Process {
    let line = world.program_line(program, more);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let socket = world.scratch().join("notify").display().to_string();
    let process = world.spawn_with_env(Ns::Egress, program, &line, &[("NOTIFY_SOCKET", &socket)]);
    ear.hears("READY=1");
    let answer = world.http_get(&format!("{url}/-/healthy")).expect("ready, so it answers");
    assert_eq!(answer.status, 200, "{program}");
    ear.hears("WATCHDOG=1");
    ear.hears("WATCHDOG=1");
    process
}

#[test]
fn only_a_program_whose_every_loop_goes_round_says_that_it_lives() {
    inside("only_a_program_whose_every_loop_goes_round_says_that_it_lives", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.write_config(&EgressConfig::quick());
        world.actuator_ok(&["converge"]);
        let ear = Ear::of(world);
        let mut exporter = started(world, &ear, "exporter", &[], EXPORTER);
        exporter.stop();
        let fault = world.scratch().join("fault");
        for thread in ["care", "cycle"] {
            let ear = Ear::of(world);
            let mut actuator = started(world, &ear, "actuator", &["serve"], ACTUATOR);
            fs::write(&fault, format!("hang {thread}")).expect("written");
            eventually(SOON, "the thread hangs", || fault.with_extension("reached").exists());
            let heard = ear.heard_within(ROUNDS);
            // It may have gone round once since the last sign of life; what was sent before is in it.
            let late = ear.heard_within(ROUNDS);
            assert_eq!(late, [""; 0], "{thread} hangs; before that: {heard:?}");
            let answer = world.http_get(&format!("{ACTUATOR}/-/healthy"));
            assert!(answer.is_ok(), "it answers all the same, which is why this is needed");
            fs::remove_file(&fault).expect("removed");
            fs::remove_file(fault.with_extension("reached")).expect("removed");
            actuator.kill(nix::sys::signal::Signal::SIGKILL);
        }
    });
}
