//! The programs under test, as built, on the `egress` host of this world.

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::addresses::Ns;
use crate::eventually::eventually;
use crate::process::Process;
use crate::world::World;

pub const EXPORTER: &str = "http://127.0.0.1:9061";
pub const ACTUATOR: &str = "http://127.0.0.1:9062";

/// Where every system has it.
const ENV: &str = "/usr/bin/env";

/// Long enough for a loaded machine, short enough to notice a program that does not start.
const START: Duration = Duration::from_secs(20);

/// What a command of `actuator` said.
#[derive(Debug)]
pub struct Said {
    pub exit: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            exit: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl World {
    /// The flags that keep our programs' files inside this world.
    pub fn program_line(&self, program: &str, more: &[&str]) -> Vec<String> {
        let scratch = self.scratch();
        let file = |name: &str| scratch.join(name).display().to_string();
        let mut line = self.before_programs.clone();
        line.extend([
            "env".to_owned(),
            format!("VPN_EGRESS_FAULTS={}", file("fault")),
            World::program(program).display().to_string(),
            format!("--config.file={}", file("egress.yml")),
            format!("--state.directory={}", file("state")),
        ]);
        if program == "actuator" {
            line.push(format!("--control.socket={}", file("actuator.sock")));
        }
        // What the test gives itself is not given twice.
        let name = |word: &str| word.split_once('=').map(|(name, _)| name.to_owned());
        line.retain(|word| {
            name(word).is_none_or(|own| !more.iter().any(|it| name(it) == Some(own.clone())))
        });
        line.extend(more.iter().map(|&word| word.to_owned()));
        line
    }

    pub fn state_file(&self) -> PathBuf {
        self.scratch().join("state/media.json")
    }

    /// Runs one command of `actuator` to its end.
    pub fn actuator(&self, arguments: &[&str]) -> Said {
        let line = self.program_line("actuator", arguments);
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        self.run_within(Ns::Egress, &line, "", Duration::from_secs(60)).into()
    }

    /// What it says to a terminal, with these variables in its environment.
    #[track_caller]
    pub fn terminal(&self, arguments: &[&str], env: &[(&str, &str)]) -> String {
        let line = self.program_line("actuator", arguments).join(" ");
        let set = env.iter().map(|(name, value)| format!("{name}={value}"));
        let mut argv = vec!["env".to_owned()];
        argv.extend(set);
        argv.extend(["script", "-qec", &line, "/dev/null"].map(str::to_owned));
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        String::from_utf8_lossy(&self.run(Ns::Egress, &argv).stdout).into_owned()
    }

    /// The same, where it must succeed; its standard output.
    #[track_caller]
    pub fn actuator_ok(&self, arguments: &[&str]) -> String {
        let said = self.actuator(arguments);
        assert_eq!(said.exit, 0, "actuator {arguments:?}: {said:?}");
        said.out
    }

    #[track_caller]
    pub fn start_exporter(&self) -> Process {
        self.start_exporter_by(&[])
    }

    /// The same, started by another program with these words before it.
    #[track_caller]
    pub fn start_exporter_by(&self, before: &[&str]) -> Process {
        let mut line = self.program_line("exporter", &["--log.level=debug"]);
        if !before.is_empty() {
            // Whoever starts it may run it from here.
            let program = World::program("exporter").display().to_string();
            line.iter_mut()
                .filter(|word| **word == program)
                .for_each(|word| *word = self.program_for_all("exporter"));
            // Found whatever `PATH` the words before set.
            line.iter_mut().filter(|word| *word == "env").for_each(|word| ENV.clone_into(word));
        }
        let line = before.iter().copied().chain(line.iter().map(String::as_str));
        let line: Vec<&str> = line.collect();
        let process = self.spawn(Ns::Egress, "exporter", &line);
        self.wait_for(&process, &format!("{EXPORTER}/-/healthy"));
        process
    }

    #[track_caller]
    pub fn start_actuator(&self) -> Process {
        self.start_actuator_with(&[])
    }

    #[track_caller]
    pub fn start_actuator_with(&self, more: &[&str]) -> Process {
        let process = self.spawn_actuator(more);
        self.wait_for(&process, &format!("{ACTUATOR}/-/ready"));
        process
    }

    /// The same, without waiting for its first look.
    #[track_caller]
    pub fn spawn_actuator(&self, more: &[&str]) -> Process {
        let mut arguments = vec!["--log.level=debug", "serve"];
        arguments.extend(more);
        let line = self.program_line("actuator", &arguments);
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        self.spawn(Ns::Egress, "actuator", &line)
    }

    #[track_caller]
    fn wait_for(&self, process: &Process, url: &str) {
        eventually(START, url, || match self.http_get(url) {
            Ok(response) if response.status == 200 => Ok(()),
            Ok(response) => Err(format!("{} {}", response.status, response.body)),
            Err(error) => Err(format!("{error}; log: {}", process.log())),
        });
    }

    /// Value of one series of a metrics page, by its name and labels as the page writes them.
    pub fn metric(&self, base: &str, series: &str) -> Option<f64> {
        let page = self.http_get(&format!("{base}/metrics")).ok()?.body;
        let line = page
            .lines()
            .find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// `actuator status --json` of the only path.
    #[track_caller]
    pub fn status(&self) -> Value {
        let said = self.actuator(&["status", "--json"]);
        let status: Value = serde_json::from_str(&said.out)
            .unwrap_or_else(|error| panic!("status is no JSON: {error}: {said:?}"));
        status["paths"][0].clone()
    }

    pub fn active_endpoint(&self) -> String {
        self.status()["active_endpoint"].as_str().unwrap_or_default().to_owned()
    }

    /// Sends alerts as Alertmanager would, and again while the answer is that nothing can be said
    /// yet (a path that settles); the reply's status and outcomes.
    #[track_caller]
    pub fn notify(&self, alerts: &[Value]) -> (u16, Vec<String>) {
        eventually(START, "the actuator sees clearly", || {
            let reply = self.notify_once(alerts);
            (!reply.1.iter().any(|outcome| outcome == "unclear")).then_some(reply)
        })
    }

    /// The same, once; again only where the engine was busy with something else, as Alertmanager does.
    #[track_caller]
    pub fn notify_once(&self, alerts: &[Value]) -> (u16, Vec<String>) {
        eventually(START, "the engine comes to it", || {
            let reply = self.notify_now(alerts);
            (reply != (503, Vec::new())).then_some(reply)
        })
    }

    /// The same, whatever is answered.
    #[track_caller]
    pub fn notify_now(&self, alerts: &[Value]) -> (u16, Vec<String>) {
        let body = json!({"version": "4", "status": "firing", "alerts": alerts}).to_string();
        let token = fs::read_to_string(self.scratch().join("actuator.token")).ok();
        let token = token.as_deref().map(str::trim);
        let response = self
            .http_post(&format!("{ACTUATOR}/api/v1/alerts"), &body, token)
            .unwrap_or_else(|error| panic!("the webhook did not answer: {error}"));
        let reply: Value = serde_json::from_str(&response.body).unwrap_or_default();
        let outcomes = reply["outcomes"].as_array().cloned().unwrap_or_default();
        let words = outcomes.iter().filter_map(|word| word.as_str().map(str::to_owned));
        (response.status, words.collect())
    }
}

/// A firing alert with these labels.
pub fn firing(labels: &[(&str, &str)]) -> Value {
    let labels: serde_json::Map<String, Value> =
        labels.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    json!({"status": "firing", "labels": labels, "startsAt": "2026-01-01T00:00:00Z"})
}

pub fn tunnel_down(endpoint: &str) -> Value {
    firing(&[("action", "failover"), ("path", "media"), ("endpoint", endpoint)])
}

pub fn leak() -> Value {
    firing(&[("action", "hard-stop"), ("path", "media")])
}

pub fn repair() -> Value {
    firing(&[("action", "repair"), ("path", "media")])
}

/// As if the machine had lost power: no chance to clean up.
pub fn kill(process: &mut Process) {
    process.kill(Signal::SIGKILL);
    let _ = process.wait(Duration::from_secs(5));
}
