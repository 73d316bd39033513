//! The daemon: the webhook, the root-only socket, a health cycle per path, and its care each second.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use egress::events;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use web::{Gate, Site, Supervisor, server};

use crate::control;
use crate::engine::{Engine, Order, Shared, Wanted};
use crate::vital;
use crate::webhook::{self, Webhook};

/// How long rules that were removed may stay removed, and a new uplink uncovered, where the event of
/// it is missed.
const CARE: Duration = Duration::from_secs(1);

/// Between two looks at least, however many events there are.
const REST: Duration = Duration::from_millis(50);

/// Between two looks where each finds the rules changed again: whoever fights for them is not raced,
/// and they are whole within a second all the same.
const LONGEST_REST: Duration = Duration::from_millis(500);

pub struct Options {
    /// Open already, and served once the first look has the engine.
    pub listeners: Vec<TcpListener>,
    pub gate: Gate,
    pub telemetry_path: String,
    pub socket: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("socket {path} cannot be made")]
    Socket {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Threads that read and answer. More would serve nobody sooner, and each is given a heap of its own,
/// which keeps what was once needed.
const SERVING: usize = 2;

/// Threads for what takes its time: an alert, a page, a password, a large body, a file, and people.
const WORKING: usize = 16;

pub fn runtime() -> std::io::Result<Runtime> {
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    threads.worker_threads(SERVING).max_blocking_threads(WORKING).enable_all().build()
}

pub fn serve(engine: Engine, options: Options, runtime: &Runtime) -> Result<(), ServeError> {
    for path in &engine.config().paths {
        let endpoints: Vec<String> =
            path.endpoints.iter().map(|endpoint| endpoint.name.to_string()).collect();
        engine.metrics().prepare(path.name.as_str(), &endpoints);
    }
    let shared = Shared::new(engine);
    shared.board().serves();
    let supervisor = Supervisor::of_environment();
    let (took_turn, first_turn) = sync_channel(0);
    let (of_look, supervisor_of_look) = (shared.clone(), supervisor.clone());
    vital::once("first look", move || first_look(&of_look, &supervisor_of_look, &took_turn));
    // Whoever asks for an act from now on waits for the first look, or acts without the engine.
    first_turn.recv().ok();
    runtime.block_on(run(shared, options, &supervisor))
}

/// Brings lock and latch into force. Pages and alerts are answered meanwhile, however long an `nft`
/// takes; nobody is told that the daemon is ready before it is done.
fn first_look(shared: &Shared, supervisor: &Supervisor, took_turn: &SyncSender<()>) {
    {
        let mut engine = shared.lock("the first look");
        took_turn.send(()).ok();
        engine.stand_guard();
        engine.begin();
    }
    // The page for those who ask while the kernel cannot be read.
    shared.board().status(Wanted::ByMetrics);
    start_care(shared, supervisor);
    start_cycles(shared, supervisor);
    supervisor.ready();
}

fn start_care(shared: &Shared, supervisor: &Supervisor) {
    let shared = shared.clone();
    let events = events::listen();
    if let Err(error) = &events {
        tracing::error!(%error, "events cannot be heard: looking every second only");
    }
    let mut pause = REST;
    vital::rounds("care", supervisor, move |_| {
        let heard = match events.as_ref().map(|events| events.recv_timeout(CARE)) {
            Ok(Ok(()) | Err(RecvTimeoutError::Timeout)) => true,
            Ok(Err(RecvTimeoutError::Disconnected)) | Err(_) => false,
        };
        pause = match shared.keep() {
            Order::Found if heard => REST,
            // Nothing wakes us: the pause is the beat.
            Order::Found => CARE,
            // Our own repair is an event too; and who undoes it each time is not raced.
            Order::Disturbed => (pause * 2).min(LONGEST_REST),
        };
        thread::sleep(pause);
    });
}

/// A cycle holds no lock: an alert must not wait for a probe's timeout.
fn start_cycles(shared: &Shared, supervisor: &Supervisor) {
    let shared = shared.clone();
    vital::rounds("cycle", supervisor, move |beat| {
        let started = Instant::now();
        let board = shared.board();
        let view = board.view();
        let paths = &view.config.paths;
        let interval = paths.iter().map(|path| path.health.interval).min();
        board.cycle(paths);
        beat.rest(interval.unwrap_or(CARE).saturating_sub(started.elapsed()));
    });
}

async fn run(shared: Shared, options: Options, supervisor: &Supervisor) -> Result<(), ServeError> {
    let socket = bind_socket(&options.socket)
        .map_err(|source| ServeError::Socket { path: options.socket.clone(), source })?;
    for listener in &options.listeners {
        let address = listener.local_addr().map(|address| address.to_string());
        let address = address.unwrap_or_default();
        tracing::info!(address, socket = %options.socket.display(), "listening");
    }

    let metrics = shared.board().metrics();
    let webhook = Arc::new(Webhook::new(shared.clone(), options.telemetry_path));
    let alerts = move |request| {
        let webhook = Arc::clone(&webhook);
        async move { webhook.answer(request).await }
    };
    let refused = move |refusal, path: &str| webhook::refused(&metrics, refusal, path);
    let requests = move |request| control::serve_request(shared.clone(), request);
    let only = nix::unistd::geteuid().as_raw();
    supervisor.expect_runtime();
    tokio::join!(
        web::serve(options.listeners, Site::new(options.gate, alerts, refused)),
        web::serve_local(socket, only, requests, server::terminated()),
    );
    // Nothing is undone on the way out: the lock stays in the kernel (S1).
    tracing::info!("ended, the lock stays");
    Ok(())
}

/// The writer's lock is held, so a socket that is there is a dead daemon's.
fn bind_socket(path: &Path) -> std::io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
