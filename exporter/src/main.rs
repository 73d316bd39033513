//! `exporter`: observes the egress paths of this host, classifies them, publishes `/metrics`.
//! Decides nothing, changes nothing.

mod collect;
mod current;
mod cycles;
mod exemption;
mod histograms;
mod large;
mod outage;
mod page;
mod scrape;
mod standby;
mod totals;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory as _, Parser};
use egress::error::chain;
use egress::observe::Kernel;
use egress::state::Store;
use web::{Gate, LogFlags, Refusal, Site, Supervisor, WebFlags};

use crate::collect::Collect;
use crate::current::Current;
use crate::cycles::Cycles;
use crate::exemption::Exemption;

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

    /// Run one cycle, print the metrics on standard output and end.
    #[arg(long)]
    once: bool,

    /// With --once: put the metrics into this file instead, whole, for a textfile collector.
    #[arg(long = "once.file", value_name = "FILE.prom", requires = "once")]
    once_file: Option<PathBuf>,

    /// Write the manual page and completions into a directory, for packages, and end.
    #[arg(long, value_name = "DIR", hide = true)]
    manual: Option<PathBuf>,

    #[command(flatten)]
    web: WebFlags,

    #[command(flatten)]
    log: LogFlags,
}

const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9061);

/// How long a collector may take where nobody waits for the page.
const ONCE: Duration = Duration::from_secs(5);

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
    if let Some(directory) = &flags.manual {
        return match manual::write(Flags::command(), directory) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("exporter: --manual {}: {error}", directory.display());
                REFUSED.into()
            }
        };
    }
    flags.log.init();
    let store = Store::new(&flags.state);
    let current = match Current::load(flags.config.clone(), &store) {
        Ok(current) => Arc::new(current),
        Err(error) => {
            eprintln!("exporter: {}", chain(error));
            return EX_CONFIG.into();
        }
    };
    let kernel = Arc::default();
    if flags.once {
        let (exemption, cycles) =
            (Exemption::once(&current), Cycles::once(&current, &store, &kernel));
        let collect = Collect::new((&current, &store, &kernel), cycles, exemption);
        return once(&collect.page(ONCE), flags.once_file.as_deref());
    }
    run(&flags, &current, &store, &kernel)
}

/// Says the page, or puts it where it was asked to.
fn once(page: &str, file: Option<&Path>) -> ExitCode {
    let Some(file) = file else {
        print!("{page}");
        return ExitCode::SUCCESS;
    };
    match egress::file::replace(file, page.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let file = file.display();
            eprintln!(
                "exporter: --once.file {file}: {error}: see that its directory can be written"
            );
            REFUSED.into()
        }
    }
}

#[tokio::main]
async fn run(
    flags: &Flags,
    current: &Arc<Current>,
    store: &Store,
    kernel: &Arc<Kernel>,
) -> ExitCode {
    // It says nothing that hurts, as other exporters: who wants it kept says so in the file.
    let live = web::Live::load(flags.web.config_file.clone(), Box::new(|_| Ok(())));
    let gate = match live.and_then(|live| Gate::new(live, None)) {
        Ok(gate) => gate,
        Err(why) => {
            eprintln!("exporter: {why}");
            return EX_USAGE.into();
        }
    };
    let listeners = match web::listen(&flags.web, DEFAULT_ADDRESS) {
        Ok(listeners) => listeners,
        Err(error) => {
            eprintln!("exporter: {}", chain(error));
            return REFUSED.into();
        }
    };
    let supervisor = Supervisor::of_environment();
    let cycles = Cycles::start(current, store, kernel, &supervisor);
    for listener in &listeners {
        let address = listener.local_addr().map(|address| address.to_string());
        let address = address.unwrap_or_default();
        tracing::info!(address, paths = current.get().paths.len(), "listening");
    }
    let scrapes = Arc::new(scrape::Scrapes {
        collect: Arc::new(Collect::new(
            (current, store, kernel),
            cycles,
            Exemption::start(current),
        )),
        telemetry_path: flags.web.telemetry_path.clone(),
    });
    let handler = move |request| {
        let scrapes = Arc::clone(&scrapes);
        async move { scrapes.answer(&request).await }
    };
    let refused = |refusal: Refusal, path: &str| {
        tracing::debug!(reason = refusal.word(), path, "turned away");
    };
    supervisor.expect_runtime();
    supervisor.ready();
    web::serve(listeners, Site::new(gate, handler, refused)).await;
    tracing::info!("ended");
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Flags;

    #[test]
    fn every_flag_is_in_the_manual_page_and_the_completions() {
        let directory = tempfile::tempdir().expect("a directory");
        let directory = directory.path();
        manual::write(Flags::command(), directory).expect("written");
        let read = |file: &str| std::fs::read_to_string(directory.join(file)).expect(file);
        // In a page a hyphen is written with a backslash.
        let page = read("man8/exporter.8").replace('\\', "");
        let bash = read("completions/exporter.bash");
        let command = Flags::command();
        let shown = command.get_arguments().filter(|flag| !flag.is_hide_set());
        for flag in shown.filter_map(|flag| flag.get_long()) {
            let flag = format!("--{flag}");
            assert!(page.contains(&flag) && bash.contains(&flag), "{flag}");
        }
    }
}
