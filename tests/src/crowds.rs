//! A crowd at the webhook of this world's actuator, and what became of good notifications in it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::addresses::Ns;
use crate::eventually::eventually;
use crate::process::Process;
use crate::programs::repair;
use crate::world::World;

/// What `lab crowd` can be where anybody is let in; the first is nobody.
pub const CROWDS: [&str; 12] = [
    "none",
    "idle",
    "slow",
    "half",
    "gibibyte",
    "malformed",
    "nested",
    "text",
    "many",
    "unread",
    "small",
    "pages",
];

/// And where TLS is spoken.
pub const CROWDS_BY_TLS: [&str; 6] = ["none", "idle", "hello", "slow", "half", "small"];

const START: Duration = Duration::from_secs(20);

/// How the webhook is asked.
#[derive(Debug, Clone, Default)]
pub struct Door {
    certificate: Option<PathBuf>,
    token: Option<PathBuf>,
    /// The crowd has the token too.
    insiders: bool,
}

impl Door {
    /// The same, and the crowd has all that it takes to be let in.
    #[must_use]
    pub fn open_to_the_crowd(self) -> Self {
        Self { insiders: true, ..self }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Connections that an idle or slow crowd holds at once.
    pub held: usize,
    /// How long it is looked at, from when it is there.
    pub seconds: u64,
}

/// What was seen while the crowd was there.
#[derive(Debug)]
pub struct Seen {
    /// Of each good notification that was acted on, in milliseconds.
    pub took: Vec<f64>,
    /// Good notifications that were not.
    pub failed: u64,
    pub peak_kib: u64,
    /// Connections that the crowd made.
    pub made: u64,
    /// Connections of the crowd that the server has ended, without an answer.
    pub ended: u64,
    /// How many requests of the crowd were answered with which status.
    pub answers: BTreeMap<String, u64>,
}

impl World {
    /// An actuator that lets anybody in, and the way to it.
    #[track_caller]
    pub fn start_open_actuator(&self) -> (Process, Door) {
        (self.start_as_operators_do("actuator-open", &[]), Door::default())
    }

    /// One that speaks TLS and asks for a token.
    #[track_caller]
    pub fn start_actuator_behind_tls(&self) -> (Process, Door) {
        let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])
            .unwrap_or_else(|error| panic!("a certificate: {error}"));
        let certificate = self.write_file("web.crt", &issued.cert.pem(), 0o644);
        self.write_file("web.key", &issued.signing_key.serialize_pem(), 0o600);
        let config = "tls_server_config: {cert_file: web.crt, key_file: web.key}\n";
        let config = self.write_file("web.yml", config, 0o600);
        let token = self.write_file("web.token", "a token for a crowd\n", 0o600);
        let config = format!("--web.config.file={}", config.display());
        let asks = format!("--web.bearer-token-file={}", token.display());
        let process = self.start_as_operators_do("actuator-tls", &[&config, &asks]);
        (process, Door { certificate: Some(certificate), token: Some(token), insiders: false })
    }

    /// Tests log at level debug otherwise, and a line for each of a crowd takes time.
    #[track_caller]
    fn start_as_operators_do(&self, name: &str, more: &[&str]) -> Process {
        let line = self.program_line("actuator", &[&["serve"][..], more].concat());
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let process = self.spawn(Ns::Egress, name, &line);
        eventually(START, "the actuator listens", || process.log().contains("listening"));
        process
    }

    #[track_caller]
    pub fn crowd(&self, actuator: &Process, door: &Door, kind: &str, size: Size) -> Seen {
        let body = json!({"version": "4", "alerts": [repair()]}).to_string();
        let lab = Self::program("lab").display().to_string();
        let mut line: Vec<String> =
            [&lab, "crowd", kind, "--server", "127.0.0.1:9062", "--body", &body]
                .map(str::to_owned)
                .into();
        line.push(format!("--pid={}", actuator.pid()));
        line.push(format!("--seconds={}", size.seconds));
        line.push(format!("--held={}", size.held));
        line.extend(door.certificate.iter().map(|it| format!("--certificate={}", it.display())));
        line.extend(door.token.iter().map(|it| format!("--token-file={}", it.display())));
        line.extend(door.insiders.then(|| "--insiders".to_owned()));
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let output = self.run_within(Ns::Egress, &line, "", Duration::from_secs(120));
        let said = String::from_utf8_lossy(&output.stdout);
        let said: Value = serde_json::from_str(&said)
            .unwrap_or_else(|error| panic!("{kind}: {error}: {output:?}"));
        let took = said["took_ms"].as_array().cloned().unwrap_or_default();
        let number = |key: &str| said[key].as_u64().unwrap_or_else(|| panic!("{key}: {said}"));
        let answers = said["answers"].as_object().cloned().unwrap_or_default();
        Seen {
            took: took.iter().filter_map(Value::as_f64).collect(),
            failed: number("failed"),
            peak_kib: number("peak_kib"),
            made: number("made"),
            ended: number("ended"),
            answers: answers
                .into_iter()
                .map(|(status, count)| (status, count.as_u64().unwrap_or_default()))
                .collect(),
        }
    }
}
