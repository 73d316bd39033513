//! `lab controller`: a stand-in for a UniFi controller that was just set up. What a client needs to
//! trust it is written to a directory.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use lab::controller::{API_KEY, Controller, used_setting};

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    /// Gets `controller.pem` and `controller.key`, the API key.
    #[arg(long)]
    directory: PathBuf,
}

pub fn run(arguments: &Arguments) -> io::Result<()> {
    let controller = Controller::start(arguments.listen, used_setting())?;
    fs::write(arguments.directory.join("controller.key"), API_KEY)?;
    // Last, and whole: who finds it may ask.
    let pem = arguments.directory.join("controller.pem");
    let unfinished = pem.with_extension("new");
    fs::write(&unfinished, controller.certificate_pem())?;
    fs::rename(unfinished, pem)?;
    loop {
        std::thread::park();
    }
}
