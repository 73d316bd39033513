//! A connection to the server under test, with or without TLS.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A client that hears nothing for so long takes the connection for dead. Long, for a busy machine:
/// how long it took is what is measured.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct Server {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
}

pub enum Line {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Server {
    /// Its only trusted certificate is the one in the file.
    pub fn new(address: SocketAddr, certificate: Option<&Path>) -> io::Result<Self> {
        let tls = certificate.map(|file| {
            let certificate = CertificateDer::from_pem_slice(&fs::read(file)?);
            let mut roots = RootCertStore::empty();
            roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
            let config = ClientConfig::builder().with_root_certificates(roots);
            io::Result::Ok(Arc::new(config.with_no_client_auth()))
        });
        Ok(Self { address, tls: tls.transpose()? })
    }

    /// A connection, and nothing said on it.
    pub fn connect_only(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// The same, on which little can be said to us that we do not read.
    pub fn connect_narrow(&self) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None)?;
        socket.set_recv_buffer_size(2048)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect(&self.address.into())?;
        Ok(socket.into())
    }

    /// A connection on which requests can be made: the handshake comes with the first of them.
    pub fn connect(&self) -> io::Result<Line> {
        let stream = self.connect_only()?;
        let Some(tls) = &self.tls else {
            return Ok(Line::Plain(stream));
        };
        let name = ServerName::IpAddress(self.address.ip().into());
        let client = ClientConnection::new(Arc::clone(tls), name).map_err(io::Error::other)?;
        Ok(Line::Tls(Box::new(StreamOwned::new(client, stream))))
    }
}

impl Line {
    /// Whether the other side has ended it.
    pub fn is_ended(&self) -> bool {
        let mut stream = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        };
        let _ = stream.set_nonblocking(true);
        loop {
            match stream.read(&mut [0; 4096]) {
                Ok(0) => return true,
                // What it still says: a last word of TLS, or an answer.
                Ok(_) => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
