//! Many small changes in few transactions.

use proto::Timestamp;

use super::error::StoreError;
use super::layer::Layer;
use super::object::{Likeness, Object};
use super::store::{Store, Turn};
use super::tx::WriteTx;

/// Objects that one transaction of a batch changes at most.
pub const MAX_CHANGES: usize = 200;

/// Bytes of JSON that one transaction of a batch gathers before it is committed; below the limit of a proposal.
const MAX_BYTES: usize = 1 << 20;

/// Bytes by which objects that are alike may differ: their states, and what is said of those. Full transactions of such
/// objects stay below the limit also if they all do.
const SLACK: usize = 2 << 10;

/// A batch holds the writer's turn from its making until it is committed or dropped: an update of the same store, awaited
/// meanwhile by whoever holds the batch, would wait for ever.
///
/// What was not committed when it is dropped is lost.
#[derive(Debug)]
pub struct Batch<'a> {
    store: &'a Store,
    /// `None` only after a failed commit.
    turn: Option<Turn>,
    layer: Layer,
    /// When the transaction under way began.
    begun: Option<Timestamp>,
    bytes: usize,
    scales: Scales,
}

/// Measures objects; of those that are alike only the first one.
#[derive(Debug, Default)]
struct Scales {
    measured: Option<(Likeness, usize)>,
}

impl Scales {
    fn weigh(&mut self, object: &Object) -> usize {
        let likeness = object.likeness();
        if let (Some(likeness), Some((known, bytes))) = (&likeness, &self.measured)
            && likeness == known
        {
            return *bytes;
        }
        let bytes = size_of_json(object) + SLACK;
        self.measured = likeness.map(|likeness| (likeness, bytes));
        bytes
    }
}

impl<'a> Batch<'a> {
    pub(super) fn new(store: &'a Store, turn: Turn) -> Self {
        Self {
            store,
            turn: Some(turn),
            layer: Layer::default(),
            begun: None,
            bytes: 0,
            scales: Scales::default(),
        }
    }

    /// Makes one change, whole or not at all: if the closure fails, what it did is taken back and the batch goes on.
    ///
    /// # Errors
    /// The closure's; or [`StoreError::Propose`] when the batch was full and could not be committed.
    pub async fn update<R, E, F>(&mut self, change: F) -> Result<R, E>
    where
        E: From<StoreError>,
        F: FnOnce(&mut WriteTx<'_>) -> Result<R, E>,
    {
        if self.layer.len() >= MAX_CHANGES || self.bytes >= MAX_BYTES {
            self.flush().await?;
        }
        let mark = self.layer.mark();
        let now = *self.begun.get_or_insert_with(Timestamp::now);
        let layer = &mut self.layer;
        let result = self
            .store
            .replica()
            .read(|base| change(&mut WriteTx::new(base, layer, now)));
        match &result {
            Ok(_) => {
                let written = self.layer.written_since(mark);
                self.bytes += written.map(|object| self.scales.weigh(object)).sum::<usize>();
            }
            Err(_) => self.layer.rollback(mark),
        }
        result
    }

    /// Commits what is left.
    ///
    /// # Errors
    /// [`StoreError::Propose`].
    pub async fn commit(mut self) -> Result<(), StoreError> {
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        let layer = std::mem::take(&mut self.layer);
        (self.bytes, self.begun) = (0, None);
        let turn = match self.turn.take() {
            Some(turn) => turn,
            None => self.store.turn().await,
        };
        self.turn = Some(self.store.commit(turn, layer).await?);
        Ok(())
    }
}

/// Bytes of the value's JSON.
pub(super) fn size_of_json(value: &impl serde::Serialize) -> usize {
    let mut counter = Counter(0);
    match serde_json::to_writer(&mut counter, value) {
        Ok(()) => counter.0,
        Err(_) => 0,
    }
}

struct Counter(usize);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
