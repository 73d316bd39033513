//! `--keep`: everything goes on running after the demonstration, until Enter or Ctrl-C.
//!
//! Prometheus and Alertmanager listen on the loopback of the host under test, which nobody else
//! can reach. So the process outside listens on the loopback of the machine and hands each
//! connection to a Unix socket in the world, by `/proc/<pid>/root`; there `lab relay` connects it.

use std::env;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use lab::{Ns, Process, World};

use super::failure::{Done, within};
use crate::commands::relay::join;

/// Name, the port inside, and outside too where it is free.
const SERVICES: [(&str, u16); 2] = [("Prometheus", 9090), ("Alertmanager", 9093)];
const READY: Duration = Duration::from_secs(10);
/// How often the process outside looks whether the world has come that far.
const LOOK: Duration = Duration::from_millis(200);

fn socket(port: u16) -> String {
    format!("relay-{port}.sock")
}

/// Inside: the sockets; then waits for Enter. Where there is no terminal, for the end by a signal.
pub fn wait(world: &World) -> Done {
    let lab = World::program("lab").display().to_string();
    let mut relays: Vec<Process> = Vec::new();
    for (_, port) in SERVICES {
        let to = format!("127.0.0.1:{port}");
        let file = world.scratch().join(socket(port));
        let line = [lab.as_str(), "relay", "--socket", &file.to_string_lossy(), "--to", &to];
        relays.push(world.spawn(Ns::Egress, &format!("relay-{port}"), &line));
        within(
            READY,
            "the relay listens",
            || if file.exists() { Ok(()) } else { Err("no socket") },
        )?;
    }
    match io::stdin().read_line(&mut String::new()) {
        Ok(read) if read > 0 => Ok(()),
        _ => loop {
            thread::park();
        },
    }
}

/// Outside: serves what [`wait`] offers once it is there. To be called before the world is entered.
pub fn serve_outside() {
    thread::spawn(|| {
        let world = loop {
            thread::sleep(LOOK);
            if let Some(child) = children().into_iter().find(|child| is_kept(*child)) {
                break child;
            }
        };
        tell(world);
    });
}

fn tell(world: u32) {
    println!();
    println!("Kept running; reach it from this machine (loopback) at");
    for (name, port) in SERVICES {
        match listen(world, port) {
            Ok(address) => println!("    {name:<14}http://{address}/"),
            Err(error) => println!("    {name:<14}cannot be offered: {error}"),
        }
    }
    let user = if in_own_user_namespace(world) {
        format!("-t {world} -U --preserve-credentials ")
    } else {
        String::new()
    };
    println!("and any program inside the host under test with");
    println!("    nsenter {user}--net=/proc/{world}/root/run/netns/egress PROGRAM");
    println!("Enter or Ctrl-C ends it and leaves nothing behind.");
}

/// The same port as inside where it is free, else any.
fn listen(world: u32, port: u16) -> io::Result<std::net::SocketAddr> {
    let listener =
        TcpListener::bind(("127.0.0.1", port)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)))?;
    let address = listener.local_addr()?;
    let target = inside(world, &socket(port));
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // Gone with the world; then this process is going too.
            let Ok(target) = UnixStream::connect(&target) else { continue };
            let _ = join(connection, target);
        }
    });
    Ok(address)
}

fn is_kept(child: u32) -> bool {
    SERVICES.iter().all(|(_, port)| inside(child, &socket(*port)).exists())
}

fn inside(child: u32, name: &str) -> PathBuf {
    Path::new(&format!("/proc/{child}/root/run/lab")).join(name)
}

fn in_own_user_namespace(child: u32) -> bool {
    let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/user")).ok();
    of("self") != of(&child.to_string())
}

/// The process that holds the namespaces is one of ours, and the only one that stays.
fn children() -> Vec<u32> {
    let own = std::process::id().to_string();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| parent(*pid).is_some_and(|parent| parent == own))
        .collect()
}

/// The fourth field; the second is in parentheses and may hold anything.
fn parent(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = &stat[stat.rfind(')')? + 1..];
    rest.split_whitespace().nth(1).map(str::to_owned)
}

/// Whether this process is the one that stays outside.
pub fn is_outside() -> bool {
    env::var_os("LAB_INSIDE").is_none()
}
