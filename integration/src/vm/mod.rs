//! A real virtual machine: another kernel, cgroup v2 alone, nothing around the agent.
//!
//! In: the kernels below `target/vm` (`.ci/kernels` fetches them) and the binaries under test. Out: what the guest program
//! (`src/bin/guest`) reports over the serial line. The processor is always emulated: a /dev/kvm inside a virtual machine may be
//! there and not be able to run a kernel.

mod initramfs;
mod kernel;
mod report;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use kernel::{Kernel, kernels};
pub use report::{DONE, Report, line};

/// How long a machine may take; emulated on a busy computer everything takes its time.
const PATIENCE: Duration = Duration::from_secs(300);
/// Bytes of the machine's disk; the file has holes.
const DISK: u64 = 1 << 30;
/// The kernel's command line. A panic ends the machine, and with it qemu (`-no-reboot`).
const KERNEL_WORDS: &str = "console=ttyS0 quiet loglevel=4 panic=-1 random.trust_cpu=on rdinit=/init";

/// Word of the kernel's command line that keeps the guest from making the checks that take long.
pub const BRIEF: &str = "shoal.brief";

/// Boots a machine with this kernel and `guest` as its first process, and waits until it has ended. `words` are added to the
/// kernel's command line.
pub fn run(kernel: &Kernel, guest: &Path, words: &str) -> Result<Report> {
    let directory = tempfile::Builder::new().prefix("shoal-test-vm-").tempdir()?;
    let archive = initramfs::build(kernel, guest, directory.path())?;
    let disk = directory.path().join("disk");
    File::create(&disk)?.set_len(DISK)?;
    let mut machine = Machine(start(kernel, &archive, &disk, words)?);
    let log = machine.listen()?;
    Ok(Report::parse(&log))
}

/// A running qemu; dropped, it is killed.
struct Machine(Child);

impl Machine {
    /// Everything on the serial line until the machine ends, or until patience does.
    fn listen(&mut self) -> Result<String> {
        let output = self.0.stdout.take().context("qemu has no output")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if sender
                    .send(String::from_utf8_lossy(&line).trim_end().to_owned())
                    .is_err()
                {
                    return;
                }
            }
        });
        let end = Instant::now() + PATIENCE;
        let mut log = String::new();
        loop {
            match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if std::env::var_os("SHOAL_VM_LOG").is_some() {
                        eprintln!("{line}");
                    }
                    log.push_str(&line);
                    log.push('\n');
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(log),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    bail!("the machine has not ended after {PATIENCE:?}:\n{log}")
                }
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It has ended already, if all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(kernel: &Kernel, archive: &Path, disk: &Path, words: &str) -> Result<Child> {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max"]);
    command.args([
        "-smp",
        "2",
        "-m",
        "1536",
        "-no-reboot",
        "-nodefaults",
        "-display",
        "none",
    ]);
    command.args(["-serial", "stdio", "-append"]);
    command.arg(format!("{KERNEL_WORDS} {words}"));
    command
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(archive);
    command.arg("-drive").arg(format!(
        "file={},if=virtio,format=raw,cache=unsafe",
        disk.display()
    ));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    command
        .spawn()
        .context("start qemu-system-x86_64: apt-get install --no-install-recommends qemu-system-x86")
}
