//! HTTP/1.1 with limits on time, size and number. One task per connection; drains on shutdown.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

pub type Request = hyper::Request<Incoming>;
pub type Answer = Response<Full<Bytes>>;

/// Two Prometheis, two Alertmanagers, some people, and those who mean no good; more have to wait.
const CONNECTIONS: usize = 1024;

/// A client that has not sent its headers by then is no client of ours.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection is closed after this, whatever it does: one that sends or reads nothing must not
/// hold a place that an alert needs. Clients that keep connections open make a new one.
const LIFETIME: Duration = Duration::from_secs(15);

/// How long requests under way may take to end after a shutdown was asked for.
const DRAIN: Duration = Duration::from_secs(5);

/// A plain answer.
pub fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// Where connections come from.
pub enum Listener {
    Tcp(TcpListener),
    /// Only for peers of this user id.
    Unix {
        listener: UnixListener,
        only: u32,
    },
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Listener {
    async fn accept(&self) -> std::io::Result<Option<Box<dyn Stream>>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(Some(Box::new(stream)))
            }
            Self::Unix { listener, only } => {
                let (stream, _) = listener.accept().await?;
                let peer = stream.peer_cred()?;
                if peer.uid() == *only {
                    return Ok(Some(Box::new(stream)));
                }
                tracing::warn!(uid = peer.uid(), pid = peer.pid(), "refused on the socket");
                Ok(None)
            }
        }
    }
}

/// Serves until `shutdown`, then lets requests under way end.
pub async fn serve<H, F>(listener: Listener, handler: Arc<H>, shutdown: impl Future<Output = ()>)
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let graceful = GracefulShutdown::new();
    let lifetime = match listener {
        Listener::Tcp(_) => LIFETIME,
        // Root's own request takes as long as it takes; who asks has a limit of its own.
        Listener::Unix { .. } => Duration::MAX,
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let accepted = async {
            let place = place.await;
            (listener.accept().await, place)
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
            match tokio::time::timeout(lifetime, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a connection ended early"),
                Err(_) => tracing::debug!("a connection was closed: it has had its time"),
            }
            std::mem::drop(place);
        });
    }
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests under way were cut off");
    }
}

/// Ends with SIGTERM or SIGINT.
pub async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::warn!("signals cannot be caught; end the program with SIGKILL");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
