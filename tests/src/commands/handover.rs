//! `lab handover`: listens, and becomes a program that is handed the socket, as systemd does it for a
//! `.socket` unit (`sd_listen_fds(3)`).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(trailing_var_arg = true, required = true)]
    program: Vec<String>,
}

/// Where the first socket is expected.
const FIRST: i32 = 3;

pub fn run(arguments: &Arguments) -> io::Result<()> {
    let listener = TcpListener::bind(arguments.listen)?;
    if listener.as_raw_fd() != FIRST {
        return Err(io::Error::other("descriptor 3 is taken"));
    }
    // It is to outlive what this process is now.
    fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let mut program = Command::new(&arguments.program[0]);
    program.args(&arguments.program[1..]).env("LISTEN_FDS", "1");
    Err(program.env("LISTEN_PID", std::process::id().to_string()).exec())
}
