//! Keeps a count in a file, so that it outlives the task that counts.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{fs, io};

use counter::{Answer, check, serve, setting};

const PORT: u16 = 7000;

fn main() -> io::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("--check") {
        check(&format!("127.0.0.1:{PORT}"), "/count");
    }
    let file = PathBuf::from(setting("COUNT_FILE", "/data/count"));
    let count = Mutex::new(load(&file)?);
    println!(
        "counting on from {}",
        count.lock().unwrap_or_else(PoisonError::into_inner)
    );
    serve(PORT, move |method, _path| {
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        if method == "POST" {
            if let Err(error) = save(&file, *count + 1) {
                return Answer {
                    status: 500,
                    body: format!("cannot keep the count in {}: {error}\n", file.display()),
                };
            }
            *count += 1;
        }
        Answer::ok(format!("{count}"))
    })
}

fn load(file: &Path) -> io::Result<u64> {
    match fs::read_to_string(file) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Written beside and renamed, so that a reader never sees half a number.
fn save(file: &Path, count: u64) -> io::Result<()> {
    let fresh = file.with_extension("new");
    fs::write(&fresh, count.to_string())?;
    fs::rename(&fresh, file)
}
