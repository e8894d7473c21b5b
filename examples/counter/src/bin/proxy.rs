//! Stands in front: passes each request to the web service, by the service's name.

use std::io;

use counter::{Answer, check, request, serve, setting};

const PORT: u16 = 80;

fn main() -> io::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("--check") {
        check(&format!("127.0.0.1:{PORT}"), "/health");
    }
    let upstream = setting("UPSTREAM", "web:8000");
    serve(PORT, move |method, path| match path {
        "/health" => Answer::ok("well\n"),
        _ => request(&upstream, method, path).unwrap_or_else(|error| Answer::bad_gateway(&error)),
    })
}
