//! Response bodies that are produced over time. hyper writes the headers before the first body poll, so a client that
//! waits for them (wait, events, logs) sees them at once.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::{StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, StreamExt};

/// Content type of raw terminal streams.
pub const RAW_STREAM: &str = "application/vnd.docker.raw-stream";
/// Content type of stdcopy-framed streams.
pub const MULTIPLEXED_STREAM: &str = "application/vnd.docker.multiplexed-stream";
/// Content type of JSON responses and JSON-per-line streams.
pub const JSON: &str = "application/json";

/// 200 with a chunked body; the headers leave immediately.
pub fn streaming(content_type: &'static str, chunks: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let body = Body::from_stream(chunks.map(Ok::<_, Infallible>));
    (StatusCode::OK, [(CONTENT_TYPE, content_type)], body).into_response()
}

/// Which pipe of the container a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum StdStream {
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
}

/// Wraps `payload` in a stdcopy frame: `[stream, 0, 0, 0, length as big-endian u32]`.
pub fn stdcopy_frame(stream: StdStream, payload: &[u8]) -> Bytes {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(8 + payload.len());
    frame.extend_from_slice(&[stream as u8, 0, 0, 0]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&payload[..length as usize]);
    frame.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_carry_stream_and_length() {
        assert_eq!(
            &stdcopy_frame(StdStream::Stderr, b"abc")[..],
            b"\x02\0\0\0\0\0\0\x03abc"
        );
    }
}
