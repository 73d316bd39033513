//! Bounds what a client may send until its TLS handshake is over: of a message that lacks its end
//! 64 KiB would be kept for it, and more than for a whole request.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A client's chain of certificates included, which is the longest that it has to say.
const LONGEST: usize = 16 * 1024;

pub struct Greeting<S> {
    stream: S,
    /// `None`: it is over.
    left: Option<usize>,
}

impl<S> Greeting<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, left: Some(LONGEST) }
    }

    /// What follows has bounds of its own.
    pub fn is_over(&mut self) {
        self.left = None;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeting<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(left) = self.left {
            let Some(left) = left.checked_sub(buffer.filled().len() - before) else {
                return Poll::Ready(Err(io::Error::other("a handshake longer than 16 KiB")));
            };
            self.left = Some(left);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeting<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// How much of it is read before an error.
    async fn read(greeting: &mut Greeting<tokio::io::DuplexStream>) -> Result<usize, usize> {
        let (mut all, mut buffer) = (0, [0; 4096]);
        loop {
            match greeting.read(&mut buffer).await {
                Ok(0) => return Ok(all),
                Ok(count) => all += count,
                Err(_) => return Err(all),
            }
        }
    }

    #[tokio::test]
    async fn more_than_a_handshake_is_read_only_after_it() {
        let said = |length| async move {
            let (mut client, server) = tokio::io::duplex(1024 * 1024);
            client.write_all(&vec![0; length]).await.expect("written");
            Greeting::new(server)
        };
        assert_eq!(read(&mut said(LONGEST).await).await, Ok(LONGEST));
        assert_eq!(read(&mut said(LONGEST + 1).await).await, Err(LONGEST));
        let mut greeting = said(10 * LONGEST).await;
        greeting.is_over();
        assert_eq!(read(&mut greeting).await, Ok(10 * LONGEST));
    }
}
