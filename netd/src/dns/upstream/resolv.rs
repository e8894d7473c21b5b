//! The host's resolv.conf(5): read, and read again when it changes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::net::unix::pipe::Receiver;

/// What the host says about DNS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Resolv {
    pub(super) servers: Arc<[SocketAddr]>,
    pub(super) search: Vec<String>,
}

/// Something that notices changes of the file, wherever symbolic links lead.
#[derive(Debug)]
pub(super) struct Watch {
    file: PathBuf,
    inotify: Inotify,
}

impl Resolv {
    /// A file that cannot be read names no servers.
    pub(super) fn read(file: &Path) -> Self {
        std::fs::read_to_string(file).map_or_else(|_| Self::default(), |text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let (mut servers, mut search) = (Vec::new(), Vec::new());
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => servers.extend(words.next().and_then(server)),
                // The last one wins; "." is no domain.
                Some("search" | "domain") => {
                    search = words.filter(|w| *w != ".").map(str::to_owned).collect();
                }
                _ => {}
            }
        }
        Self {
            servers: servers.into(),
            search,
        }
    }
}

/// An address; a link-local one may name its interface.
fn server(word: &str) -> Option<SocketAddr> {
    let plain = word.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)).ok();
    plain.or_else(|| {
        let (address, interface) = word.split_once('%')?;
        let index = index_of(interface)?;
        Some(std::net::SocketAddrV6::new(address.parse().ok()?, 53, 0, index).into())
    })
}

fn index_of(interface: &str) -> Option<u32> {
    let name = Path::new("/sys/class/net").join(Path::new(interface).file_name()?);
    let index = std::fs::read_to_string(name.join("ifindex")).ok()?;
    index.trim().parse().ok()
}

impl Watch {
    pub(super) fn new(file: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let watch = Self {
            file: file.to_owned(),
            inotify,
        };
        watch.aim()?;
        Ok(watch)
    }

    /// Where the file can change: its directory, the file behind symbolic links, and that one's directory. What is watched
    /// already is not watched twice.
    fn aim(&self) -> io::Result<()> {
        let content = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_ATTRIB;
        let names = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE;
        let target = std::fs::canonicalize(&self.file).or_else(|_| std::fs::read_link(&self.file));
        if let Some(directory) = self.file.parent() {
            self.inotify.add_watch(directory, names)?;
        }
        if let Ok(target) = target {
            // It may be gone again; its directory will say when it comes back.
            let _ = self.inotify.add_watch(&target, content);
            let existing = target.ancestors().skip(1).find(|d| d.is_dir());
            existing.map(|d| self.inotify.add_watch(d, names)).transpose()?;
        }
        Ok(())
    }

    /// Call `changed` whenever something may have changed.
    pub(super) async fn run(self, mut changed: impl FnMut()) -> io::Result<()> {
        // To tokio any descriptor that becomes readable is as good as a pipe.
        let events = Receiver::from_owned_fd_unchecked(self.inotify.as_fd().try_clone_to_owned()?)?;
        loop {
            events.readable().await?;
            while events.try_read(&mut [0; 1024]).is_ok() {}
            self.aim()?;
            changed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_search_domains_are_read_and_junk_is_not() {
        let text =
            "# x\nnameserver 10.0.0.1\nsearch y\nnameserver ::1 \nnameserver junk\nnameserver fe80::1%lo\n";
        let resolv = Resolv::parse(text);
        let servers: Vec<_> = resolv.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[::1]:53", "[fe80::1%1]:53"]);
        assert_eq!(resolv.search, ["y"]);
    }

    #[tokio::test]
    async fn a_change_is_heard_of_wherever_the_file_is() {
        let dir = tempfile::tempdir().unwrap();
        let (file, run) = (dir.path().join("resolv.conf"), dir.path().join("run"));
        let watch = Watch::new(&file).unwrap();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let reader = file.clone();
        let running = tokio::spawn(watch.run(move || drop(tell.send(Resolv::read(&reader)))));
        let mut expect = async |server: &str| {
            while told
                .recv()
                .await
                .unwrap()
                .servers
                .first()
                .map(ToString::to_string)
                != Some(format!("{server}:53"))
            {}
        };
        std::fs::write(&file, "nameserver 10.0.0.1").unwrap();
        expect("10.0.0.1").await;
        // A link to a file that is not there yet, in a directory that is not there yet.
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(run.join("stub.conf"), &file).unwrap();
        std::fs::create_dir(&run).unwrap();
        std::fs::write(run.join("new"), "nameserver 10.0.0.2").unwrap();
        std::fs::rename(run.join("new"), run.join("stub.conf")).unwrap();
        expect("10.0.0.2").await;
        std::fs::write(run.join("stub.conf"), "nameserver 10.0.0.3").unwrap();
        expect("10.0.0.3").await;
        running.abort();
    }
}
