//! Keys at rest: what a manager keeps on its disk is sealed, and a locked manager needs a key from a person.
//!
//! ```text
//! unlock key (beside, or with autolock in the cluster's object and in people's hands)
//!   └ wraps the data key, of this manager alone, in <state_dir>/raft/keys.json
//!       └ seals the journal, the snapshot and, with autolock, the node's key
//! ```
//! - [`Vault`]: the file of the keys: made, opened, wrapped anew
//! - [`AtRest`]: seals and opens what is kept
//! - [`UnlockKey`]: as people write it
//! - `seal`: the one place that speaks to the cipher
//! - `stream`: a file too large for one piece

mod at_rest;
mod key;
mod seal;
mod store;
mod stream;

pub use at_rest::AtRest;
pub(crate) use at_rest::is_sealed;
pub use key::{UnlockKey, UnlockKeyError};
pub(crate) use seal::{Opener, Purpose, Salt, Sealer};
pub use store::{Vault, VaultError};
pub(crate) use stream::{SealedWriter, is_stream, open_stream};
