//! `lab echo`: the internet, as far as the lab needs it.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::thread;

#[derive(clap::Args)]
pub struct Arguments {
    /// Answers come from the address that was asked, so each is listed by itself.
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
}

pub fn run(arguments: &Arguments) -> io::Result<()> {
    let mut services = Vec::new();
    for address in &arguments.listen {
        let socket = UdpSocket::bind(address)?;
        services.push(thread::spawn(move || serve(&socket)));
    }
    for service in services {
        service.join().map_err(|_| io::Error::other("a service panicked"))??;
    }
    Ok(())
}

fn serve(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = [0; 2048];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer)?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        let word = text.split_whitespace().next().unwrap_or("-");
        let answer = format!("{word} {}", peer.ip());
        // The way back may be cut: that is what the lab is for.
        let _ = socket.send_to(answer.as_bytes(), peer);
    }
}
