//! `lab get` and `lab post`: one HTTP/1.1 request without TLS, for machines without curl.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

/// How long the other side may be silent.
const SILENCE: Duration = Duration::from_secs(20);

#[derive(clap::Args)]
pub struct GetArguments {
    /// `http://address:port/path`
    url: String,
    /// Added to the request, `Name: value`.
    #[arg(long = "header")]
    headers: Vec<String>,
}

#[derive(clap::Args)]
pub struct PostArguments {
    /// `http://address:port/path`
    url: String,
    /// Holds a bearer token; an argument list is public.
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// Added to the request, `Name: value`.
    #[arg(long = "header")]
    headers: Vec<String>,
}

pub fn get(arguments: &GetArguments) -> io::Result<()> {
    request("GET", &arguments.url, &arguments.headers, &[])
}

pub fn post(arguments: &PostArguments) -> io::Result<()> {
    let mut body = Vec::new();
    io::stdin().read_to_end(&mut body)?;
    let mut headers = arguments.headers.clone();
    headers.push("Content-Type: application/json".into());
    if let Some(file) = &arguments.token_file {
        let token = fs::read_to_string(file)?;
        headers.push(format!("Authorization: Bearer {}", token.trim()));
    }
    request("POST", &arguments.url, &headers, &body)
}

fn request(method: &str, url: &str, headers: &[String], body: &[u8]) -> io::Result<()> {
    let rest = url
        .strip_prefix("http://")
        .ok_or_else(|| io::Error::other(format!("{url}: not an http:// address")))?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for header in headers {
        // Writing to a String cannot fail.
        let _ = write!(head, "{header}\r\n");
    }
    head.push_str("\r\n");
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.write_all(head.as_bytes())?;
    // A server may answer and close before it has read a body that it refuses.
    let written = stream.write_all(body);
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    if answer.is_empty() {
        written.and(read.map(drop))?;
    }
    let (status, body) = parse(&answer)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{status}")?;
    out.write_all(&body)
}

/// The status and the body, chunked or not.
fn parse(answer: &[u8]) -> io::Result<(u16, Vec<u8>)> {
    let malformed = || io::Error::other("not an HTTP answer");
    let end = position(answer, b"\r\n\r\n").ok_or_else(malformed)?;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(malformed)?;
    let body = &answer[end + 4..];
    if head.contains("transfer-encoding: chunked") {
        Ok((status, dechunk(body).ok_or_else(malformed)?))
    } else {
        Ok((status, body.to_vec()))
    }
}

fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = position(rest, b"\r\n")?;
        let size = std::str::from_utf8(&rest[..line]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        let start = line + 2;
        body.extend(rest.get(start..start + size)?);
        rest = rest.get(start + size + 2..)?;
    }
}

fn position(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_plain_and_chunked_answers() {
        let table: [(&[u8], &str); 3] = [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "abc"),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n",
                "abc",
            ),
            (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        ];
        for (answer, body) in table {
            let parsed = parse(answer).map_err(|error| error.to_string());
            assert_eq!(parsed, Ok((200, body.as_bytes().to_vec())));
        }
        assert!(parse(b"nonsense").is_err());
    }
}
