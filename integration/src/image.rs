//! Images for tests, made from the machine's own busybox (Debian's package busybox-static).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// A build context, as the classic builder takes it: a tar of a Dockerfile and what it copies.
pub fn context(dockerfile: &str, files: &[(&str, &[u8], u32)]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "Dockerfile", dockerfile.as_bytes(), 0o644)?;
    for (name, content, mode) in files {
        append(&mut tar, name, content, *mode)?;
    }
    Ok(tar.into_inner()?)
}

/// The context of an image with a shell and the usual tools: busybox under each of their names that the tests use.
pub fn busybox(more: &str) -> Result<Vec<u8>> {
    let program = fs::read("/bin/busybox").context("/bin/busybox: apt-get install busybox-static")?;
    let dockerfile = format!(
        "FROM scratch\nCOPY busybox /bin/busybox\nCOPY bin/ /bin/\nCOPY etc/ /etc/\nENV PATH=/bin\nCMD [\"sh\"]\n{more}\n"
    );
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "Dockerfile", dockerfile.as_bytes(), 0o644)?;
    append(&mut tar, "busybox", &program, 0o755)?;
    append(
        &mut tar,
        "etc/passwd",
        b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n",
        0o644,
    )?;
    append(
        &mut tar,
        "etc/group",
        b"root:x:0:\napp:x:1000:\nextra:x:2000:app\n",
        0o644,
    )?;
    for tool in TOOLS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, format!("bin/{tool}"), "busybox")?;
    }
    Ok(tar.into_inner()?)
}

/// A folder with everything in it, as a tar.
pub fn folder(path: &Path) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir_all(".", path)?;
    Ok(tar.into_inner()?)
}

/// A context again as an archive that can be added to.
pub fn reopen(context: &[u8]) -> Result<tar::Builder<Vec<u8>>> {
    let mut copy = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(context).entries()? {
        let entry = entry?;
        let mut header = entry.header().clone();
        let path = entry.path()?.into_owned();
        match entry.link_name()? {
            Some(target) => copy.append_link(&mut header, path, &target)?,
            None => copy.append_data(&mut header, path, entry)?,
        }
    }
    Ok(copy)
}

/// Adds a file.
pub fn add(tar: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) -> Result<()> {
    append(tar, name, content, 0o644)
}

/// An archive with one entry whose name no honest program would write.
pub fn raw_entry(name: &str, content: &[u8]) -> Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    let field = &mut header.as_gnu_mut().context("a GNU header")?.name;
    field[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(content.len().try_into()?);
    header.set_mode(0o644);
    header.set_cksum();
    let mut tar = tar::Builder::new(Vec::new());
    tar.append(&header, content)?;
    Ok(tar.into_inner()?)
}

const TOOLS: &[&str] = &[
    "sh", "true", "false", "echo", "cat", "ls", "id", "sleep", "env", "hostname", "mount", "grep", "seq",
    "touch", "rm", "mkdir", "head", "tail", "wc", "nc", "httpd", "wget", "nslookup", "ip", "ps", "kill",
    "test", "dd", "yes", "stat", "stty", "chmod", "date", "printf", "tr", "ping", "pwd", "sync", "timeout",
];

fn append(tar: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8], mode: u32) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len().try_into()?);
    header.set_mode(fs::Permissions::from_mode(mode).mode());
    tar.append_data(&mut header, name, content)?;
    Ok(())
}
