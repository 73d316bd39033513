//! The lab itself: it leaves the host alone, ends with the one who asked for it, and a test that
//! fails inside fails outside.

use std::fs;
use std::io::{BufRead, BufReader};
use std::panic::catch_unwind;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lab::{Ns, eventually};

const SOON: Duration = Duration::from_secs(10);
/// In the environment of every process of a world that is to be found again from outside.
const MARK: &str = "LAB_TEST_MARK";
/// Tells the tests that are there to go wrong that they have been asked to.
const WRONG: &str = "LAB_TEST_WRONG";

/// A world that stands until its standard input ends.
fn world(mark: &str) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lab"))
        .arg("up")
        .env(MARK, mark)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the lab starts");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("a pipe"))
        .read_line(&mut line)
        .expect("the lab speaks");
    assert!(line.starts_with("ready: "), "the lab said {line:?}");
    child
}

/// The processes that carry the mark.
fn marked(mark: &str) -> Vec<String> {
    let wanted = format!("{MARK}={mark}").into_bytes();
    fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .map(|entry| entry.path())
        .filter(|process| {
            fs::read(process.join("environ"))
                .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|entry| entry == wanted))
        })
        .map(|process| {
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            format!("{} {}", process.display(), name.trim())
        })
        .collect()
}

fn said(program: &str, arguments: &[&str]) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output =
        Command::new(program).args(arguments).env("PATH", path).output().expect("the tool runs");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// What of the host a world could have touched.
fn host() -> Vec<String> {
    let list = |dir: &str| {
        let mut names: Vec<_> = fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        format!("{dir}: {}", names.join(" "))
    };
    vec![
        said("ip", &["netns", "list"]),
        said("ip", &["-o", "rule"]),
        said("ip", &["-br", "link"]),
        said("nft", &["list", "ruleset"]),
        list("/run/netns"),
        list("/run/wireguard"),
        list("/run/lab"),
        fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default(),
    ]
}

#[test]
fn nothing_outlives_the_one_who_asked_even_when_killed() {
    let mark = format!("killed-{}", std::process::id());
    let mut child = world(&mark);
    let running = marked(&mark);
    assert!(running.len() > Ns::ALL.len(), "{running:?}");
    child.kill().expect("SIGKILL");
    child.wait().expect("its end");
    eventually(SOON, "every process of the world has ended", || {
        let left = marked(&mark);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[test]
fn the_host_is_untouched_while_a_world_stands_and_after() {
    let before = host();
    let mark = format!("untouched-{}", std::process::id());
    let mut child = world(&mark);
    assert_eq!(host(), before);
    drop(child.stdin.take());
    assert!(child.wait().expect("its end").success());
    assert_eq!(host(), before);
    eventually(SOON, "every process of the world has ended", || marked(&mark).is_empty());
}

#[test]
fn the_host_s_files_are_read_only_inside() {
    lab::inside("the_host_s_files_are_read_only_inside", |world| {
        for dir in [env!("CARGO_MANIFEST_DIR"), "/tmp", "/etc"] {
            let file = Path::new(dir).join("lab-was-here");
            assert!(fs::write(&file, "").is_err(), "{dir} is writable");
        }
        for dir in ["/run", "/var/lib"] {
            fs::write(Path::new(dir).join("lab-was-here"), "").expect("ours");
        }
        let namespaces = world.exec_ok(Ns::Egress, &["ip", "netns", "list"]);
        assert_eq!(namespaces.lines().count(), Ns::ALL.len());
    });
}

/// Not a test by itself: what the tests below run to see it go wrong.
#[test]
fn fails_when_asked_to() {
    match std::env::var(WRONG).as_deref() {
        Ok("panic") => lab::inside("fails_when_asked_to", |_| panic!("as asked")),
        Ok("hang") => lab::inside("fails_when_asked_to", |_| {
            loop {
                std::thread::park();
            }
        }),
        _ => {}
    }
}

fn run_wrong(how: &str, limit: &str) -> (bool, String) {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "fails_when_asked_to", "--nocapture"])
        .env(WRONG, how)
        .env("LAB_TIME_LIMIT", limit)
        .output()
        .expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_panic_inside_fails_the_test_outside() {
    let (passed, text) = run_wrong("panic", "60");
    assert!(!passed, "{text}");
    assert!(text.contains("as asked"), "{text}");
    assert!(text.contains("failed inside the lab"), "{text}");
}

#[test]
fn a_test_that_hangs_is_ended() {
    let (passed, text) = run_wrong("hang", "3");
    assert!(!passed, "{text}");
    assert!(text.contains("not finished within 3s"), "{text}");
}

#[test]
fn a_test_that_is_not_there_does_not_pass() {
    let passed = catch_unwind(|| lab::inside("no_such_test", |_| {})).is_ok();
    assert!(!passed);
}
