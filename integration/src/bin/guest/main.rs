//! The first process of a virtual machine of the tests (`integration::vm`): makes the machine ready as a distribution
//! would, checks the agent in it, reports over the serial line, and ends the machine.
//!
//! It is started three times: as `/init` of the initial memory disk, with `init` as process 1 on the disk, and with
//! `checks` as a service.

mod checks;
mod machine;

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;

fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        Some("init") => init(),
        Some("checks") => machine::enter_service().and_then(|()| checks::run()),
        _ => machine::to_disk(),
    };
    if let Err(error) = outcome {
        println!("guest: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Process 1: prepares the machine, runs the checks, takes in orphans meanwhile, and ends the machine.
fn init() -> Result<()> {
    machine::prepare()?;
    let checks = Command::new("/shoal/deps/guest").arg("checks").spawn()?;
    let checks = Pid::from_raw(checks.id().cast_signed());
    loop {
        match wait().context("wait for the checks")? {
            WaitStatus::Exited(pid, code) if pid == checks => {
                println!("guest: the checks ended with {code}");
                break;
            }
            WaitStatus::Signaled(pid, signal, _) if pid == checks => {
                println!("guest: the checks ended by {signal}");
                break;
            }
            _ => {}
        }
    }
    Command::new("/bin/busybox").args(["reboot", "-f"]).status()?;
    Ok(())
}
