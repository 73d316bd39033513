//! `lab session`: a TCP connection on which both ends say a number every moment, as a shell over
//! SSH would. The one who connects prints what it hears. Or, as an SSH server does, the one who
//! listens runs a program for each connection, and says what that says.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// How long a connection may take to be made; one that is refused by silence is given up.
const CONNECT: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long, conflicts_with = "connect", required_unless_present = "connect")]
    listen: Option<SocketAddr>,
    /// Say what this program says, instead of numbers.
    #[arg(long)]
    run: Option<PathBuf>,
    #[arg(long)]
    connect: Option<SocketAddr>,
    /// The address to connect from.
    #[arg(long)]
    source: Option<IpAddr>,
    #[arg(long, default_value_t = 100)]
    interval_ms: u64,
    /// Say nothing for so long, after the first number.
    #[arg(long, default_value_t = 0)]
    silent_ms: u64,
}

pub fn run(arguments: &Arguments) -> io::Result<()> {
    let pace = Pace {
        interval: Duration::from_millis(arguments.interval_ms),
        silent: Duration::from_millis(arguments.silent_ms),
    };
    if let Some(listen) = arguments.listen {
        for client in TcpListener::bind(listen)?.incoming() {
            let client = client?;
            let hears = client.try_clone()?;
            let hears = thread::spawn(move || listen_to(hears, &mut io::sink()));
            // A session that is cut is no concern of the next one.
            match arguments.run.clone() {
                None => drop(thread::spawn(move || speak(client, pace))),
                Some(program) => drop(thread::spawn(move || {
                    run_for(client, &program)?;
                    // Closed with something unheard, it would be reset, and what was said lost.
                    hears.join().map_err(|_| io::Error::other("a listener panicked"))?
                })),
            }
        }
    }
    let Some(target) = arguments.connect else { return Ok(()) };
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    if let Some(source) = arguments.source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.connect_timeout(&target.into(), CONNECT)?;
    let stream = TcpStream::from(socket);
    let speaks = stream.try_clone()?;
    thread::spawn(move || speak(speaks, pace));
    listen_to(stream, &mut io::stdout())?;
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Held open by this process while the program runs, and not by the program itself.
fn run_for(mut client: TcpStream, program: &Path) -> io::Result<()> {
    let output = Command::new(program).stdin(Stdio::null()).output()?;
    for said in [output.stdout, output.stderr] {
        // A session that was cut hears nothing.
        let _ = client.write_all(&said);
    }
    let _ = client.write_all(format!("exit {:?}\n", output.status.code()).as_bytes());
    client.shutdown(Shutdown::Write)
}

/// How often one end says a number.
#[derive(Clone, Copy)]
struct Pace {
    interval: Duration,
    silent: Duration,
}

fn speak(mut stream: TcpStream, pace: Pace) -> io::Result<()> {
    for number in 0_u64.. {
        stream.write_all(format!("{number}\n").as_bytes())?;
        thread::sleep(if number == 0 { pace.silent.max(pace.interval) } else { pace.interval });
    }
    Ok(())
}

fn listen_to(stream: TcpStream, to: &mut dyn Write) -> io::Result<()> {
    for line in BufReader::new(stream).lines() {
        writeln!(to, "{}", line?)?;
        to.flush()?;
    }
    Ok(())
}
