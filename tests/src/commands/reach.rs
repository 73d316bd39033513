//! `lab reach`: asks services by TCP and UDP, and prints as which address each has seen us.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// A datagram is repeated, for nobody else does it.
const REPEATS: u32 = 3;

#[derive(clap::Args)]
pub struct Arguments {
    /// Services of `lab service`.
    #[arg(long, value_delimiter = ',', required = true)]
    services: Vec<SocketAddr>,
    /// The address to ask from.
    #[arg(long)]
    source: Option<IpAddr>,
    #[arg(long, default_value_t = 1500)]
    timeout_ms: u64,
}

/// An answer that fails is what may be asked for: it is printed, and the exit status stays 0.
pub fn run(arguments: &Arguments) -> io::Result<()> {
    let limit = Duration::from_millis(arguments.timeout_ms);
    let mut heard = BTreeMap::new();
    for &service in &arguments.services {
        let source = arguments.source.unwrap_or(match service {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        });
        let say =
            |answer: io::Result<String>| answer.unwrap_or_else(|error| format!("failed: {error}"));
        heard.insert(format!("tcp {service}"), say(tcp(service, source, limit)));
        heard.insert(format!("udp {service}"), say(udp(service, source, limit)));
    }
    println!("{}", serde_json::to_string(&heard)?);
    Ok(())
}

fn tcp(service: SocketAddr, source: IpAddr, limit: Duration) -> io::Result<String> {
    let socket = Socket::new(Domain::for_address(service), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&service.into(), limit)?;
    socket.set_read_timeout(Some(limit))?;
    let mut answer = String::new();
    std::net::TcpStream::from(socket).read_to_string(&mut answer)?;
    Ok(answer.trim().to_owned())
}

fn udp(service: SocketAddr, source: IpAddr, limit: Duration) -> io::Result<String> {
    let socket = UdpSocket::bind(SocketAddr::new(source, 0))?;
    socket.set_read_timeout(Some(limit / REPEATS))?;
    let mut buffer = [0; 128];
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..REPEATS {
        match socket.send_to(b"who am I", service).and_then(|_| socket.recv(&mut buffer)) {
            Ok(length) => return Ok(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            Err(error) => last = error,
        }
    }
    Err(last)
}
