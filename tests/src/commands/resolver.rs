//! `lab resolver`: answers every DNS query, and that there is no such name.

use std::io;
use std::net::{SocketAddr, UdpSocket};

/// Of the flags: a response, and its code.
const RESPONSE: u8 = 0x80;
const NO_SUCH_NAME: u8 = 3;

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
}

pub fn run(arguments: &Arguments) -> io::Result<()> {
    let socket = UdpSocket::bind(arguments.listen)?;
    let mut buffer = [0; 512];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer)?;
        if let [_, _, first, second, ..] = &mut buffer[..length] {
            *first |= RESPONSE;
            *second = NO_SUCH_NAME;
            // The way back may be cut: that is what the lab is for.
            let _ = socket.send_to(&buffer[..length], peer);
        }
    }
}
