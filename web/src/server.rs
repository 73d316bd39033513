//! HTTP/1.1 for anybody who can connect: TLS and credentials as configured, limits on time, size and
//! number. One task per connection; drains on shutdown.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{Error as TlsError, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::crowd::{Crowd, Place};
use crate::gate::{Admitted, Gate, Refusal};
use crate::greeting::Greeting;
use crate::live::Live;

pub type Request = hyper::Request<Incoming>;
pub type Answer = Response<Full<Bytes>>;

/// A client that has not finished the TLS handshake, or sent its headers, by then is no client of
/// ours. An idle connection is closed after as long.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// All headers of a request, and what is read ahead: hyper's own bound is 400 KiB per connection.
const HEADERS: usize = 16 * 1024;

/// Longer addresses are nobody's.
const ADDRESS: usize = 4 * 1024;

/// A connection takes no further request after this: the next one goes by the configuration as it
/// is then. Clients that keep connections open make a new one.
const LIFETIME: Duration = Duration::from_secs(30);

/// How long requests under way may take to end after a shutdown was asked for.
const DRAIN: Duration = Duration::from_secs(5);

/// A plain answer.
pub fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// What is served, to whom.
pub struct Site<H, R> {
    /// Answers who was let in.
    pub handler: H,
    /// Is told of who was not, with the path that was asked for; a certificate has none.
    pub refused: R,
    pub gate: Gate,
    crowd: Arc<Crowd>,
}

impl<H, R> Site<H, R> {
    pub fn new(gate: Gate, handler: H, refused: R) -> Self {
        Self { handler, refused, gate, crowd: Arc::default() }
    }
}

/// Serves on all listeners until SIGTERM or SIGINT, then lets requests under way end.
pub async fn serve<H, F, R>(listeners: Vec<TcpListener>, site: Site<H, R>)
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
    R: Fn(Refusal, &str) + Send + Sync + 'static,
{
    let site = Arc::new(site);
    let (end, ending) = watch::channel(());
    for listener in listeners {
        tokio::spawn(accept(listener, Arc::clone(&site), ending.clone()));
    }
    drop(ending);
    tokio::select! {
        () = hangups(&site.gate.live) => {}
        () = terminated() => {}
    }
    let _ = end.send(());
    if tokio::time::timeout(DRAIN, end.closed()).await.is_err() {
        tracing::warn!("requests under way were cut off");
    }
}

async fn accept<H, F, R>(
    listener: TcpListener,
    site: Arc<Site<H, R>>,
    mut ending: watch::Receiver<()>,
) where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
    R: Fn(Refusal, &str) + Send + Sync + 'static,
{
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = ending.changed() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                // Out of descriptors, most likely: without a pause this loop would spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let place = tokio::select! {
            place = site.crowd.enter() => Arc::new(place),
            _ = ending.changed() => return,
        };
        tokio::spawn(connection(stream, place, Arc::clone(&site), ending.clone()));
    }
}

async fn connection<H, F, R>(
    stream: TcpStream,
    place: Arc<Place>,
    site: Arc<Site<H, R>>,
    ending: watch::Receiver<()>,
) where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
    R: Fn(Refusal, &str) + Send + Sync + 'static,
{
    // An answer is written in one go; there is nothing to wait for.
    let _ = stream.set_nodelay(true);
    // The reactor has its say first: what has been sent already is then there to be read.
    tokio::task::yield_now().await;
    let config = site.gate.live.get().await;
    let Some(tls) = config.tls.clone() else {
        return requests(stream, &place, &site, ending).await;
    };
    let secured = tokio::select! {
        secured = heard(handshake(stream, tls), &place) => secured,
        () = place.yielded() => return tracing::debug!("a place was yielded in a handshake"),
    };
    match secured {
        Ok(stream) => requests(stream, &place, &site, ending).await,
        Err(refusal) => {
            if let Some(refusal) = refusal {
                (site.refused)(refusal, "");
            }
        }
    }
}

/// Drives a future; once it has read what was there and waits, its place may be asked for.
async fn heard<F: Future>(future: F, place: &Place) -> F::Output {
    let mut future = pin!(future);
    tokio::select! {
        biased;
        done = future.as_mut() => return done,
        () = async { place.heard() } => {}
    }
    future.await
}

/// The error is what to count, if anything.
async fn handshake(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
) -> Result<TlsStream<Greeting<TcpStream>>, Option<Refusal>> {
    let handshake = TlsAcceptor::from(tls).accept(Greeting::new(stream));
    let error = match tokio::time::timeout(HEADER_TIMEOUT, handshake).await {
        Ok(Ok(mut stream)) => {
            stream.get_mut().0.is_over();
            return Ok(stream);
        }
        Ok(Err(error)) => error,
        Err(_) => return Err(None),
    };
    tracing::debug!(%error, "a TLS handshake failed");
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<TlsError>());
    let certificate =
        matches!(cause, Some(TlsError::NoCertificatesPresented | TlsError::InvalidCertificate(_)));
    Err(certificate.then_some(Refusal::Certificate))
}

async fn requests<S, H, F, R>(
    stream: S,
    place: &Arc<Place>,
    site: &Arc<Site<H, R>>,
    mut ending: watch::Receiver<()>,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin,
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
    R: Fn(Refusal, &str) + Send + Sync + 'static,
{
    let service = service_fn(|request| {
        let (site, place) = (Arc::clone(site), Arc::clone(place));
        async move { Ok::<_, Infallible>(one(&site, &place, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        ended = heard(connection.as_mut(), place) => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended early");
            }
            return;
        }
        () = place.yielded() => return tracing::debug!("a place was yielded to a newcomer"),
        _ = ending.changed() => {}
        () = tokio::time::sleep(LIFETIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        _ = connection => {}
        () = place.yielded() => {}
        // What is acted on has as long again; who has not sent a request whole by now has not.
        () = tokio::time::sleep(LIFETIME) => tracing::debug!("a connection has had its time"),
    }
}

async fn one<H, F, R>(site: &Site<H, R>, place: &Arc<Place>, mut request: Request) -> Answer
where
    H: Fn(Request) -> F,
    F: Future<Output = Answer>,
    R: Fn(Refusal, &str),
{
    let config = site.gate.live.get().await;
    let admitted =
        if request.uri().path_and_query().is_some_and(|asked| asked.as_str().len() > ADDRESS) {
            Err(Refusal::Address)
        } else {
            site.gate.admit(&config, &request).await
        };
    let mut answer = match admitted {
        Ok(admitted) => {
            if admitted == Admitted::Proven {
                place.proven();
            }
            if request.body().is_end_stream() {
                place.acting();
            }
            request.extensions_mut().insert(Arc::clone(place));
            (site.handler)(request).await
        }
        Err(refusal) => {
            let path = request.uri().path();
            (site.refused)(refusal, path);
            site.gate.refuse(refusal, path)
        }
    };
    for (name, value) in &config.headers {
        answer.headers_mut().insert(name, value.clone());
    }
    place.completed();
    answer
}

/// SIGHUP reads the web configuration at once, and ends nothing. Never returns.
async fn hangups(live: &Arc<Live>) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        return std::future::pending().await;
    };
    loop {
        hangup.recv().await;
        live.reload().await;
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
