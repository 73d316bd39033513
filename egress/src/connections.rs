//! The TCP connections of this host, and by which of them whoever runs this process is here.
//!
//! Read from `/proc`; says what is, and never whether it should be.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use serde::{Deserialize, Serialize};

/// The states of `include/net/tcp_states.h` that count here.
const ESTABLISHED: &str = "01";
const LISTEN: &str = "0A";

/// What a session by SSH hangs on: OpenSSH before and since 9.8, Dropbear.
const SSH_SERVERS: [&str; 3] = ["sshd", "sshd-session", "dropbear"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Connection {
    pub local: SocketAddr,
    pub peer: SocketAddr,
}

/// Which end opened it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenedBy {
    ThisHost,
    Peer,
}

/// An established connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Established {
    pub connection: Connection,
    pub opened_by: OpenedBy,
    inode: u64,
}

/// Every established connection of this network namespace.
pub fn established() -> io::Result<Vec<Established>> {
    let mut found = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match fs::read_to_string(table) {
            Ok(table) => found.extend(parse(&table)),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(mark_opened(found))
}

/// A line of the kernel's table that counts: established or listening.
struct Line {
    connection: Connection,
    listens: bool,
    inode: u64,
}

fn parse(table: &str) -> Vec<Line> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let state = *fields.get(3)?;
        Some(Line {
            connection: Connection {
                local: socket_address(fields.get(1)?)?,
                peer: socket_address(fields.get(2)?)?,
            },
            listens: state == LISTEN,
            inode: fields.get(9)?.parse().ok()?,
        })
        .filter(|_| [ESTABLISHED, LISTEN].contains(&state))
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// A port that somebody listens on was there before the connection: the peer opened it.
fn mark_opened(lines: Vec<Line>) -> Vec<Established> {
    let listening: Vec<u16> =
        lines.iter().filter(|line| line.listens).map(|line| line.connection.local.port()).collect();
    let established = lines.into_iter().filter(|line| !line.listens).map(|line| {
        let served = listening.contains(&line.connection.local.port());
        let opened_by = if served { OpenedBy::Peer } else { OpenedBy::ThisHost };
        Established { connection: line.connection, opened_by, inode: line.inode }
    });
    established.collect()
}

/// `0200000A:0016`: the kernel prints each 32 bits of an address as a number of its own byte order.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::new();
    for at in (0..address.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    // A server for both families sees IPv4 as IPv6.
    Some(SocketAddr::new(address.to_canonical(), port))
}

/// The programs that hold these connections, where that can be seen.
pub fn programs(connections: &[Established]) -> BTreeMap<Connection, String> {
    let mut found = BTreeMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let inodes = sockets(pid);
        for held in connections.iter().filter(|one| inodes.contains(&one.inode)) {
            if let Some((program, _)) = name_and_parent(pid) {
                found.insert(held.connection, program);
            }
        }
    }
    found
}

/// By which connections the person is here who runs this process: what SSH put into the
/// environment, of this process or of one above it, because `sudo` drops it; and what an SSH server
/// above it holds. A `tmux`, `screen` or `mosh` that outlives its session hides the way in.
pub fn own() -> Vec<Connection> {
    let here = established().unwrap_or_default();
    let mut own = Vec::new();
    let mut pid = std::process::id();
    while let Some((program, parent)) = name_and_parent(pid) {
        own.extend(told_by_ssh(pid));
        if is_ssh_server(&program) {
            let inodes = sockets(pid);
            let held = here.iter().filter(|one| inodes.contains(&one.inode));
            own.extend(held.map(|one| one.connection));
        }
        if parent == 0 {
            break;
        }
        pid = parent;
    }
    own.sort();
    own.dedup();
    own
}

/// Whether sessions by SSH hang on a program of this name.
pub fn is_ssh_server(program: &str) -> bool {
    SSH_SERVERS.contains(&program)
}

/// `SSH_CONNECTION` of a process: peer, its port, this host, its port.
fn told_by_ssh(pid: u32) -> Option<Connection> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = environment
        .split(|byte| *byte == 0)
        .find_map(|one| one.strip_prefix(b"SSH_CONNECTION="))?;
    let fields: Vec<&str> = std::str::from_utf8(value).ok()?.split(' ').collect();
    let [peer, peer_port, local, local_port] = fields.as_slice() else { return None };
    let at = |address: &str, port: &str| {
        let address: IpAddr = address.parse().ok()?;
        Some(SocketAddr::new(address.to_canonical(), port.parse().ok()?))
    };
    Some(Connection { local: at(local, local_port)?, peer: at(peer, peer_port)? })
}

fn name_and_parent(pid: u32) -> Option<(String, u32)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    Some((field("Name:")?.to_owned(), field("PPid:")?.parse().ok()?))
}

/// The inodes of a process's sockets.
fn sockets(pid: u32) -> Vec<u64> {
    let inode = |file: &Path| {
        let target = fs::read_link(file).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.filter_map(|file| inode(&file.path())).collect()
}

/// The device that each address of this host is on.
pub fn devices() -> io::Result<BTreeMap<IpAddr, String>> {
    let on_device = getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|at| IpAddr::from(at.ip()));
        let address = v4.or_else(|| address.as_sockaddr_in6().map(|at| IpAddr::from(at.ip())))?;
        Some((address, interface.interface_name))
    });
    Ok(on_device.collect())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernels_table_is_understood() {
        let listener = TcpListener::bind("[::]:0").expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        let client = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        let (local, peer) = (client.local_addr(), client.peer_addr());
        let (local, peer) = (local.expect("an address"), peer.expect("an address"));
        let all = established().expect("the tables");
        let find = |wanted: Connection| all.iter().find(|one| one.connection == wanted);
        // The server's end is listed as IPv6, for it serves both.
        let served = find(Connection { local: peer, peer: local }).expect("the server's end");
        assert_eq!(served.opened_by, OpenedBy::Peer);
        let opened = find(Connection { local, peer }).expect("the client's end");
        assert_eq!(opened.opened_by, OpenedBy::ThisHost);
        let program = &programs(&all)[&opened.connection];
        assert!(program.starts_with("egress"), "{program}");
    }

    #[test]
    fn a_strange_table_gives_nothing() {
        for table in ["", "sl local rem st\n", "head\n 0: 0200000A:0016 zz 01\n", "head\n:::: 01"] {
            assert!(parse(table).is_empty(), "{table}");
        }
    }
}
