//! Attach: a hijacked connection pumped to and from a process.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use futures::StreamExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, split};

use super::detach::DetachKeys;
use super::logs::Style;
use crate::api::error::{ApiError, ApiResult};
use crate::api::hijack::{Duplex, Hijack};
use crate::api::params::Params;
use crate::api::state::App;
use crate::api::stream::{MULTIPLEXED_STREAM, RAW_STREAM, stdcopy_frame};
use crate::api::version::ApiVersion;
use crate::engine::{AttachOptions, AttachStream, LogOptions, LogStream};

/// From this version on the content type tells framed streams from raw ones.
const TELLS_FRAMED: ApiVersion = ApiVersion::new(1, 42);

/// Content type of a process's output.
pub(in crate::api) fn stream_type(tty: bool, version: ApiVersion) -> &'static str {
    if tty || version < TELLS_FRAMED {
        RAW_STREAM
    } else {
        MULTIPLEXED_STREAM
    }
}

pub(super) async fn attach(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
    Path(id): Path<String>,
    params: Params,
    hijack: Hijack,
) -> ApiResult<Response> {
    let keys = DetachKeys::parse(params.text("detachKeys").unwrap_or_default())?;
    let inspected = app.engine.inspect(&id, false).await?;
    let (tty, id) = (inspected.config.tty, inspected.id);
    let wants = |stream| params.flag(stream);
    let past = match wants("logs") {
        false => None,
        true => {
            let options = LogOptions {
                stdout: wants("stdout"),
                stderr: wants("stderr"),
                ..Default::default()
            };
            Some(app.engine.logs(&id, options).await?)
        }
    };
    let live = match wants("stream") {
        false => None,
        true => {
            let options = AttachOptions {
                stdin: wants("stdin"),
                stdout: wants("stdout"),
                stderr: wants("stderr"),
            };
            Some(app.engine.attach(&id, options).await?)
        }
    };
    Ok(
        hijack.respond(stream_type(tty, version), move |client| async move {
            let mut client = client;
            if let Some(past) = past
                && send_past(&mut client, past, tty).await.is_err()
            {
                return;
            }
            match live {
                Some(live) => pump(client, live, keys).await,
                None => drop(client.shutdown().await),
            }
        }),
    )
}

async fn send_past(client: &mut Box<dyn Duplex>, mut past: LogStream, tty: bool) -> std::io::Result<()> {
    let style = Style {
        tty,
        timestamps: false,
        details: false,
    };
    while let Some(entry) = past.next().await {
        client.write_all(&style.write(&entry)).await?;
    }
    client.flush().await
}

/// Passes bytes both ways until the process's output ends, the client is gone, or, at a terminal, the detach keys are
/// pressed. The end of the client's input is passed on and ends nothing else.
pub(in crate::api) async fn pump(client: Box<dyn Duplex>, process: AttachStream, keys: DetachKeys) {
    let AttachStream {
        tty,
        mut output,
        input,
    } = process;
    let (from_client, mut to_client) = split(client);
    let keys = tty.then_some(keys);
    let (let_go, mut detached) = tokio::sync::oneshot::channel();
    let input = tokio::spawn(async move {
        if pass_input(from_client, input, keys).await {
            // The other half may have ended meanwhile.
            let _ = let_go.send(());
        } else {
            std::future::pending::<()>().await;
        }
    });
    loop {
        let chunk = tokio::select! {
            chunk = output.next() => chunk,
            _ = &mut detached => None,
        };
        let Some(chunk) = chunk else { break };
        let frame = if tty {
            chunk.bytes
        } else {
            stdcopy_frame(chunk.stream, &chunk.bytes)
        };
        if to_client.write_all(&frame).await.is_err() || to_client.flush().await.is_err() {
            break;
        }
    }
    // The other side may have gone first.
    let _ = to_client.shutdown().await;
    input.abort();
}

/// Whether the client has pressed the keys that let it go; the process's input stays open then.
async fn pass_input(
    mut client: impl AsyncRead + Unpin,
    input: Option<std::pin::Pin<Box<dyn AsyncWrite + Send>>>,
    keys: Option<DetachKeys>,
) -> bool {
    let Some(mut input) = input else {
        // Read and forget, so that a client that sends anyway is not stuck.
        drop(copy(&mut client, &mut tokio::io::sink()).await);
        return false;
    };
    let detached = match keys {
        // Whether client or process failed: what follows is the end of input.
        None => {
            let _ = copy(&mut client, &mut input).await;
            false
        }
        Some(keys) => pass_keys(&mut client, &mut input, keys).await,
    };
    if !detached {
        let _ = input.shutdown().await;
    }
    detached
}

async fn pass_keys(
    client: &mut (impl AsyncRead + Unpin),
    input: &mut (impl AsyncWrite + Unpin),
    mut keys: DetachKeys,
) -> bool {
    let mut buffer = vec![0; 8 * 1024];
    while let Ok(count @ 1..) = client.read(&mut buffer).await {
        let (passed, detached) = keys.filter(&buffer[..count]);
        let written = input.write_all(&passed).await.is_ok() && input.flush().await.is_ok();
        if detached || !written {
            return detached;
        }
    }
    false
}

pub(super) async fn resize(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<StatusCode> {
    let (rows, cols) = size(&params)?;
    app.engine.resize(&id, rows, cols).await?;
    Ok(StatusCode::OK)
}

/// `h` and `w` of a resize.
pub(in crate::api) fn size(params: &Params) -> ApiResult<(u16, u16)> {
    match (params.number("h")?, params.number("w")?) {
        (Some(rows), Some(cols)) => Ok((rows, cols)),
        _ => Err(ApiError::bad_request(
            "a resize needs the height h and the width w",
        )),
    }
}
