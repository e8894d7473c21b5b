//! Recognising and undoing the compression of a stream, by its first bytes.

use std::io::{self, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

/// Bytes read ahead of the decompressors.
const BUFFER: usize = 256 << 10;

/// Why a stream could not be decompressed.
#[derive(Debug, thiserror::Error)]
pub enum CompressionError {
    #[error("{0} compression is not supported: recompress with gzip or zstd")]
    Unsupported(&'static str),
    #[error("read the start of the stream")]
    Start { source: io::Error },
}

/// The plain bytes of a stream that is plain, gzip or zstd.
pub(crate) fn decoder<'a>(mut from: impl Read + 'a) -> Result<Box<dyn Read + 'a>, CompressionError> {
    let mut magic = Vec::with_capacity(6);
    from.by_ref()
        .take(6)
        .read_to_end(&mut magic)
        .map_err(|source| CompressionError::Start { source })?;
    let kind = magic.clone();
    let stream = BufReader::with_capacity(BUFFER, Cursor::new(magic).chain(from));
    if kind.starts_with(&[0x1f, 0x8b]) {
        Ok(Box::new(MultiGzDecoder::new(stream)))
    } else if kind.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_skippable_frame(&kind) {
        let plain =
            zstd::Decoder::with_buffer(stream).map_err(|source| CompressionError::Start { source })?;
        Ok(Box::new(plain))
    } else if kind.starts_with(b"BZh") {
        Err(CompressionError::Unsupported("bzip2"))
    } else if kind.starts_with(&[0xfd, b'7', b'z', b'X', b'Z']) {
        Err(CompressionError::Unsupported("xz"))
    } else {
        Ok(Box::new(stream))
    }
}

/// zstd:chunked and others begin with one of the 16 skippable frames (RFC 8878 §3.1.2).
fn is_skippable_frame(magic: &[u8]) -> bool {
    magic.len() >= 4 && magic[0] & 0xf0 == 0x50 && magic[1..4] == [0x2a, 0x4d, 0x18]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn plain(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        decoder(bytes).unwrap().read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn each_kind_is_recognised() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"hello").unwrap();
        assert_eq!(plain(&gzip.finish().unwrap()), b"hello");
        assert_eq!(plain(&zstd::encode_all(&b"hello"[..], 1).unwrap()), b"hello");
        assert_eq!(plain(b"hello"), b"hello");
        assert_eq!(plain(b""), b"");
        assert!(matches!(
            decoder(&b"BZh91AY"[..]),
            Err(CompressionError::Unsupported("bzip2"))
        ));
    }

    #[test]
    fn a_cut_stream_ends_early_not_silently() {
        let whole = zstd::encode_all(&[7u8; 100_000][..], 1).unwrap();
        let cut = &whole[..whole.len() - 3];
        let error = decoder(cut).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
