//! One request over TLS, bounded in time and size; nothing is followed.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::header::{
    ACCEPT, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT,
};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls::Tls;
use crate::unknown::{Unknown, printable};

/// A controller on the same network answers at once, or is not there.
const CONNECT: Duration = Duration::from_secs(5);
/// A small console under load takes seconds to write a setting.
const ANSWER: Duration = Duration::from_secs(15);
/// A setting with thousands of suppressions is far smaller.
pub const MOST: usize = 4 * 1024 * 1024;

/// Where to, by which name, and with which key.
pub struct Peer<'a> {
    pub address: SocketAddr,
    pub name: ServerName<'static>,
    pub tls: &'a Tls,
    pub key: &'a str,
    /// Whether the config lets this host reach it outside the tunnel.
    pub allowed: bool,
}

/// An answer that was read whole.
pub struct Answer {
    pub status: StatusCode,
    pub is_page: bool,
    /// Both as they may be printed.
    pub retry_after: Option<String>,
    pub location: Option<String>,
    pub body: Bytes,
}

impl Peer<'_> {
    pub async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, Unknown> {
        let slow = |limit, doing| move |_| Unknown::Slow { to: self.address, limit, doing };
        let stream = tokio::time::timeout(CONNECT, TcpStream::connect(self.address))
            .await
            .map_err(slow(CONNECT, "connecting"))?
            .map_err(|error| self.no_connection(error))?;
        tokio::time::timeout(ANSWER, self.exchange(stream, method, path, body))
            .await
            .map_err(slow(ANSWER, "asked for the setting"))?
    }

    async fn exchange(
        &self,
        stream: TcpStream,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, Unknown> {
        let stream = TlsConnector::from(Arc::clone(&self.tls.config))
            .connect(self.name.clone(), stream)
            .await
            .map_err(|error| self.tls.failure(&error))?;
        let broken = |error: hyper::Error| Unknown::Broken(printable(&error.to_string()));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let mut key = HeaderValue::from_str(self.key)
            .map_err(|_| Unknown::Tls("the API key cannot be sent as a header".to_owned()))?;
        // Kept out of every debug output of the HTTP library (S10).
        key.set_sensitive(true);
        let mut request = hyper::Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() =
            path.parse().map_err(|_| Unknown::Shape("no path of a request".to_owned()))?;
        let headers = request.headers_mut();
        let host = HeaderValue::from_str(&self.address.to_string());
        headers.insert(HOST, host.map_err(|_| Unknown::Shape("no host".to_owned()))?);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static("vpn-egress"));
        headers.insert("x-api-key", key);
        let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        let body = Limited::new(body, MOST).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                Unknown::TooBig(MOST)
            } else {
                Unknown::Broken(printable(&error.to_string()))
            }
        })?;
        let kind = text(&head.headers, CONTENT_TYPE.as_str()).unwrap_or_default();
        Ok(Answer {
            status: head.status,
            is_page: kind.starts_with("text/html"),
            retry_after: text(&head.headers, RETRY_AFTER.as_str()),
            location: text(&head.headers, LOCATION.as_str()),
            body: body.to_bytes(),
        })
    }

    fn no_connection(&self, source: io::Error) -> Unknown {
        let to = self.address;
        match source.kind() {
            ErrorKind::ConnectionRefused => Unknown::Refused {
                to,
                hint: self.hint("nothing listens there, or this host's killswitch refuses it"),
                source,
            },
            ErrorKind::TimedOut => Unknown::Slow { to, limit: CONNECT, doing: "connecting" },
            // "Prohibited", as the killswitch and other firewalls on the way say it.
            _ => Unknown::Unreachable { to, hint: self.hint("a firewall prohibits it"), source },
        }
    }

    fn hint(&self, otherwise: &str) -> String {
        if self.allowed {
            return format!(
                "{otherwise}; {} is in `allow`, so if that is new: actuator converge",
                self.address.ip()
            );
        }
        format!(
            "{} is in no path's `allow`, and the killswitch lets out nothing else; add it there, \
             then: actuator converge",
            self.address.ip()
        )
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(printable)
}
