//! A machine of its own as far as the network is concerned: a network namespace with a loopback. Or, in a virtual machine,
//! that machine itself.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::sethostname;
use tempfile::TempDir;

/// Runs a closure on a thread in the network namespace of a process.
pub fn in_network_of<T: Send>(pid: i64, work: impl FnOnce() -> T + Send) -> Result<T> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    on_a_thread(|| {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    })
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let ended = thread::scope(|scope| scope.spawn(work).join());
    ended.map_err(|_| anyhow!("a thread in the namespace panicked"))?
}

/// A network namespace, alive while this value is.
#[derive(Debug)]
pub struct Host {
    directory: TempDir,
    /// Whether it has a namespace, or is the machine that the test runs on.
    separate: bool,
    /// Its own name; the machine's if there is none.
    name: Option<String>,
}

impl Host {
    /// A new namespace with its loopback up and, inside it alone, IP forwarding on, as a host for containers needs it.
    pub fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("shoal-test-").tempdir()?;
        let host = Self {
            directory,
            separate: true,
            name: None,
        };
        File::create(host.namespace())?;
        let file = host.namespace();
        thread::spawn(move || -> Result<()> {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare the network: the tests need root")?;
            mount(
                Some("/proc/thread-self/ns/net"),
                &file,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )?;
            // The namespace is ours: this is not the machine's setting.
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
            let up = Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status()
                .context("ip (package iproute2)")?;
            if !up.success() {
                bail!("ip link set lo up: {up}");
            }
            Ok(())
        })
        .join()
        .map_err(|_| anyhow!("the thread that makes the namespace panicked"))??;
        Ok(host)
    }

    /// The machine itself, for a test that has one of its own.
    pub fn this_machine() -> Result<Self> {
        Ok(Self {
            directory: tempfile::Builder::new().prefix("shoal-test-").tempdir()?,
            separate: false,
            name: None,
        })
    }

    /// The host under a name of its own, as `hostname` and a cluster's list of nodes show it.
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// A folder that lives as long as the host.
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// The file that holds its network namespace.
    pub fn namespace(&self) -> PathBuf {
        self.directory.path().join("netns")
    }

    /// Runs a closure on a thread in this namespace. Processes that it starts and sockets that it opens stay there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        if !self.separate {
            return Ok(work());
        }
        let namespace = File::open(self.namespace())?;
        on_a_thread(|| {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            if let Some(name) = &self.name {
                unshare(CloneFlags::CLONE_NEWUTS)?;
                sethostname(name)?;
            }
            Ok(work())
        })
    }

    /// Runs `ip` with these words in this namespace.
    pub fn ip(&self, words: &str) -> Result<()> {
        let output = self.enter(|| Command::new("ip").args(words.split_whitespace()).output())??;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ip {words}: {}", error.trim());
        Ok(())
    }

    /// Gives it the IPv6 address 2001:db8:99::`number` beside what it has in a switch.
    pub fn add_ipv6(&self, number: u8) -> Result<()> {
        self.ip(&format!("address add 2001:db8:99::{number}/64 dev eth0 nodad"))
    }

    /// Lets nothing in that comes from these addresses; what is sent to them goes out.
    pub fn deafen(&self, to: &[&str]) -> Result<()> {
        let rules = format!(
            "table inet deaf {{ chain in {{ type filter hook input priority -300; ip saddr {{ {} }} drop\n }}\n }}",
            to.join(", ")
        );
        self.nft(&rules)
    }

    /// Undoes [`Host::deafen`].
    pub fn undeafen(&self) -> Result<()> {
        self.nft("delete table inet deaf")
    }

    /// Gives `nft` these commands in this namespace.
    pub fn nft(&self, rules: &str) -> Result<()> {
        let status = self.enter(|| Command::new("nft").arg(rules).status())?;
        let status = status.context("nft (package nftables)")?;
        ensure!(status.success(), "nft {rules}: {status}");
        Ok(())
    }

    /// Fetches a path over HTTP from an address in this namespace; the body of an answer 200.
    pub fn get(&self, address: &str, path: &str) -> Result<String> {
        let address: SocketAddr = address.parse()?;
        let text = self.enter(|| -> Result<String> {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n")?;
            stream.shutdown(Shutdown::Write)?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })??;
        let (head, body) = text
            .split_once("\r\n\r\n")
            .with_context(|| format!("not HTTP: {text:?}"))?;
        if !head.starts_with("HTTP/1.1 200") && !head.starts_with("HTTP/1.0 200") {
            bail!("{address}{path}: {head}: {body}");
        }
        Ok(body.to_owned())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !self.separate {
            return;
        }
        // Nothing can be done about an error here; the census reports what stays.
        let _ = umount2(&self.namespace(), MntFlags::MNT_DETACH);
    }
}
