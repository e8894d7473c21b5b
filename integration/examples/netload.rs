//! Load for the network's figures, inside containers and outside: no library, no names but by a question of its own.
//!
//! ```text
//! netload serve PORT               answers the three below
//! netload bulk ADDRESS:PORT SECS   gigabits per second one way
//! netload trips ADDRESS:PORT SECS  round trips of one byte per second on one connection
//! netload calls ADDRESS:PORT SECS  connections with one byte each way per second, each ended by a reset
//! netload reach NAME PORT          when a connection to the name's first address succeeds: seconds since 1970
//! netload gone NAME ADDRESS        when the name no longer has the address, likewise
//! ```

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{setsockopt, sockopt};

const TRIPS: u8 = b't';
const BULK: u8 = b'b';
const CALLS: u8 = b'c';
/// Where the resolver of a container answers, Docker's and ours.
const RESOLVER: &str = "127.0.0.11:53";
const BLOCK: usize = 128 * 1024;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", port] => serve(port.parse()?),
        ["bulk", to, seconds] => show(bulk(to.parse()?, time(seconds)?)?),
        ["trips", to, seconds] => show(trips(to.parse()?, time(seconds)?)?),
        ["calls", to, seconds] => show(calls(to.parse()?, time(seconds)?)?),
        ["reach", name, port] => show(reach(name, port.parse()?)?),
        ["gone", name, address] => show(gone(name, address.parse()?)?),
        _ => bail!("netload serve|bulk|trips|calls|reach|gone …"),
    }
}

fn time(seconds: &str) -> Result<Duration> {
    Ok(Duration::from_secs_f64(seconds.parse()?))
}

fn show(value: f64) -> Result<()> {
    println!("{value}");
    Ok(())
}

fn serve(port: u16) -> Result<()> {
    for stream in TcpListener::bind(("0.0.0.0", port))?.incoming() {
        let stream = stream?;
        thread::spawn(move || answer(stream));
    }
    Ok(())
}

/// Until the other side has enough; that it goes in the middle is its way to say so.
fn answer(mut stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut block = vec![0; BLOCK];
    let mut kind = [0];
    stream.read_exact(&mut kind).ok()?;
    match kind[0] {
        BULK => while stream.read(&mut block).ok()? > 0 {},
        TRIPS => loop {
            stream.read_exact(&mut kind).ok()?;
            stream.write_all(&kind).ok()?;
        },
        _ => stream.write_all(&kind).ok()?,
    }
    Some(())
}

fn open(to: SocketAddr, kind: u8) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.write_all(&[kind])?;
    Ok(stream)
}

fn bulk(to: SocketAddr, time: Duration) -> Result<f64> {
    let mut stream = open(to, BULK)?;
    let block = vec![0; BLOCK];
    let (begin, mut sent) = (Instant::now(), 0usize);
    while begin.elapsed() < time {
        stream.write_all(&block)?;
        sent += block.len();
    }
    Ok(sent as f64 * 8.0 / 1e9 / begin.elapsed().as_secs_f64())
}

fn trips(to: SocketAddr, time: Duration) -> Result<f64> {
    let mut stream = open(to, TRIPS)?;
    let mut byte = [1];
    rate(time, || {
        stream.write_all(&byte)?;
        Ok(stream.read_exact(&mut byte)?)
    })
}

fn calls(to: SocketAddr, time: Duration) -> Result<f64> {
    // A connection that ends by a reset waits for nothing: otherwise a fast way runs out of ports in one round and the next
    // one pays for it.
    let at_once = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    rate(time, || {
        let mut stream = open(to, CALLS)?;
        setsockopt(&stream, sockopt::Linger, &at_once)?;
        Ok(stream.read_exact(&mut [0])?)
    })
}

fn rate(time: Duration, mut once: impl FnMut() -> Result<()>) -> Result<f64> {
    let (begin, mut count) = (Instant::now(), 0u32);
    while begin.elapsed() < time {
        once()?;
        count += 1;
    }
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}

/// Asks without a pause: this is what is measured.
fn reach(name: &str, port: u16) -> Result<f64> {
    loop {
        if let Some(address) = resolve(name)?.first() {
            let to = SocketAddr::from((*address, port));
            if TcpStream::connect_timeout(&to, Duration::from_millis(200)).is_ok() {
                return now();
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn gone(name: &str, address: Ipv4Addr) -> Result<f64> {
    while resolve(name)?.contains(&address) {
        thread::sleep(Duration::from_millis(5));
    }
    now()
}

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// The addresses of a name. No answer in time is none.
fn resolve(name: &str) -> Result<Vec<Ipv4Addr>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    socket.send_to(&question(name), RESOLVER)?;
    let mut answer = [0; 1500];
    Ok(match socket.recv(&mut answer) {
        Ok(length) => addresses(&answer[..length]).context("an answer that is none")?,
        Err(_) => Vec::new(),
    })
}

/// RFC 1035: header, one question for A.
fn question(name: &str) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}

/// The A records of an answer whose names are pointers or labels.
fn addresses(answer: &[u8]) -> Option<Vec<Ipv4Addr>> {
    let count = u16::from_be_bytes(answer.get(6..8)?.try_into().ok()?);
    let mut at = skip_name(answer, 12)? + 4;
    let mut found = Vec::new();
    for _ in 0..count {
        at = skip_name(answer, at)?;
        let record = answer.get(at..at + 10)?;
        let length = usize::from(u16::from_be_bytes([record[8], record[9]]));
        let data = answer.get(at + 10..at + 10 + length)?;
        if record[..2] == [0, 1] {
            found.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?));
        }
        at += 10 + length;
    }
    Some(found)
}

fn skip_name(answer: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *answer.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer >= 0xc0 => return Some(at + 2),
            length => at += usize::from(length) + 1,
        }
    }
}
