//! `lab stepping-out`: sockets that root has opened before it became another user, as a service does
//! that drops its privileges or is handed its sockets.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use lab::addresses::EGRESS;
use nix::unistd::{Gid, Uid, setgid, setuid};
use serde_json::json;
use socket2::{Domain, Socket, Type};

/// The kernel repeats its first report within a second.
const REPORTED: Duration = Duration::from_millis(1500);

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    uid: u32,
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 3)]
    count: u32,
    /// Join the group instead of sending to it: the kernel reports that by itself.
    #[arg(long)]
    join: bool,
}

pub fn run(arguments: &Arguments) -> io::Result<()> {
    let udp = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    udp.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
    let tcp = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    tcp.set_nonblocking(true)?;
    setgid(Gid::from_raw(arguments.uid))?;
    setuid(Uid::from_raw(arguments.uid))?;
    if let (true, SocketAddr::V4(group)) = (arguments.join, arguments.to) {
        udp.join_multicast_v4(group.ip(), &EGRESS)?;
        thread::sleep(REPORTED);
        return Ok(());
    }
    // Refused or not: what counts is what the router sees.
    let sent = (0..arguments.count).filter(|_| udp.send_to(b"out", &arguments.to.into()).is_ok());
    let sent = sent.count();
    let _ = tcp.connect(&arguments.to.into());
    println!("{}", json!({"sent": sent}));
    Ok(())
}
