//! The program of the lab: brings a world up for a demonstration, and is what the world's own
//! echo service, workload, leaks and HTTP requests are made of.

mod commands;
mod demo;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "lab", about = "A world of network namespaces for vpn-egress")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build a world, run a command in the host under test (or wait), and take it all down.
    Up(commands::up::Arguments),
    /// Show the whole story, live, in about a minute.
    Demo(demo::Arguments),
    /// Answer every UDP datagram with its first word and the address it came from.
    Echo(commands::echo::Arguments),
    /// Send numbered datagrams and write down each answer as a line of JSON.
    Traffic(commands::traffic::Arguments),
    /// Send much, at a steady rate.
    Volume(commands::volume::Arguments),
    /// Send packets by a device, past the tunnel, and say what became of them.
    Leak(commands::leak::Arguments),
    /// Send kinds of traffic of the leak matrix, all at once, until standard input ends.
    Flood(commands::flood::Arguments),
    /// Take TCP connections, and read what they send.
    Sink(commands::sink::Arguments),
    /// Send what must pass, until standard input ends, and say what became of it.
    Permitted(commands::permitted::Arguments),
    /// Send a packet of every kind to every target by every way out.
    Volley(commands::volley::Arguments),
    /// Answer by TCP and UDP with the address of the client.
    Service(commands::service::Arguments),
    /// Ask services by TCP and UDP as which address they see us.
    Reach(commands::reach::Arguments),
    /// Open a connection, leave data in it, and end: the kernel goes on sending it.
    Orphan(commands::orphan::Arguments),
    /// Open sockets as root, become another user, and send by them.
    SteppingOut(commands::stepping_out::Arguments),
    /// Send one packet, exactly as asked for.
    Shot(commands::shot::Arguments),
    /// HTTP GET: the status on the first line, the body after it.
    Get(commands::http::GetArguments),
    /// HTTP POST of what is on standard input, as JSON.
    Post(commands::http::PostArguments),
    /// Pass datagrams on to an upstream, as a resolver does.
    Forwarder(commands::forwarder::Arguments),
    /// Hold a TCP connection on which both ends talk.
    Session(commands::session::Arguments),
    /// Take a server's places and memory, and say how good notifications fare.
    Crowd(commands::crowd::Arguments),
    /// Answer every DNS query.
    Resolver(commands::resolver::Arguments),
    /// Connect a Unix socket to a TCP address.
    Relay(commands::relay::Arguments),
    /// Send datagrams without end.
    Load(commands::load::Arguments),
    /// Listen, and become a program that is handed the socket.
    Handover(commands::handover::Arguments),
    /// Be a UniFi controller, as far as its IPS setting goes.
    Controller(commands::controller::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Up(arguments) => return commands::up::run(&arguments),
        Command::Demo(arguments) => return demo::run(&arguments),
        Command::Echo(arguments) => commands::echo::run(&arguments),
        Command::Traffic(arguments) => commands::traffic::run(&arguments),
        Command::Leak(arguments) => {
            commands::leak::run(&arguments);
            Ok(())
        }
        Command::Flood(arguments) => commands::flood::run(&arguments),
        Command::Sink(arguments) => commands::sink::run(&arguments),
        Command::Permitted(arguments) => commands::permitted::run(&arguments),
        Command::Volley(arguments) => commands::volley::run(&arguments),
        Command::Service(arguments) => commands::service::run(&arguments),
        Command::Reach(arguments) => commands::reach::run(&arguments),
        Command::Orphan(arguments) => commands::orphan::run(&arguments),
        Command::SteppingOut(arguments) => commands::stepping_out::run(&arguments),
        Command::Shot(arguments) => commands::shot::run(&arguments),
        Command::Volume(arguments) => commands::volume::run(&arguments),
        Command::Get(arguments) => commands::http::get(&arguments),
        Command::Post(arguments) => commands::http::post(&arguments),
        Command::Forwarder(arguments) => commands::forwarder::run(&arguments),
        Command::Session(arguments) => commands::session::run(&arguments),
        Command::Crowd(arguments) => commands::crowd::run(&arguments),
        Command::Resolver(arguments) => commands::resolver::run(&arguments),
        Command::Relay(arguments) => commands::relay::run(&arguments),
        Command::Load(arguments) => commands::load::run(&arguments),
        Command::Handover(arguments) => commands::handover::run(&arguments),
        Command::Controller(arguments) => commands::controller::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::FAILURE
        }
    }
}
