//! Asks other nodes whether they are reached directly, and answers their questions.
//!
//! A datagram is `shoal-p1`, a kind (`?` or `!`) and the asker's nonce. Whoever is no node that we ask is not answered.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand::RngCore;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::judge::{Judge, Nonce};
use super::{PORT, View};

const MAGIC: &[u8; 8] = b"shoal-p1";
const QUESTION: u8 = b'?';
const ANSWER: u8 = b'!';
const LENGTH: usize = MAGIC.len() + 1 + 16;
/// Between two rounds of questions. A way that breaks is noticed after two.
const PERIOD: Duration = Duration::from_secs(1);
/// So many nodes are not asked more often than this each: questions take a processor's time.
const PER_NODE: Duration = Duration::from_millis(5);
/// Until the next round while somebody has answered for the first time.
const SOON: Duration = Duration::from_millis(20);
/// Until the socket is tried again: the address comes with the view, but not in the same moment.
const RETRY: Duration = Duration::from_millis(200);

/// What a datagram says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Question(Nonce),
    Answer(Nonce),
}

/// The prober of one node, for one IP version.
pub(crate) struct Prober<B> {
    /// Whom to ask.
    pub(crate) view: watch::Receiver<View>,
    /// Binds a UDP socket to an address in the fabric.
    pub(crate) bind: B,
    /// Who is reached directly.
    pub(crate) direct: watch::Sender<BTreeSet<String>>,
}

impl<B: Fn(SocketAddr) -> std::io::Result<UdpSocket>> Prober<B> {
    /// Asks and answers until nobody tells whom any more.
    pub(crate) async fn run(mut self) {
        let mut judge = Judge::new(&self.view.borrow().nodes, &self.direct.borrow());
        loop {
            let view = self.view.borrow_and_update().clone();
            judge.ask_these(&view.nodes);
            self.tell(&judge);
            let ended = match view.own.filter(|_| !view.nodes.is_empty()) {
                Some(own) => self.talk(own, &mut judge).await,
                None => self.view.changed().await,
            };
            if ended.is_err() {
                return;
            }
        }
    }

    /// Until the view changes.
    async fn talk(&mut self, own: IpAddr, judge: &mut Judge) -> Result<(), watch::error::RecvError> {
        let Ok(socket) = (self.bind)((own, PORT).into()) else {
            return match tokio::time::timeout(RETRY, self.view.changed()).await {
                Ok(changed) => changed,
                Err(_) => Ok(()),
            };
        };
        let mut next = Instant::now();
        let mut datagram = [0; LENGTH + 1];
        loop {
            tokio::select! {
                changed = self.view.changed() => return changed,
                () = sleep_until(next) => {
                    for (to, nonce) in judge.round(nonce) {
                        send(&socket, Word::Question(nonce), to).await;
                    }
                    next = Instant::now() + PERIOD.max(PER_NODE * judge.len());
                }
                received = socket.recv_from(&mut datagram) => {
                    if let Ok((length, from)) = received {
                        hear(&socket, judge, &datagram[..length], from.ip()).await;
                        if judge.is_hopeful() {
                            next = next.min(Instant::now() + SOON);
                        }
                    }
                }
            }
            self.tell(judge);
        }
    }

    fn tell(&self, judge: &Judge) {
        self.direct.send_if_modified(|known| {
            let now = judge.direct();
            let news = *known != now;
            *known = now;
            news
        });
    }
}

async fn hear(socket: &UdpSocket, judge: &mut Judge, datagram: &[u8], from: IpAddr) {
    match read(datagram) {
        Some(Word::Question(nonce)) if judge.knows(from) => send(socket, Word::Answer(nonce), from).await,
        Some(Word::Answer(nonce)) => judge.answered(from, nonce),
        _ => {}
    }
}

/// What cannot be sent is a question without an answer.
async fn send(socket: &UdpSocket, word: Word, to: IpAddr) {
    let _ = socket.send_to(&write(word), SocketAddr::new(to, PORT)).await;
}

fn nonce() -> Nonce {
    let mut nonce = Nonce::default();
    rand::rng().fill_bytes(&mut nonce);
    nonce
}

fn write(word: Word) -> Vec<u8> {
    let (kind, nonce) = match word {
        Word::Question(nonce) => (QUESTION, nonce),
        Word::Answer(nonce) => (ANSWER, nonce),
    };
    [&MAGIC[..], &[kind], &nonce].concat()
}

fn read(datagram: &[u8]) -> Option<Word> {
    let rest = datagram.strip_prefix(MAGIC)?;
    let (kind, nonce) = rest.split_first()?;
    let nonce = nonce.try_into().ok()?;
    match *kind {
        QUESTION => Some(Word::Question(nonce)),
        ANSWER => Some(Word::Answer(nonce)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written_and_nothing_else_is() {
        for word in [Word::Question([7; 16]), Word::Answer([8; 16])] {
            let datagram = write(word);
            assert_eq!(datagram.len(), LENGTH);
            assert_eq!(read(&datagram), Some(word));
            assert_eq!(read(&datagram[..LENGTH - 1]), None);
            assert_eq!(read(&[&datagram[..], &[0]].concat()), None);
        }
        assert_eq!(read(b"shoal-p1x0123456789abcdef"), None);
        assert_eq!(read(b""), None);
    }
}
