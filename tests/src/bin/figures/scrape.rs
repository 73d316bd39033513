//! What a scrape costs: time, processor and memory, with few and many paths and endpoints, beside
//! `wg show all dump` in the same run.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Range;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::many::Many;
use lab::programs::EXPORTER;
use lab::{Ns, Process, World, eventually};

use super::summary::Summary;
use super::{Figures as _, PATIENCE};

/// A hundred paths need a world of root's: in a user namespace `nft` cannot have a buffer that is large
/// enough for a transaction of theirs.
const SIZES: [Many; COUNT as usize] = [
    Many { paths: 1, endpoints: 2 },
    Many { paths: 10, endpoints: 2 },
    Many { paths: 100, endpoints: 2 },
    Many { paths: 1, endpoints: 1000 },
];

/// Scrapes on one connection.
const CONNECTION: u32 = 20;

/// The size by its number: each has a world of its own.
pub fn of_size(number: u32, rounds: u32) {
    let many = SIZES[number as usize];
    let world = World::build();
    let _tunnels = world.write_many(many);
    converge(&world);
    let exporter = world.start_exporter_quietly();
    eventually(PATIENCE, "a first cycle of every path", || {
        world.http_get(&format!("{EXPORTER}/-/ready")).is_ok_and(|answer| answer.status == 200)
    });
    let count = (rounds * 30).to_string();
    let (idle, waited) = (processor(&exporter), Instant::now());
    std::thread::sleep(Duration::from_secs(5));
    let idle =
        processor(&exporter).saturating_sub(idle).as_secs_f64() / waited.elapsed().as_secs_f64();
    let (before, started) = (processor(&exporter), Instant::now());
    let scrapes = Times::of(&world.figures_said(&["scrapes", "--count", &count]));
    let elapsed = started.elapsed().as_secs_f64();
    let used = processor(&exporter).saturating_sub(before).as_secs_f64();
    let each = (used - idle * elapsed).max(0.0) * 1000.0 / f64::from(rounds * 30);
    let dumps = Times::of(&world.figures_said(&["dumps", "--count", &count]));
    let Many { paths, endpoints } = many;
    println!(
        "paths {paths:>2}, endpoints {endpoints:>4}: scrape median {:.2} ms, p99 {:.2} ms, {:.2} ms of processor; \
         beside that {:.1} % of one; {} MiB; page {} KiB; `wg show all dump` {:.2} ms, p99 {:.2} ms; ratio {:.2}",
        scrapes.all.median(),
        scrapes.p99,
        each,
        idle * 100.0,
        memory(&exporter) / 1024,
        scrapes.bytes / 1024,
        dumps.all.median(),
        dumps.p99,
        scrapes.all.median() / dumps.all.median(),
    );
}

pub const COUNT: u32 = 4;

/// Times in milliseconds, and the bytes of the last answer.
struct Times {
    all: Summary,
    p99: f64,
    bytes: usize,
}

impl Times {
    fn of(said: &str) -> Self {
        let mut numbers: Vec<f64> =
            said.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let bytes = numbers.pop().expect("the size comes last");
        let mut all = Summary::new("ms");
        for time in &numbers {
            all.add(*time);
        }
        numbers.sort_by(f64::total_cmp);
        let p99 = numbers[(numbers.len() * 99).div_ceil(100) - 1];
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a length
        Self { all, p99, bytes: bytes as usize }
    }
}

/// Locks all paths.
pub fn converge(world: &World) {
    let line = world.program_line("actuator", &["converge", "--force"]);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let output = world.run_within(Ns::Egress, &line, "", Duration::from_secs(600));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Scrapes one after the other, and says how long each took.
pub fn scrapes(count: u32) {
    let address = EXPORTER.trim_start_matches("http://");
    let connect = || TcpStream::connect(address).expect("the exporter listens");
    let (mut stream, mut size) = (connect(), 0);
    for nth in 1..=count {
        // The server ends a connection after its time; as Prometheus, we make another.
        if nth % CONNECTION == 0 {
            stream = connect();
        }
        let started = Instant::now();
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        size = answer(&mut stream);
        println!("{}", started.elapsed().as_secs_f64() * 1000.0);
    }
    println!("{size}");
}

/// Reads one answer; the length of its body.
fn answer(stream: &mut TcpStream) -> usize {
    let (mut bytes, mut part) = (Vec::new(), [0; 8192]);
    loop {
        let read = stream.read(&mut part).expect("an answer");
        assert!(read > 0, "the connection ended");
        bytes.extend_from_slice(&part[..read]);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|text| text.parse().ok()).expect("a length");
        if bytes.len() >= end + 4 + length {
            return length;
        }
    }
}

/// Runs `wg show all dump` one after the other, and says how long each took.
pub fn dumps(count: u32) {
    for _ in 0..count {
        let started = Instant::now();
        let mut wg = Command::new("wg");
        let done = wg.args(["show", "all", "dump"]).stdout(Stdio::null()).status();
        assert!(done.is_ok_and(|status| status.success()), "wg show all dump");
        println!("{}", started.elapsed().as_secs_f64() * 1000.0);
    }
    println!("0");
}

/// Processor time of a process and of those that it has waited for.
pub fn processor(process: &Process) -> Duration {
    // utime, stime, cutime, cstime: fields 14 to 17 of proc(5).
    Duration::from_millis(fields(process, 14..18).iter().sum::<u64>() * 10)
}

/// Page faults of the processes that a process has waited for: `cminflt` of proc(5).
pub fn children_faults(process: &Process) -> u64 {
    fields(process, 11..12)[0]
}

/// Fields of `/proc/PID/stat`, numbered as in proc(5).
fn fields(process: &Process, numbers: Range<usize>) -> Vec<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid())).expect("it runs");
    // The first behind the name, which may have blanks in it, is the third.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let numbers = fields[numbers.start - 3..numbers.end - 3].iter();
    numbers.map(|field| field.parse().expect("a number")).collect()
}

/// Resident memory in KiB.
pub fn memory(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|text| text.split_whitespace().next()?.parse().ok()).expect("a size")
}

trait Quiet {
    fn start_exporter_quietly(&self) -> Process;
}

impl Quiet for World {
    /// With the log level that is shipped.
    fn start_exporter_quietly(&self) -> Process {
        let line = self.program_line("exporter", &[]);
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        self.spawn(Ns::Egress, "exporter", &line)
    }
}
