//! `lab sink`: takes every connection, and reads what comes.

use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    /// Do not read for so long: what the client sends waits in its own buffer.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
}

pub fn run(arguments: &Arguments) -> io::Result<()> {
    for stream in TcpListener::bind(arguments.listen)?.incoming() {
        // A client that is gone before it is taken is no concern of the others.
        let Ok(mut stream) = stream else { continue };
        let delay = Duration::from_millis(arguments.delay_ms);
        thread::spawn(move || {
            thread::sleep(delay);
            let mut buffer = [0; 16 * 1024];
            while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
        });
    }
    Ok(())
}
