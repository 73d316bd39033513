//! `exporter`: observes the egress paths of this host, classifies them, publishes `/metrics`.
//! Decides nothing, changes nothing.

mod collect;
mod current;
mod cycles;
mod page;
mod scrape;
mod standby;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use egress::observe::chain;
use egress::state::Store;
use tokio::net::TcpListener;
use web::{LogFlags, WebFlags, flags, server};

use crate::current::Current;
use crate::cycles::Cycles;

/// Observes the VPN egress paths of this host and publishes Prometheus metrics.
#[derive(Debug, Parser)]
#[command(name = "exporter", version)]
struct Flags {
    /// The configuration that both programs share.
    #[arg(long = "config.file", value_name = "FILE", default_value = egress::config::DEFAULT_FILE)]
    config: PathBuf,

    /// Where the actuator keeps the state of each path.
    #[arg(
        long = "state.directory",
        value_name = "DIR",
        default_value = egress::state::DEFAULT_DIRECTORY
    )]
    state: PathBuf,

    /// Address to listen on. This version speaks neither TLS nor passwords, so it stays on loopback.
    #[arg(long = "web.listen-address", value_name = "ADDRESS", default_value = "127.0.0.1:9061")]
    listen: SocketAddr,

    /// Run one cycle, print the metrics on standard output and end.
    #[arg(long)]
    once: bool,

    #[command(flatten)]
    web: WebFlags,

    #[command(flatten)]
    log: LogFlags,
}

/// As in sysexits(3).
const EX_USAGE: u8 = 64;
/// The same as of `actuator`: refused.
const REFUSED: u8 = 3;
const EX_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { EX_USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    flags.log.init();
    let store = Store::new(&flags.state);
    let current = match Current::load(flags.config.clone(), &store) {
        Ok(current) => Arc::new(current),
        Err(error) => {
            eprintln!("exporter: {}", chain(error));
            return EX_CONFIG.into();
        }
    };
    if flags.once {
        print!("{}", collect::page(&current, &store, &Cycles::once(&current, &store)));
        return ExitCode::SUCCESS;
    }
    if !flags::is_loopback(&flags.listen) {
        eprintln!(
            "exporter: --web.listen-address {}: refused beyond loopback, because this version speaks \
             neither TLS nor passwords; listen on 127.0.0.1 and put a proxy in front",
            flags.listen
        );
        return EX_USAGE.into();
    }
    match run(&flags, &current, &store) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("exporter: {} could not be served: {error}", flags.listen);
            REFUSED.into()
        }
    }
}

#[tokio::main]
async fn run(flags: &Flags, current: &Arc<Current>, store: &Store) -> std::io::Result<()> {
    let listener = TcpListener::bind(flags.listen).await?;
    let cycles = Cycles::start(current, store);
    tracing::info!(address = %flags.listen, paths = current.get().paths.len(), "listening");
    let scrapes = Arc::new(scrape::Scrapes {
        current: Arc::clone(current),
        store: store.clone(),
        cycles,
        telemetry_path: flags.web.telemetry_path.clone(),
    });
    let handler = move |request| {
        let scrapes = Arc::clone(&scrapes);
        async move { scrapes.answer(&request).await }
    };
    let listener = server::Listener::Tcp(listener);
    web::serve(listener, Arc::new(handler), server::terminated()).await;
    tracing::info!("ended");
    Ok(())
}
