//! As much HTTP as the example's three programs need: a server that finishes what it has begun when it is told to
//! stop, and a client for one request.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer: status and text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Such as 200.
    pub status: u16,
    /// The text.
    pub body: String,
}

impl Answer {
    /// Everything went well.
    pub fn ok(body: impl Into<String>) -> Self {
        Self {
            status: 200,
            body: body.into(),
        }
    }

    /// Something behind this program did not answer.
    pub fn bad_gateway(error: &io::Error) -> Self {
        Self {
            status: 502,
            body: format!("{error}\n"),
        }
    }
}

/// Serves `answer(method, path)` on the port until SIGTERM or SIGINT, then lets the open requests end.
pub fn serve<F>(port: u16, answer: F) -> io::Result<()>
where
    F: Fn(&str, &str) -> Answer + Send + Sync + 'static,
{
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("listening on port {port}");
    let open = Arc::new(AtomicUsize::new(0));
    let accepting = Arc::clone(&open);
    let answer = Arc::new(answer);
    thread::spawn(move || accept(&listener, &accepting, &answer));
    // The first process of a container has no default signal handlers: without this, SIGTERM would do nothing.
    let mut signals =
        signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])?;
    let signal = signals.forever().next();
    println!("stopping on signal {}", signal.unwrap_or_default());
    while open.load(Ordering::SeqCst) > 0 {
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Sends one request and returns the answer.
pub fn request(host: &str, method: &str, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    parse_answer(&text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{host} answered {text:?}")))
}

/// Ends the program well if the request does; for healthchecks, which have no other program in the image.
pub fn check(host: &str, path: &str) -> ! {
    let well = request(host, "GET", path).is_ok_and(|answer| answer.status == 200);
    std::process::exit(i32::from(!well))
}

/// The value of an environment variable, or what stands in for it.
pub fn setting(name: &str, default: &str) -> String {
    std::env::var(name)
        .ok()
        .filter(|value| !value.is_empty())
        .unwrap_or_else(|| default.to_owned())
}

fn accept<F>(listener: &TcpListener, open: &Arc<AtomicUsize>, answer: &Arc<F>)
where
    F: Fn(&str, &str) -> Answer + Send + Sync + 'static,
{
    for stream in listener.incoming().flatten() {
        open.fetch_add(1, Ordering::SeqCst);
        let (open, answer) = (Arc::clone(open), Arc::clone(answer));
        thread::spawn(move || {
            if let Err(error) = converse(stream, &*answer) {
                eprintln!("a client went away: {error}");
            }
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

fn converse(stream: TcpStream, answer: &dyn Fn(&str, &str) -> Answer) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(&stream).lines();
    let Some(first) = lines.next().transpose()? else {
        return Ok(());
    };
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let mut words = first.split_whitespace();
    let (method, path) = (words.next().unwrap_or("GET"), words.next().unwrap_or("/"));
    let Answer { status, body } = answer(method, path);
    let length = body.len();
    write!(
        &stream,
        "HTTP/1.1 {status} {}\r\nContent-Length: {length}\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n{body}",
        if status == 200 { "OK" } else { "Error" },
    )
}

fn parse_answer(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some(Answer {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_parsed_and_a_broken_one_is_refused() {
        let text = "HTTP/1.1 502 Error\r\nContent-Length: 2\r\n\r\nno";
        assert_eq!(
            parse_answer(text),
            Some(Answer {
                status: 502,
                body: "no".to_owned()
            })
        );
        assert_eq!(parse_answer("HTTP/1.1 200 OK"), None);
    }
}
