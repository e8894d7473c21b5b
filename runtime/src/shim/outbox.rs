//! Bytes on their way to a client, bounded.

use std::io::{self, ErrorKind, Write};
use std::time::{Duration, Instant};

/// A client with more than this waiting holds up the process that it is attached to.
pub(super) const SOFT_LIMIT: usize = 64 * 1024;

/// A client with more than this waiting is dropped. Reached only while the end of an output is drained, which nobody
/// may hold up.
const HARD_LIMIT: usize = 1024 * 1024;

/// How long a client may take nothing while a process waits for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The queue of one client.
#[derive(Debug)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    /// When the client last took something, or was first given something to wait for.
    moved: Instant,
}

impl Outbox {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            bytes: Vec::new(),
            moved: now,
        }
    }

    /// Queues the concatenation of `parts` and sends what `writer` takes.
    ///
    /// # Errors
    /// If the client is gone, or hopelessly behind.
    pub(super) fn send(&mut self, writer: impl Write, parts: &[&[u8]], now: Instant) -> io::Result<()> {
        if self.bytes.is_empty() {
            self.moved = now;
        }
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.flush(writer, now)?;
        if self.bytes.len() > HARD_LIMIT {
            return Err(ErrorKind::OutOfMemory.into());
        }
        Ok(())
    }

    /// Sends what `writer` takes.
    ///
    /// # Errors
    /// If the client is gone.
    pub(super) fn flush(&mut self, mut writer: impl Write, now: Instant) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.bytes.len() {
            match writer.write(&self.bytes[sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if sent > 0 {
            self.moved = now;
        }
        if sent == self.bytes.len() {
            self.bytes = Vec::new();
        } else {
            self.bytes.drain(..sent);
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether the process should wait for this client.
    pub(super) fn is_congested(&self) -> bool {
        self.bytes.len() > SOFT_LIMIT
    }

    /// When it will have taken nothing for as long as `patience`.
    pub(super) fn deadline(&self, patience: Duration) -> Option<Instant> {
        (!self.bytes.is_empty()).then(|| self.moved + patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as much as it has room for.
    struct Socket {
        room: usize,
        taken: Vec<u8>,
    }

    impl Write for Socket {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.room -= count;
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn order_is_kept_across_partial_writes() {
        let now = Instant::now();
        let mut socket = Socket {
            room: 5,
            taken: Vec::new(),
        };
        let mut outbox = Outbox::new(now);
        outbox.send(&mut socket, &[b"abc", b"defg"], now).unwrap();
        outbox.send(&mut socket, &[b"hi"], now).unwrap();
        assert!(!outbox.is_empty());
        socket.room = 100;
        outbox.flush(&mut socket, now).unwrap();
        assert_eq!(socket.taken, b"abcdefghi");
        assert!(outbox.is_empty() && outbox.deadline(PATIENCE).is_none());
    }

    #[test]
    fn patience_counts_from_the_last_byte_taken() {
        let start = Instant::now();
        let mut socket = Socket {
            room: 0,
            taken: Vec::new(),
        };
        let mut outbox = Outbox::new(start);
        let given = start + Duration::from_secs(100);
        outbox.send(&mut socket, &[b"abc"], given).unwrap();
        assert_eq!(outbox.deadline(PATIENCE), Some(given + PATIENCE));
        outbox
            .send(&mut socket, &[b"def"], given + Duration::from_secs(1))
            .unwrap();
        assert_eq!(
            outbox.deadline(PATIENCE),
            Some(given + PATIENCE),
            "more to send is no progress"
        );
        socket.room = 1;
        let taken = given + Duration::from_secs(2);
        outbox.flush(&mut socket, taken).unwrap();
        assert_eq!(outbox.deadline(PATIENCE), Some(taken + PATIENCE));
    }

    #[test]
    fn limits_are_soft_then_hard() {
        let now = Instant::now();
        let mut socket = Socket {
            room: 0,
            taken: Vec::new(),
        };
        let mut outbox = Outbox::new(now);
        let chunk = vec![0; SOFT_LIMIT];
        outbox.send(&mut socket, &[&chunk], now).unwrap();
        assert!(!outbox.is_congested());
        outbox.send(&mut socket, &[b"x"], now).unwrap();
        assert!(outbox.is_congested());
        let error = (0..20).find_map(|_| outbox.send(&mut socket, &[&chunk], now).err());
        assert_eq!(error.unwrap().kind(), ErrorKind::OutOfMemory);
    }
}
