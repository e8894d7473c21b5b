//! `GET /containers/{id}/logs`.

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;

use super::streams::stream_type;
use crate::api::error::ApiResult;
use crate::api::params::Params;
use crate::api::service_logs::{log_options, timestamp};
use crate::api::state::App;
use crate::api::stream::{stdcopy_frame, streaming};
use crate::api::version::ApiVersion;
use crate::engine::LogEntry;

pub(super) async fn logs(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<Response> {
    let tty = app.engine.inspect(&id, false).await?.config.tty;
    let style = Style {
        tty,
        timestamps: params.flag("timestamps"),
        details: params.flag("details"),
    };
    let lines = app.engine.logs(&id, log_options(&params)?).await?;
    Ok(streaming(
        stream_type(tty, version),
        lines.map(move |entry| style.write(&entry)),
    ))
}

/// How a line is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub(super) tty: bool,
    pub(super) timestamps: bool,
    pub(super) details: bool,
}

impl Style {
    pub(super) fn write(self, entry: &LogEntry) -> Bytes {
        let mut text = Vec::with_capacity(entry.line.len() + 40);
        if self.timestamps {
            text.extend_from_slice(timestamp(entry.time).as_bytes());
            text.push(b' ');
        }
        if self.details {
            // The attributes that the log options `labels` and `env` add; neither is built, so there are none.
            text.push(b' ');
        }
        text.extend_from_slice(&entry.line);
        if self.tty {
            text.into()
        } else {
            stdcopy_frame(entry.stream, &text)
        }
    }
}
