//! What a newcomer meets, each made for real, as a table: `docs/errors.md`. The messages of the
//! programs are in it word for word, so whoever changes one sees the page change.
//!
//! To update it: `UPDATE_SNAPSHOTS=1 cargo test -p lab --test errors`.

use std::fmt::Write as _;
use std::time::Duration;
use std::{env, fs};

use lab::programs::Said;
use lab::{Direction, EgressConfig, Endpoint, Keepalive, Ns, World, eventually, inside_heard};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md");
/// Before each line of the page, among what else is printed inside.
const MADE: &str = "errors.md| ";
const LIMIT: Duration = Duration::from_secs(60);

const HEAD: &str = "\
# Errors

What a newcomer may meet, and what the programs say then: each row was made for real, and the
message is the program's own. Made by a test (`tests/tests/errors.rs`), which fails where a message
or an exit code is another one. What the exit codes mean: [DESIGN.md, section 10](../DESIGN.md#10-command-line).
";

/// The page so far, and the world that it is made in.
struct Page<'a> {
    world: &'a mut World,
    text: String,
}

impl Page<'_> {
    fn section(&mut self, title: &str) {
        let _ = write!(
            self.text,
            "\n## {title}\n\n| what is wrong | command | exit | what it says |\n|---|---|---|---|\n"
        );
    }

    /// Runs a program of ours, and writes down what it said.
    #[track_caller]
    fn row(&mut self, what: &str, command: &str) {
        self.row_behind(&[], what, command, "");
    }

    /// The same, of what it said only the lines with this word.
    #[track_caller]
    fn row_about(&mut self, word: &str, what: &str, command: &str) {
        self.row_behind(&[], what, command, word);
    }

    /// The same behind another program, such as `setpriv ...`.
    #[track_caller]
    fn row_behind(&mut self, before: &[&str], what: &str, command: &str, word: &str) {
        let mut words = command.split(' ');
        let program = words.next().expect("a program");
        let arguments: Vec<&str> = ["--log.level=error"].into_iter().chain(words).collect();
        let line = self.world.program_line(program, &arguments);
        let line: Vec<&str> =
            before.iter().copied().chain(line.iter().map(String::as_str)).collect();
        let said = Said::from(self.world.run_within(Ns::Egress, &line, "", LIMIT));
        let all = format!("{}{}", said.err, said.out);
        // Not the log, whose lines begin with the time.
        let told = all.lines().filter(|line| !line.starts_with("20"));
        let about: Vec<&str> = told.filter(|line| line.contains(word)).collect();
        assert!(!about.is_empty(), "{what}: {command}: nothing of `{word}` in {said:?}");
        let says = self.shown(&about.join("\n"));
        let row = format!("| {what} | `{command}` | {} | {says} |\n", said.exit);
        eprint!("{row}");
        self.text += &row;
    }

    /// The same with a part of the config replaced, for the time of the row.
    #[track_caller]
    fn row_with(&mut self, edit: (&str, &str), what: &str, command: &str) {
        self.world.edit_config(edit.0, edit.1);
        self.row(what, command);
        self.world.write_config(&EgressConfig::quick());
    }

    /// As on a host: files where they are by default, and no number that is another one next time.
    fn shown(&self, text: &str) -> String {
        let scratch = format!("{}/", self.world.scratch().display());
        let text = text.trim().replace(&format!("{scratch}state"), "/var/lib/vpn-egress");
        let text = text.replace(&scratch, "/etc/vpn-egress/");
        let text = text.replace('|', "\\|").replace('<', "&lt;").replace('\n', "<br>");
        numbered(&numbered(&text, "pid "), "clock: ")
    }
}

/// The text with `N` for each number behind these words.
fn numbered(text: &str, behind: &str) -> String {
    let mut parts = text.split(behind);
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        let number = if rest.len() < part.len() { "N" } else { "" };
        let _ = write!(shown, "{behind}{number}{rest}");
    }
    shown
}

#[test]
fn what_a_newcomer_meets_is_told_with_its_mend() {
    let heard = inside_heard("what_a_newcomer_meets_is_told_with_its_mend", |world| {
        let mut page = Page { world, text: HEAD.to_owned() };
        the_files(&mut page);
        the_host(&mut page);
        the_programs(&mut page);
        what_is_no_error(&mut page);
        what_is_kept(&mut page);
        // The harness has left its own line open.
        println!();
        for line in page.text.lines() {
            println!("{MADE}{line}");
        }
    });
    let Some(lines) = heard else { return };
    let mut made = String::new();
    for line in lines.iter().filter_map(|line| line.strip_prefix(MADE)) {
        let _ = writeln!(made, "{line}");
    }
    assert!(made.starts_with(HEAD), "the page is all there");
    if env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(PAGE, &made).expect("written");
    }
    let page = fs::read_to_string(PAGE).unwrap_or_default();
    for (made, kept) in made.lines().zip(page.lines()) {
        assert_eq!(
            made, kept,
            "docs/errors.md says otherwise; the top of this file says what to do"
        );
    }
    assert_eq!(made.len(), page.len(), "docs/errors.md has other rows");
}

fn the_files(page: &mut Page) {
    page.section("The files");
    page.row("There is no config.", "actuator converge");
    page.world.write_file("egress.yml", "paths:\n  - name: media\n   interface: wg0\n", 0o644);
    page.row("It is not valid YAML.", "actuator converge");
    page.world.write_config(&EgressConfig::quick());
    page.row_with(("    fwmark:", "    fwmrak:"), "A key is not known.", "actuator converge");
    let long = ("interface: wg0", "interface: wireguard-media0");
    page.row_with(long, "The name of an interface is too long.", "actuator converge");
    let other = (
        "        private_key_file",
        "        tunnel_addresses: [10.99.0.2]\n        private_key_file",
    );
    let what = "Two endpoints have different tunnel addresses.";
    page.row_with(other, what, "actuator converge");
    let halves = ("    endpoints:", "    allow: [0.0.0.0/1, 128.0.0.0/1]\n    endpoints:");
    page.row_with(halves, "The allow-list adds up to the Internet.", "actuator converge");
    let uplink = ("    endpoints:", "    allow_interfaces: [eth0]\n    endpoints:");
    page.row_with(uplink, "An uplink is in `allow_interfaces`.", "actuator converge");
    let loopback = ("interface: wg0", "interface: lo");
    page.row_with(loopback, "The loopback device is named as the tunnel.", "actuator converge");
    let card = ("interface: wg0", "interface: eth0");
    page.row_with(card, "The tunnel's name is that of another device.", "actuator converge");

    let file = page.world.scratch().join("a.conf");
    let text = fs::read_to_string(&file).expect("the provider's file");
    page.world.write_file("a.conf", &text, 0o644);
    page.row("Everybody can read a file with a key.", "actuator converge");
    page.world.write_file("a.conf", &text.replace("PrivateKey = ", "PrivateKey = x"), 0o600);
    page.row("A typo in a key.", "actuator converge");
    page.world.write_file("a.conf", &text.replace("PrivateKey", "PrivatKey"), 0o600);
    page.row("A typo in a provider's file.", "actuator converge");
    page.world.write_file("a.conf", &text.replace("PrivateKey", "#PrivateKey"), 0o600);
    page.row("A provider's file without its key.", "actuator converge");
    page.world.write_config(&EgressConfig::quick());
}

fn the_host(page: &mut Page) {
    page.section("The host");
    // A user namespace without a map: not root, and no capability. The files are its own all the
    // same, so what root keeps to itself is taken from their owner too.
    let nobody = ["unshare", "--user"];
    let mode = |page: &mut Page, mode: &str, file: &str| {
        let file = page.world.scratch().join(file).display().to_string();
        page.world.exec_ok(Ns::Egress, &["chmod", mode, &file]);
    };
    mode(page, "0555", "");
    page.row_behind(&nobody, "Not root.", "actuator converge", "");
    mode(page, "0755", "");
    mode(page, "0000", "a.conf");
    page.row_behind(&nobody, "Not root, and the keys are root's.", "actuator validate", "");
    mode(page, "0600", "a.conf");
    let powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let what = "A container without `NET_ADMIN`.";
    page.row_behind(&powerless, what, "actuator converge", "");
    page.row_behind(&powerless, what, "actuator validate", "media");
    // A place for programs in which there is nothing but what starts ours.
    let bin = page.world.scratch().join("bin");
    fs::create_dir(&bin).expect("a directory");
    std::os::unix::fs::symlink("/usr/bin/env", bin.join("env")).expect("a link");
    let path = format!("PATH={}", bin.display());
    page.row_behind(&["env", &path], "nftables is not installed.", "actuator converge", "");
    page.world.delete_tunnel();
    // What the others are looked for in, too; and no WireGuard, whatever this machine has.
    let lend = |page: &mut Page, name: &str, unless: &str| {
        let all = env::var("PATH").expect("a PATH");
        let script = format!("#!/bin/sh\n{unless}\nPATH={all} exec {name} \"$@\"\n");
        page.world.write_file(&format!("bin/{name}"), &script, 0o755);
    };
    lend(page, "nft", "kill -SEGV $$");
    page.row_behind(&["env", &path], "nft crashes.", "actuator converge", "");
    lend(page, "nft", "");
    let unknown = "echo 'Error: Unknown device type.' >&2; exit 2";
    lend(page, "ip", &format!("case \" $* \" in *' type wireguard '*) {unknown};; esac"));
    let what = "The kernel has no WireGuard, and there is no other.";
    page.row_behind(&["env", &path], what, "actuator converge", "");
    let off = EgressConfig { path_lines: vec!["bring_up: off".into()], ..EgressConfig::quick() };
    page.world.write_config(&off);
    let what =
        "There is no WireGuard interface, and `bring_up: off` says that it is others' to make.";
    page.row(what, "actuator converge");
    page.row("The same, later.", "actuator validate");
    page.world.write_config(&EgressConfig::quick());
    page.world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
    page.world.actuator_ok(&["converge"]);
}

fn the_programs(page: &mut Page) {
    page.section("The programs");
    let exporter = page.world.start_exporter();
    page.row("The port is in use.", "exporter");
    drop(exporter);
    let daemon = page.world.start_actuator();
    page.row("The daemon is running already.", "actuator serve");
    let what = "Prometheus or Alertmanager is not installed, or does not reach the daemon.";
    page.row_about("heartbeat", what, "actuator status");
    drop(daemon);
    page.row_about("no daemon", "The daemon is not running.", "actuator status");
}

/// Said beside a verdict, where the host will not do what its owner wants.
fn what_is_no_error(page: &mut Page) {
    page.section("What is no error, and is said");
    let asks = |page: &mut Page, resolver: &str| {
        page.world.write_file("resolv.conf", &format!("nameserver {resolver}\n"), 0o644);
    };
    asks(page, "10.0.0.1");
    page.row_about("names", "The resolver is on the local network.", "actuator validate");
    asks(page, "127.0.0.53");
    let behind = "/run/systemd/resolve";
    fs::create_dir_all(behind).expect("a directory");
    fs::write(format!("{behind}/resolv.conf"), "nameserver 10.0.0.1\n").expect("written");
    page.row_about("names", "systemd-resolved asks the local network.", "actuator validate");
    asks(page, "10.64.0.1");

    page.world.plug_second_uplink();
    page.row("A second default route has come.", "actuator converge");

    // The provider is silent too, or nobody would look at the clock.
    page.world.blackhole(Endpoint::A, Direction::Both);
    let state = page.world.state_file();
    let text = fs::read_to_string(&state).expect("the state");
    let mut ahead: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    ahead["latest_handshake"] = 4_102_444_800_u64.into();
    fs::write(&state, ahead.to_string()).expect("written");
    eventually(LIMIT, "the tunnel is seen to be down", || {
        page.world.actuator(&["validate"]).out.contains("clock: ")
    });
    page.row_about("clock", "The clock is in the past.", "actuator validate");
    fs::write(&state, text).expect("written");

    page.world.exec_ok(Ns::Egress, &["ip", "-4", "addr", "flush", "dev", "eth0"]);
    page.world.exec_ok(Ns::Egress, &["ip", "link", "set", "eth1", "down"]);
    page.row_about("out of reach", "The uplink has IPv6 only.", "actuator validate");
}

fn what_is_kept(page: &mut Page) {
    page.section("What is kept");
    fs::write(page.world.state_file(), "{\"version\": 1, \"acti").expect("written");
    page.row("A state file is damaged.", "actuator converge");
    page.row_about("state", "The same.", "actuator validate");
}
