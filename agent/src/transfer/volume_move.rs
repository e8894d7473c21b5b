//! `volume mv`: a volume and the tasks that use it go to another node.
//!
//! ```text
//! hold: a label of the node says that the volume leaves ─▶ tasks stop, new ones wait
//!   ─▶ the other node takes it, looks at it, keeps it ─▶ this node removes it ─▶ the label goes: tasks start there
//! ```
//! The label is in the store, so whoever leads next holds the tasks too. At any moment one node at least has all of the
//! volume; the command, given again, goes on where it was.

use std::time::Duration;

use manager::{Control, VolumeMove};
use serde::Serialize;
use storage::Contents;
use tokio::time::timeout;

use super::volumes;
use crate::api::App;
use crate::api::error::{ApiError, ApiResult};
use crate::peer::Client;

/// The nodes say within this time that the volume has come and gone; they do so with their next heartbeat.
const WORD: Duration = Duration::from_secs(30);

/// What was moved.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Moved {
    volume: String,
    from: String,
    to: String,
    warnings: Vec<String>,
}

/// Begins to move a volume: from here on its tasks are held.
///
/// # Errors
/// A node or volume that is not there, or cannot take part.
pub async fn begin(app: &App, volume: &str, from: Option<&str>, to: &str) -> ApiResult<VolumeMove> {
    Ok(app.control()?.begin_volume_move(volume, from, to).await?)
}

/// Moves it. What fails before the other node has the volume is undone: the tasks go on where they were.
///
/// # Errors
/// What one of the nodes says.
pub async fn finish(app: &App, moving: VolumeMove) -> ApiResult<Moved> {
    let control = app.control()?;
    let client = app.cluster.peers().client();
    let client = client.ok_or_else(|| ApiError::unavailable("this node has left the cluster"))?;
    let contents = match copy(&control, &client, &moving).await {
        Ok(contents) => contents,
        Err(error) => {
            control.end_volume_move(&moving).await?;
            return Err(error);
        }
    };
    if let Some(contents) = &contents {
        let released = volumes::release(&client, &moving.volume, &moving.from.id, contents).await;
        released.map_err(|error| unfinished(&moving, &error))?;
    }
    let settled = timeout(WORD, control.volume_has_moved(&moving)).await;
    let late = || {
        ApiError::unavailable(format!(
            "the nodes do not say that volume {} has moved",
            moving.volume
        ))
    };
    let settled = settled.map_err(|_| late()).and_then(|settled| Ok(settled?));
    settled.map_err(|error| unfinished(&moving, &error))?;
    control.end_volume_move(&moving).await?;
    Ok(Moved {
        warnings: warnings(contents.as_ref()),
        volume: moving.volume,
        from: moving.from.description.hostname.clone(),
        to: moving.to.description.hostname.clone(),
    })
}

/// Stops the tasks and has the volume copied; `None` if an earlier attempt has done all of it.
async fn copy(control: &Control, client: &Client, moving: &VolumeMove) -> ApiResult<Option<Contents>> {
    control.stop_volume_users(moving).await?;
    if moving.is_done() {
        return Ok(None);
    }
    let copied = volumes::carry(client, &moving.volume, &moving.from.id, &moving.to.id);
    copied.await.map(Some)
}

fn warnings(contents: Option<&Contents>) -> Vec<String> {
    match contents.map_or(0, |contents| contents.sockets) {
        0 => Vec::new(),
        1 => vec!["1 socket was not copied: it belonged to a process".into()],
        sockets => vec![format!(
            "{sockets} sockets were not copied: they belonged to processes"
        )],
    }
}

/// The volume is whole on the other node; only the end is missing.
fn unfinished(moving: &VolumeMove, error: &ApiError) -> ApiError {
    ApiError::new(
        error.status,
        format!(
            "{error}; node {} has the whole volume, and its tasks wait: give the command again to finish",
            moving.to.description.hostname
        ),
    )
}
