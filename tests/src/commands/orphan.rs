//! `lab orphan`: a TCP connection whose program has ended while data is still to be sent. No process
//! owns its packets any more.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A buffer into which nothing goes for so long is full.
const FULL: Duration = Duration::from_millis(300);
/// More than any send buffer holds.
const MOST: usize = 64 * 1024 * 1024;
const PIECE: [u8; 16 * 1024] = [0x55; 16 * 1024];

#[derive(clap::Args)]
pub struct Arguments {
    /// A service that does not read.
    #[arg(long)]
    to: SocketAddr,
}

/// Fills the connection until nothing more goes in, and ends.
pub fn run(arguments: &Arguments) -> io::Result<()> {
    let mut stream = TcpStream::connect(arguments.to)?;
    stream.set_write_timeout(Some(FULL))?;
    let mut written = 0;
    while written < MOST {
        match stream.write(&PIECE) {
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                println!("{written} bytes are left to the kernel");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("the service reads"))
}
