//! Images for tests, made from the machine's own busybox (Debian's package busybox-static).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

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
        append_link(&mut tar, &format!("bin/{tool}"), "busybox")?;
    }
    Ok(tar.into_inner()?)
}

/// An image archive as `docker save` writes it: busybox, and `count` layers over it with a file `/layer/<number>` each.
pub fn layered(name: &str, count: usize) -> Result<Vec<u8>> {
    let mut layers = vec![busybox_layer()?];
    for number in 0..count {
        let mut tar = tar::Builder::new(Vec::new());
        append(&mut tar, &format!("layer/{number}"), b"x", 0o644)?;
        layers.push(tar.into_inner()?);
    }
    let digests: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    let ids: Vec<String> = digests.iter().map(|digest| format!("sha256:{digest}")).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": ids},
    });
    let files: Vec<String> = digests.iter().map(|digest| format!("{digest}.tar")).collect();
    let manifest =
        json!([{"Config": "config.json", "RepoTags": [format!("{name}:latest")], "Layers": files}]);
    let mut tar = tar::Builder::new(Vec::new());
    for (file, layer) in files.iter().zip(&layers) {
        append(&mut tar, file, layer, 0o644)?;
    }
    append(&mut tar, "config.json", &serde_json::to_vec(&config)?, 0o644)?;
    append(&mut tar, "manifest.json", &serde_json::to_vec(&manifest)?, 0o644)?;
    Ok(tar.into_inner()?)
}

fn busybox_layer() -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "bin/busybox", &fs::read("/bin/busybox")?, 0o755)?;
    for tool in TOOLS {
        append_link(&mut tar, &format!("bin/{tool}"), "busybox")?;
    }
    Ok(tar.into_inner()?)
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
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

fn append_link(tar: &mut tar::Builder<Vec<u8>>, name: &str, target: &str) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    tar.append_link(&mut header, name, target)?;
    Ok(())
}
