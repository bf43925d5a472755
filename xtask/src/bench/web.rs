//! As much of HTTP as it takes to ask a server on this host, and to find it a port.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};

/// How long a server may take to say anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most bytes of an answer that are read: ten times what the largest scrape should be.
const MOST_BYTES: u64 = 256 << 20;

/// What a server said.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// With its head.
    pub(crate) text: String,
    /// From before the connection to the last byte.
    pub(crate) milliseconds: f64,
}

/// A port that nobody has at the moment. Somebody may take it before a server does; then the server says so.
pub(crate) fn free_port() -> Result<u16> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| Failure::new(format!("there is no free port: {error}"), "mend the loopback"))
}

/// Asks a server on this host, and reads the answer to its end.
pub(crate) fn get(port: u16, path: &str) -> Result<Answer> {
    let failed = |error| {
        Failure::new(format!("port {port} does not answer {path}: {error}"), "look at the server's log")
    };
    let began = Instant::now();
    let text = ask(port, path).map_err(failed)?;
    let milliseconds = began.elapsed().as_secs_f64() * 1000.0;
    let malformed = || Failure::new(format!("port {port} does not speak HTTP"), "look at the server's log");
    let status = status(&text).ok_or_else(malformed)?;
    Ok(Answer { status, text: String::from_utf8_lossy(&text).into_owned(), milliseconds })
}

fn ask(port: u16, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // In one piece: servers may answer what they get.
    let question = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes())?;
    let mut text = Vec::new();
    stream.take(MOST_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

fn status(text: &[u8]) -> Option<u16> {
    let line = text.strip_prefix(b"HTTP/1.")?.split(|&byte| byte == b'\r').next()?;
    std::str::from_utf8(line).ok()?.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_status() {
        assert_eq!(status(b"HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\n"), Some(503));
        assert_eq!(status(b"HTTP/1.0 200\r\n"), Some(200));
        assert_eq!((status(b""), status(b"SSH-2.0-x\r\n"), status(b"HTTP/1.1")), (None, None, None));
    }
}
