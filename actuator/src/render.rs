//! `actuator render`: what other programs need to know of this project, in their own words.
//!
//! Alertmanager's configuration for several hosts. What is said to whom, and how soon, is as in
//! `alerting-rules/alertmanager.yml`, and a test keeps it so; here each alert goes to the actuator
//! of its own host. Must never print a secret: it names files.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use hyper::Uri;

use crate::control::{Reply, exit};

#[derive(Debug, Subcommand)]
pub enum Render {
    /// Alertmanager's configuration for a list of hosts: each host's alerts to its own actuator.
    Alertmanager {
        /// A host by its alerts' label `host` and where its actuator listens; several may be given.
        #[arg(long = "host", value_name = "NAME=URL", value_parser = host, required = true)]
        hosts: Vec<Host>,
        /// Where Alertmanager finds the authority that vouches for the actuators, `ca.crt`, and a
        /// token for each host, `NAME.token`.
        #[arg(long, value_name = "DIR", default_value = "/etc/prometheus/vpn-egress")]
        files: PathBuf,
        /// A file with receivers of your own, as the list that Alertmanager has; `people` among them.
        #[arg(long, value_name = "FILE")]
        receivers: Option<PathBuf>,
    },
}

/// A host with an actuator, as Alertmanager sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    name: String,
    /// Without a slash at its end.
    url: String,
    encrypted: bool,
}

/// The name is part of a regular expression, of a receiver's name and of a file's.
fn host(text: &str) -> Result<Host, String> {
    let wanted = "want the alerts' label `host` and the address of the actuator, such as \
                  gw1=https://gw1.example:9062";
    let (name, url) = text.split_once('=').ok_or(wanted)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 253 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(
            "the name of a host has letters, digits, `-`, `_` and `.` only; give the host \
                    such a name by `host` in its egress.yml"
                .into(),
        );
    }
    let uri: Uri = url.parse().map_err(|_| wanted)?;
    let authority = uri.authority().ok_or(wanted)?;
    if uri.path() != "/" || uri.query().is_some() || authority.as_str().contains('@') {
        return Err(format!("{wanted}, and nothing after it"));
    }
    let bare = authority.host().trim_matches(['[', ']']);
    let loopback = bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let encrypted = uri.scheme_str() == Some("https");
    let stays_here = loopback && uri.scheme_str() == Some("http");
    if !encrypted && !stays_here {
        return Err("want https://, for the token travels with each alert (docs/web.md says how \
                    the actuator gets a certificate); http:// is for loopback only"
            .into());
    }
    Ok(Host { name: name.to_owned(), url: url.trim_end_matches('/').to_owned(), encrypted })
}

pub fn run(command: &Render) -> Reply {
    let Render::Alertmanager { hosts, files, receivers } = command;
    let mut names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    names.sort_unstable();
    let twice = names.iter().zip(names.iter().skip(1)).find(|(one, next)| one == next);
    if let Some((name, _)) = twice {
        let why = format!("--host: {name} is there twice; each host has one actuator");
        return Reply::new(vec![why], exit::USAGE);
    }
    let own = match receivers.as_deref().map(read_receivers).transpose() {
        Ok(own) => own,
        Err(why) => return Reply::new(vec![why], exit::USAGE),
    };
    let text = alertmanager(hosts, files, own.as_deref());
    Reply::done(vec![text.trim_end().to_owned()])
}

fn read_receivers(file: &Path) -> Result<String, String> {
    let place = file.display();
    let text = fs::read_to_string(file).map_err(|error| {
        format!("{place}: cannot be read; name a file with a list of receivers ({error})")
    })?;
    let named =
        |line: &str| ["- name: people", "- {name: people"].iter().any(|it| line.starts_with(it));
    if text.lines().any(named) {
        Ok(text)
    } else {
        Err(format!(
            "{place}: has no receiver `people`, who is told of everything; begin a line with \
             `- name: people`, as in alerting-rules/alertmanager.yml"
        ))
    }
}

/// How the alerts of one kind are told; each host's actuator is a child of it.
struct Kind {
    why: &'static str,
    matchers: &'static [&'static str],
    group_by: &'static str,
    interval: &'static str,
    repeat: &'static str,
    then: Then,
}

/// Who is told after the actuators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Nobody,
    People,
}

const LABELS: &str = "alertname, host, job, instance, path, endpoint";

const KINDS: [Kind; 3] = [
    Kind {
        why: "The heartbeat: to actuators only. One Prometheus for all sends it without a host, to\n\
              all of them.",
        matchers: &["alertname = VpnEgressWatchdog"],
        group_by: "alertname, host",
        interval: "5s",
        repeat: "10s",
        then: Then::Nobody,
    },
    Kind {
        why: "A leak: to its host's actuator, every second or two, and on to people.",
        matchers: &["alertname =~ \"VpnEgress.+\"", "action = hard-stop"],
        group_by: "alertname, host, job, instance, path",
        interval: "1s",
        repeat: "1s",
        then: Then::People,
    },
    Kind {
        why: "What else is acted on: to its host's actuator, and on to people.",
        matchers: &["alertname =~ \"VpnEgress.+\"", "action =~ \".+\"", "action != hard-stop"],
        group_by: LABELS,
        interval: "5s",
        repeat: "10s",
        then: Then::People,
    },
];

const HEAD: &str = "\
# Alertmanager's configuration for several hosts with vpn-egress (0.25 or later). Written by
# `actuator render alertmanager`; for another list of hosts, run it again.
#
# An alert goes to the actuator of the host that its label `host` names. One whose host is not in
# the list, or that names none, is acted on by nobody (receiver `nobody`); people are told of it as
# of every other. Why each time is what it is: alerting-rules/alertmanager.yml.
route:
  receiver: people
";

const REST: &str = "
inhibit_rules:
  # A leak never causes a switch.
  - source_matchers:
      - alertname = VpnEgressLeak
    target_matchers:
      - alertname = VpnEgressTunnelDown
    equal: [host, job, instance, path]

receivers:
  - name: nobody
";

/// Where `--receivers` gives none.
const PEOPLE: &str = "\
# Empty: alerts show in Alertmanager and go nowhere else. Fill in what you read; with
# `--receivers FILE` it is there the next time as well.
- name: people
";

fn alertmanager(hosts: &[Host], files: &Path, own: Option<&str>) -> String {
    let mut text = format!("{HEAD}  group_by: [{LABELS}]\n  routes:\n");
    for kind in &KINDS {
        for line in kind.why.lines() {
            let _ = writeln!(text, "    # {line}");
        }
        text += "    - matchers:\n";
        for matcher in kind.matchers {
            let _ = writeln!(text, "        - {matcher}");
        }
        let Kind { group_by, interval, repeat, then, .. } = kind;
        let on = *then == Then::People;
        let _ = write!(
            text,
            "      receiver: nobody\n      group_by: [{group_by}]\n      group_wait: 0s\n      \
             group_interval: {interval}\n      repeat_interval: {repeat}\n      continue: {on}\n      routes:\n"
        );
        for Host { name, .. } in hosts {
            let literal = name.replace('.', "[.]");
            // With a heartbeat that names no host all are meant.
            let (matcher, more) = match then {
                Then::Nobody => (format!("host =~ \"{literal}|\""), ", continue: true"),
                Then::People => (format!("host = \"{name}\""), ""),
            };
            let _ = writeln!(
                text,
                "        - {{matchers: ['{matcher}'], receiver: actuator-{name}{more}}}"
            );
        }
        text.push('\n');
    }
    let _ = write!(
        text,
        "    - receiver: people\n      group_by: [{LABELS}]\n      group_wait: 10s\n      \
         group_interval: 1m\n      repeat_interval: 4h\n{REST}"
    );
    for host in hosts {
        receiver(&mut text, host, files);
    }
    for line in own.unwrap_or(PEOPLE).lines() {
        let indent = if line.is_empty() { "" } else { "  " };
        let _ = writeln!(text, "{indent}{line}");
    }
    text
}

fn receiver(text: &mut String, host: &Host, files: &Path) {
    let Host { name, url, encrypted } = host;
    let files = files.display();
    let tls = if *encrypted {
        format!("          tls_config:\n            ca_file: {files}/ca.crt\n")
    } else {
        String::new()
    };
    let _ = write!(
        text,
        "  - name: actuator-{name}
    webhook_configs:
      - url: {url}/api/v1/alerts
        send_resolved: false
        max_alerts: 0
        http_config:
          follow_redirects: false
{tls}          authorization:
            type: Bearer
            credentials_file: {files}/{name}.token
"
    );
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
