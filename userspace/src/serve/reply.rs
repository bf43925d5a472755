//! A response with a body, compressed where the client can read that.

use std::io::{self, BufWriter, Write};

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::problem::Problem;

/// Bodies up to this fit into one packet: compressing them saves nothing.
const SMALL_BYTES: usize = 1400;

/// How much goes to the compressor at once: its cost a call is felt with lines of 100 bytes.
const CHUNK_BYTES: usize = 32 << 10;

/// A response to be.
pub struct Reply {
    content_type: &'static str,
    status: StatusCode,
    gzip: bool,
}

impl Reply {
    /// A response of this type for a client that sent these headers.
    pub fn new(content_type: &'static str, request: &HeaderMap) -> Self {
        Self { content_type, status: StatusCode::OK, gzip: accepts_gzip(request) }
    }

    /// With another status than 200.
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// With this body.
    pub fn send(self, body: &[u8]) -> Response {
        let gzip = self.gzip && body.len() > SMALL_BYTES;
        Self { gzip, ..self }.write(|out| out.write_all(body))
    }

    /// With what `body` writes.
    pub fn write(self, body: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Response {
        let bytes = if self.gzip {
            compress(body)
        } else {
            let mut out = Vec::new();
            body(&mut out).map(|()| out)
        };
        match bytes {
            Ok(bytes) => self.respond(bytes),
            Err(error) => Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("cannot write the answer: {error}; this is a fault of hostscope: report it"),
            )
            .into_response(),
        }
    }

    fn respond(self, bytes: Vec<u8>) -> Response {
        let mut response = (self.status, bytes).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // What a page shows comes from hosts' names of services, which others choose.
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if self.gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

/// What `body` writes, as gzip.
///
/// # Errors
/// Those of `body`.
pub fn compress(body: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<Vec<u8>> {
    // Level 1: two thirds of the time of the default, and a fifth more bytes.
    let encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let mut out = BufWriter::with_capacity(CHUNK_BYTES, encoder);
    body(&mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.finish()
}

/// Whether `Accept-Encoding` names gzip with a weight above 0 (RFC 9110, 12.5.3).
fn accepts_gzip(request: &HeaderMap) -> bool {
    let values = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.parse().ok());
        name.trim().eq_ignore_ascii_case("gzip") && weight.unwrap_or(1.0_f32) > 0.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_decide() {
        for (value, accepts) in [
            ("gzip", true),
            ("deflate, gzip;q=0.5", true),
            ("br;q=1.0, GZIP", true),
            ("gzip;q=0", false),
            ("gzip; q=0.0", false),
            ("identity", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]);
            assert_eq!(accepts_gzip(&headers), accepts, "{value}");
        }
    }
}
