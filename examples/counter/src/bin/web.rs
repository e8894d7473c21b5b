//! Answers each request with the name of its task and a count that the store keeps.

use std::io;

use counter::{Answer, check, request, serve, setting};

const PORT: u16 = 8000;

fn main() -> io::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("--check") {
        check(&format!("127.0.0.1:{PORT}"), "/health");
    }
    let greeting = setting("GREETING", "Hello");
    let name = setting("TASK_NAME", "a task without a name");
    let store = setting("STORE", "store:7000");
    serve(PORT, move |_method, path| {
        if path == "/health" {
            return Answer::ok("well\n");
        }
        match request(&store, "POST", "/count") {
            Ok(Answer { status: 200, body }) => Answer::ok(format!("{greeting} from {name}, visit {body}\n")),
            Ok(other) => other,
            Err(error) => Answer::bad_gateway(&error),
        }
    })
}
