//! `lab service`: answers by TCP and UDP with the address of the client, on every address of both
//! families.

use std::io::{self, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

#[derive(clap::Args)]
pub struct Arguments {
    /// Ports, each for TCP and UDP.
    #[arg(long, value_delimiter = ',', required = true)]
    ports: Vec<u16>,
}

pub fn run(arguments: &Arguments) -> io::Result<()> {
    let mut services = Vec::new();
    for &port in &arguments.ports {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener = TcpListener::bind(any)?;
        let socket = UdpSocket::bind(any)?;
        services.push(thread::spawn(move || connections(&listener)));
        services.push(thread::spawn(move || datagrams(&socket)));
    }
    for service in services {
        service.join().map_err(|_| io::Error::other("a service panicked"))??;
    }
    Ok(())
}

fn connections(listener: &TcpListener) -> io::Result<()> {
    for client in listener.incoming() {
        let client = client?;
        // A client that is cut off is no concern of the next one.
        thread::spawn(move || greet(client));
    }
    Ok(())
}

fn greet(mut client: TcpStream) -> io::Result<()> {
    let peer = client.peer_addr()?.ip().to_canonical();
    client.write_all(format!("{peer}\n").as_bytes())
}

fn datagrams(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = [0; 2048];
    loop {
        let (_, peer) = socket.recv_from(&mut buffer)?;
        let answer = peer.ip().to_canonical().to_string();
        // The way back may be cut: that is what the lab is for.
        let _ = socket.send_to(answer.as_bytes(), peer);
    }
}
