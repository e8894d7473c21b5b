//! Cutting a byte stream into log messages: lines, or pieces of at most 16 KiB of longer ones (Docker's copier).

use super::super::clock::Stamp;

/// Docker's `defaultBufSize`.
pub(super) const LIMIT: usize = 16 * 1024;

/// One message: a line with its newline, or a part of a line without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) text: &'a [u8],
    pub(super) newline: bool,
    pub(super) time: Stamp,
}

/// The cutter of one stream.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The start of a line whose end has not come; always shorter than [`LIMIT`].
    pending: Vec<u8>,
    /// When the first part of a line that was cut came: its other parts bear the same time.
    cut_since: Option<Stamp>,
}

impl Lines {
    /// Takes `bytes` that were read at `now`.
    pub(super) fn feed(&mut self, mut bytes: &[u8], now: Stamp, emit: &mut dyn FnMut(Message<'_>)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.end_line(&bytes[..end], now, emit);
            bytes = &bytes[end + 1..];
        }
        let rest = self.cut(bytes, now, emit);
        self.pending.extend_from_slice(rest);
    }

    /// The stream has ended: what is left is the part of a line that never got its newline.
    pub(super) fn end(&mut self, now: Stamp, emit: &mut dyn FnMut(Message<'_>)) {
        let time = self.cut_since.take().unwrap_or(now);
        if !self.pending.is_empty() {
            emit(Message {
                text: &self.pending,
                newline: false,
                time,
            });
        }
        self.pending = Vec::new();
    }

    fn end_line(&mut self, line: &[u8], now: Stamp, emit: &mut dyn FnMut(Message<'_>)) {
        let rest = self.cut(line, now, emit);
        let time = self.cut_since.take().unwrap_or(now);
        if self.pending.is_empty() {
            // The usual case: nothing is copied.
            emit(Message {
                text: rest,
                newline: true,
                time,
            });
        } else {
            self.pending.extend_from_slice(rest);
            emit(Message {
                text: &self.pending,
                newline: true,
                time,
            });
            self.pending.clear();
        }
    }

    /// Emits full parts for as long as `pending` and `rest` together have them; returns what is left of `rest`.
    fn cut<'a>(&mut self, mut rest: &'a [u8], now: Stamp, emit: &mut dyn FnMut(Message<'_>)) -> &'a [u8] {
        while self.pending.len() + rest.len() >= LIMIT {
            let (fill, left) = rest.split_at(LIMIT - self.pending.len());
            self.pending.extend_from_slice(fill);
            rest = left;
            let whole = self.pending.len() - split_character(&self.pending);
            let time = *self.cut_since.get_or_insert(now);
            emit(Message {
                text: &self.pending[..whole],
                newline: false,
                time,
            });
            self.pending.drain(..whole);
        }
        rest
    }
}

/// How many bytes at the end of `bytes` begin a UTF-8 character whose remainder is yet to come. Cutting there would
/// turn both halves into replacement characters.
fn split_character(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    let Some(start) = tail.iter().rposition(|byte| byte & 0xc0 != 0x80) else {
        return 0;
    };
    let length = match tail[start] {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    let present = tail.len() - start;
    if present < length { present } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        let mut emit = |message: Message<'_>| out.push((message.text.to_vec(), message.newline));
        for chunk in chunks {
            lines.feed(chunk, Stamp::now(), &mut emit);
        }
        lines.end(Stamp::now(), &mut emit);
        out
    }

    fn line(text: &[u8]) -> (Vec<u8>, bool) {
        (text.to_vec(), true)
    }

    fn part(text: &[u8]) -> (Vec<u8>, bool) {
        (text.to_vec(), false)
    }

    #[test]
    fn lines_are_found_across_reads() {
        assert_eq!(
            cut(&[b"a\n\nbc", b"d", b"\ne"]),
            [line(b"a"), line(b""), line(b"bcd"), part(b"e")]
        );
        assert_eq!(cut(&[b""]), []);
    }

    #[test]
    fn long_lines_come_in_parts_of_16_kib() {
        let long = vec![b'x'; LIMIT * 2 + 5];
        let whole = [&long[..], b"\nshort\n"].concat();
        let expected = [
            part(&long[..LIMIT]),
            part(&long[..LIMIT]),
            line(b"xxxxx"),
            line(b"short"),
        ];
        assert_eq!(cut(&[&whole]), expected);
        let pieces: Vec<&[u8]> = whole.chunks(777).collect();
        assert_eq!(cut(&pieces), expected);
        assert_eq!(
            cut(&[&[&long[..LIMIT], b"\n"].concat()]),
            [part(&long[..LIMIT]), line(b"")]
        );
    }

    #[test]
    fn a_cut_does_not_split_a_character() {
        for character in ["é", "€", "🐟"] {
            for lead in 0..4 {
                let text = format!("{}{}", "a".repeat(lead), character.repeat(LIMIT));
                let parts = cut(&[text.as_bytes()]);
                assert!(
                    parts
                        .iter()
                        .all(|(part, _)| std::str::from_utf8(part).is_ok() && part.len() <= LIMIT)
                );
                assert_eq!(
                    parts
                        .iter()
                        .flat_map(|(part, _)| part.clone())
                        .collect::<Vec<_>>(),
                    text.as_bytes()
                );
            }
        }
        let binary = vec![0x80; LIMIT + 1];
        assert_eq!(cut(&[&binary]).len(), 2, "no character at all");
    }

    #[test]
    fn parts_bear_the_time_of_the_first() {
        let (mut lines, mut times) = (Lines::default(), Vec::new());
        let first = Stamp::now();
        std::thread::sleep(std::time::Duration::from_micros(1));
        let second = Stamp::now();
        assert_ne!(first, second);
        let mut emit = |message: Message<'_>| times.push(message.time);
        lines.feed(&[b'x'; LIMIT], first, &mut emit);
        lines.feed(b"end\nnext\n", second, &mut emit);
        assert_eq!(times, [first, first, second]);
    }
}
