//! What every handler can reach.

use std::path::PathBuf;
use std::sync::Arc;

/// Shared state of the API, extracted by handlers with `State<App>`.
pub type App = Arc<AppState>;

/// The rooms of the daemon, as the API sees them.
#[derive(Debug)]
pub struct AppState {
    /// Where everything durable lives.
    pub root: PathBuf,
    /// Where everything that ends with the boot lives.
    pub run_dir: PathBuf,
}
