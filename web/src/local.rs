//! HTTP over a Unix socket, for one user of this host: no crowd, no credentials but the kernel's.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::server::{Answer, Request};

/// One person at a time, and some scripts.
const CONNECTIONS: usize = 64;

const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long requests under way may take to end after a shutdown was asked for.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves peers of the user id `only` until `shutdown`. A request takes as long as it takes; who
/// asks has a limit of its own.
pub async fn serve_local<H, F>(
    listener: UnixListener,
    only: u32,
    handler: H,
    shutdown: impl Future<Output = ()>,
) where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let handler = Arc::new(handler);
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (accept(&listener, only).await, place)
        };
        let (stream, place) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut shutdown => break,
        };
        let stream = match stream {
            Ok(Some(stream)) => stream,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                // Out of descriptors, most likely: without a pause this loop would spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let handler = Arc::clone(&handler);
        let service = service_fn(move |request| {
            let answer = handler(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests under way were cut off");
    }
}

async fn accept(listener: &UnixListener, only: u32) -> std::io::Result<Option<UnixStream>> {
    let (stream, _) = listener.accept().await?;
    let peer = stream.peer_cred()?;
    if peer.uid() == only {
        return Ok(Some(stream));
    }
    tracing::warn!(uid = peer.uid(), pid = peer.pid(), "refused on the socket");
    Ok(None)
}
