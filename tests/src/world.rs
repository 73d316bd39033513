//! The world itself: built inside the namespaces, gone with them.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::addresses::{ECHO, ECHO_HOLE, ECHO_PORT, ECHO_V6, Endpoint, NAMES, Ns, TUNNEL_SERVER};
use crate::eventually::eventually;
use crate::exec::{self, COMMAND_LIMIT};
use crate::keys::EndpointKeys;
use crate::mounts::SCRATCH;
use crate::observer::Counts;
use crate::process::{Process, all_logs};
use crate::topology;
use crate::wireguard::{Backend, Device, Keepalive};

/// How much of each log a failed test shows.
const LOG_LINES: usize = 40;
/// How long until the first handshake; a lost first initiation is repeated after 5 s.
const FIRST_HANDSHAKE: Duration = Duration::from_secs(15);

/// Five namespaces, two `WireGuard` servers, one client, an observer, an echo service.
pub struct World {
    pub(crate) backend: Backend,
    pub(crate) keys: BTreeMap<Endpoint, EndpointKeys>,
    pub(crate) servers: BTreeMap<Endpoint, Device>,
    pub(crate) tunnel: Option<Device>,
    pub(crate) second_tunnel: Option<Device>,
    /// What is put before each program of ours: see [`World::mount_cgroups`].
    pub(crate) before_programs: Vec<String>,
    pub(crate) baseline: Counts,
    pub(crate) workloads: u32,
    _echo: Process,
}

impl World {
    /// Builds it and waits until the tunnel by endpoint A answers. Only inside the namespaces;
    /// tests get theirs from [`crate::inside`].
    pub fn build() -> Self {
        topology::build();
        let backend = Backend::detect();
        let keys = Endpoint::ALL.map(|endpoint| (endpoint, EndpointKeys::generate(endpoint)));
        let echo = start_echo();
        let mut world = Self {
            backend,
            keys: keys.into(),
            servers: BTreeMap::new(),
            tunnel: None,
            second_tunnel: None,
            before_programs: Vec::new(),
            baseline: Counts::default(),
            workloads: 0,
            _echo: echo,
        };
        world.load_observer();
        for endpoint in Endpoint::ALL {
            world.start_server(endpoint);
        }
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        eventually(FIRST_HANDSHAKE, "the tunnel answers", || {
            world.ping(Ns::Egress, &TUNNEL_SERVER.to_string())
        });
        world.reset_observer();
        world
    }

    /// Starts a program that stays; its output goes to `/run/lab/<name>.log`.
    #[track_caller]
    pub fn spawn(&self, ns: Ns, name: &str, argv: &[&str]) -> Process {
        Process::start(ns, name, argv, &[])
    }

    /// The same, with variables added to its environment.
    #[track_caller]
    pub fn spawn_with_env(
        &self,
        ns: Ns,
        name: &str,
        argv: &[&str],
        env: &[(&str, &str)],
    ) -> Process {
        Process::start(ns, name, argv, env)
    }

    /// Runs a program to its end, within 20 s.
    #[track_caller]
    pub fn run(&self, ns: Ns, argv: &[&str]) -> Output {
        self.run_within(ns, argv, "", COMMAND_LIMIT)
    }

    /// Runs a program to its end with `input` on its standard input; panics when it takes longer.
    #[track_caller]
    pub fn run_within(&self, ns: Ns, argv: &[&str], input: &str, limit: Duration) -> Output {
        run_in(ns, argv, input, limit)
            .unwrap_or_else(|error| panic!("{ns}: {}: {error}", argv.join(" ")))
    }

    /// Runs a program that must succeed; its standard output.
    #[track_caller]
    pub fn exec_ok(&self, ns: Ns, argv: &[&str]) -> String {
        exec_with_input(ns, argv, "")
    }

    /// Loads nft rules in a namespace.
    #[track_caller]
    pub fn nft(&self, ns: Ns, rules: &str) {
        exec_with_input(ns, &["nft", "-f", "-"], rules);
    }

    /// One echo request, one second of patience.
    pub fn ping(&self, ns: Ns, target: &str) -> bool {
        self.run(ns, &["ping", "-n", "-c", "1", "-W", "1", target]).status.success()
    }

    /// A program of the workspace as built: beside the `lab` binary, or in `LAB_BIN_DIR`.
    #[track_caller]
    pub fn program(name: &str) -> PathBuf {
        let dir = env::var_os("LAB_BIN_DIR").map_or_else(sibling_dir, PathBuf::from);
        let program = dir.join(name);
        assert!(
            program.is_file(),
            "{} is not there; build it first: cargo build --workspace",
            program.display()
        );
        program
    }

    /// Where configs, logs and state of this world are.
    pub fn scratch(&self) -> &'static Path {
        Path::new(SCRATCH)
    }

    /// Writes a file into the scratch directory.
    #[track_caller]
    pub fn write_file(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.scratch().join(name);
        write_with_mode(&path, content, mode)
            .unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
        path
    }

    /// Every private and preshared key of this world: none may be found where keys must not be.
    pub fn secrets(&self) -> Vec<String> {
        self.keys.values().flat_map(EndpointKeys::secrets).map(str::to_owned).collect()
    }

    /// The public key under which the client knows an endpoint's server.
    pub fn server_public_key(&self, endpoint: Endpoint) -> &str {
        &self.keys[&endpoint].server.public
    }

    /// Sets a sysctl of one namespace, such as `net.ipv4.conf.all.rp_filter`.
    #[track_caller]
    pub fn sysctl(&self, ns: Ns, name: &str, value: &str) {
        topology::sysctl(ns, &[(name, value)]);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", all_logs(LOG_LINES));
        }
    }
}

/// Runs a program that must succeed; its standard output.
#[track_caller]
pub(crate) fn exec_with_input(ns: Ns, argv: &[&str], input: &str) -> String {
    let output = run_in(ns, argv, input, COMMAND_LIMIT)
        .unwrap_or_else(|error| panic!("{ns}: {}: {error}", argv.join(" ")));
    assert!(
        output.status.success(),
        "{ns}: {}: {}\n{}{}{input}",
        argv.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout),
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn run_in(ns: Ns, argv: &[&str], input: &str, limit: Duration) -> io::Result<Output> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", ns.name()]).args(argv);
    exec::run(command, input.as_bytes(), limit)
}

fn write_with_mode(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    // Created empty with its mode before the content comes: a key is never readable in between.
    let file = fs::File::create(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    fs::write(path, content)
}

/// The echo service, listening on every address of `world`.
fn start_echo() -> Process {
    let lab = World::program("lab");
    let addresses = [ECHO, ECHO_HOLE, ECHO_V6].map(|address| address.to_string());
    let mut argv = vec![lab.to_str().unwrap_or("lab"), "echo"];
    for address in &addresses {
        argv.extend(["--listen", address]);
    }
    let mut process = Process::start(Ns::World, "echo", &argv, &[]);
    await_listening(&mut process, &["udp", "udp6"], ECHO_PORT, addresses.len());
    process
}

impl World {
    /// A resolver in the world, as far as the network sees it.
    #[track_caller]
    pub fn start_names(&self) -> Process {
        let lab = Self::program("lab").display().to_string();
        let line = [&lab, "echo", "--listen", &NAMES.to_string()];
        let mut process = self.spawn(Ns::World, "names", &line);
        await_listening(&mut process, &["udp"], NAMES.port(), 1);
        process
    }
}

/// Waits until so many sockets of the process's namespace are bound to the port.
#[track_caller]
pub(crate) fn await_listening(process: &mut Process, tables: &[&str], port: u16, sockets: usize) {
    let port = format!(":{port:04X} ");
    eventually(COMMAND_LIMIT, &format!("{} listens", process.name().to_owned()), || {
        assert!(process.is_alive(), "{}", process.log());
        let bound: usize = tables
            .iter()
            .filter_map(|table| {
                fs::read_to_string(format!("/proc/{}/net/{table}", process.pid())).ok()
            })
            .map(|table| table.matches(&port).count())
            .sum();
        bound >= sockets
    });
}

fn sibling_dir() -> PathBuf {
    let exe =
        env::current_exe().unwrap_or_else(|error| panic!("the path of this program: {error}"));
    let dir = exe.parent().unwrap_or(Path::new("/"));
    // Test binaries are one level further down.
    if dir.ends_with("deps") { dir.parent().unwrap_or(dir).to_owned() } else { dir.to_owned() }
}
