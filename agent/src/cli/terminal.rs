//! The user's terminal while a container has it: raw, its size followed, given back at the end.

use std::io::{IsTerminal, stdin, stdout};

use anyhow::{Context, Result, bail};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use super::client::{Client, query};
use super::output::{self, Demultiplexer};

/// A terminal in raw mode; dropped, it is what it was.
#[derive(Debug)]
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    /// Makes standard input raw.
    pub(crate) fn enter() -> Result<Self> {
        let before = tcgetattr(stdin()).context("read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw).context("make the terminal raw")?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // There is nobody left to tell if this fails.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

/// A terminal that does not show what is typed; dropped, it is what it was.
#[derive(Debug)]
pub(crate) struct Silent {
    before: Termios,
}

impl Silent {
    /// Stops showing what is typed.
    pub(crate) fn enter() -> Result<Self> {
        let before = tcgetattr(stdin()).context("read the terminal's settings")?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(stdin(), OptionalActions::Now, &silent).context("silence the terminal")?;
        Ok(Self { before })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // There is nobody left to tell if this fails.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

/// Refuses `-t` where standard input is no terminal, as Docker does.
pub(crate) fn require(tty: bool, interactive: bool) -> Result<()> {
    if tty && interactive && !stdin().is_terminal() {
        bail!("the input device is not a TTY");
    }
    Ok(())
}

/// Rows and columns, if standard output is a terminal.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(stdout()).ok()?;
    (size.ws_row > 0).then_some((size.ws_row, size.ws_col))
}

/// Tells the container (or exec, by its path) the terminal's size, now and at every change.
pub(crate) fn follow_size(client: Client, path: String) {
    tokio::spawn(async move {
        let Ok(mut changes) = signal(SignalKind::window_change()) else {
            return;
        };
        loop {
            if let Some((rows, columns)) = size() {
                let query = query(&[("h", &rows.to_string()), ("w", &columns.to_string())]);
                // A container that has just ended has no size.
                let _ = client.act(&format!("{path}/resize{query}")).await;
            }
            if changes.recv().await.is_none() {
                return;
            }
        }
    });
}

/// How the stream between user and container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The container's side closed.
    Closed,
    /// The user typed the keys that let go of it: Ctrl-P Ctrl-Q.
    Detached,
}

/// Carries bytes between the user and a hijacked connection until the container's side closes.
pub(crate) async fn converse<S>(stream: S, interactive: bool, tty: bool) -> Result<Ended>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut from, mut to) = tokio::io::split(stream);
    let (detach, detached) = tokio::sync::oneshot::channel();
    // Kept where nobody types: a channel whose sender is gone would end the conversation.
    let mut detach = Some(detach);
    if interactive {
        let detach = detach.take();
        tokio::spawn(async move {
            if send_input(&mut to, tty).await == Ended::Detached {
                let _ = detach.map(|detach| detach.send(()));
            } else {
                // End of input is passed on; the output goes on.
                let _ = to.shutdown().await;
                std::future::pending::<()>().await;
            }
        });
    }
    tokio::select! {
        result = receive_output(&mut from, tty) => result.map(|()| Ended::Closed),
        Ok(()) = detached => Ok(Ended::Detached),
    }
}

async fn receive_output(from: &mut (impl AsyncRead + Unpin), tty: bool) -> Result<()> {
    let mut frames = Demultiplexer::default();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let count = from
            .read(&mut buffer)
            .await
            .context("read the container's output")?;
        if count == 0 {
            return Ok(());
        }
        if tty {
            output::write(1, &buffer[..count]);
        } else {
            frames.push(&buffer[..count], output::write);
        }
    }
}

/// Sends what is typed until it ends, the connection closes, or the detach keys are typed.
async fn send_input(to: &mut (impl AsyncWrite + Unpin), tty: bool) -> Ended {
    const CTRL_P: u8 = 16;
    const CTRL_Q: u8 = 17;
    let mut input = tokio::io::stdin();
    let mut buffer = vec![0; 8 * 1024];
    let mut last = 0;
    loop {
        let Ok(count @ 1..) = input.read(&mut buffer).await else {
            return Ended::Closed;
        };
        for &byte in &buffer[..count] {
            if tty && last == CTRL_P && byte == CTRL_Q {
                return Ended::Detached;
            }
            last = byte;
        }
        if to.write_all(&buffer[..count]).await.is_err() || to.flush().await.is_err() {
            return Ended::Closed;
        }
    }
}
