//! What lies in a service's containers beside the image: volumes, secrets and configs.

use proto::spec::{BindOptions, Mount, MountType, TmpfsOptions, VolumeOptions};

use super::error::ComposeError;
use super::reader::At;
use super::service::Reference;
use super::{short, units};

type Read<T> = Result<T, ComposeError>;

pub(super) fn volumes(at: &At<'_>) -> Read<Vec<Mount>> {
    at.list()?.iter().map(volume).collect()
}

fn volume(at: &At<'_>) -> Read<Mount> {
    if !at.is_map() {
        return short::mount(&at.text()?, &at.context.directory).map_err(|problem| at.wrong(problem));
    }
    let mut object = at.object()?;
    let kind: MountType = object.required("type", At::word)?;
    let source = object.or_default("source", At::text)?;
    let mut mount = Mount {
        kind,
        source,
        target: object.required("target", At::text)?,
        read_only: object.or_default("read_only", At::truth)?,
        consistency: object.or_default("consistency", At::text)?,
        bind_options: object.read("bind", bind_options)?,
        volume_options: object.read("volume", volume_options)?,
        tmpfs_options: object.read("tmpfs", tmpfs_options)?,
    };
    object.finish()?;
    if !mount.target.starts_with('/') {
        return Err(at.wrong(format!("target {:?} must begin with /", mount.target)));
    }
    match kind {
        MountType::Bind if mount.source.is_empty() => return Err(at.wrong("a bind needs a source")),
        MountType::Bind => {
            mount.source = short::host_path(&mount.source, &at.context.directory)
                .map_err(|problem| at.wrong(problem))?;
        }
        MountType::Volume => {}
        MountType::Tmpfs if !mount.source.is_empty() => return Err(at.wrong("a tmpfs has no source")),
        MountType::Tmpfs => {}
        MountType::Npipe | MountType::Cluster | MountType::Image => {
            return Err(at.wrong(format!(
                "mounts of type {kind} are not built: use bind, volume or tmpfs"
            )));
        }
    }
    Ok(mount)
}

fn bind_options(at: &At<'_>) -> Read<BindOptions> {
    let mut object = at.object()?;
    let options = BindOptions {
        propagation: object.or_default("propagation", At::text)?,
        create_mountpoint: object.read("create_host_path", At::truth)?.unwrap_or(false),
        non_recursive: object.read("recursive", At::text)?.as_deref() == Some("disabled"),
        ..BindOptions::default()
    };
    object.ignore(&["selinux"]);
    object.finish()?;
    Ok(options)
}

fn volume_options(at: &At<'_>) -> Read<VolumeOptions> {
    let mut object = at.object()?;
    let options = VolumeOptions {
        no_copy: object.or_default("nocopy", At::truth)?,
        labels: object.or_default("labels", At::labels)?,
        driver_config: None,
        subpath: object.or_default("subpath", At::text)?,
    };
    object.finish()?;
    Ok(options)
}

fn tmpfs_options(at: &At<'_>) -> Read<TmpfsOptions> {
    let mut object = at.object()?;
    let options = TmpfsOptions {
        size_bytes: object.or_default("size", At::bytes)?,
        mode: object.or_default("mode", mode)?,
        options: Vec::new(),
    };
    object.finish()?;
    Ok(options)
}

/// `tmpfs: /path` or a list of them, each with options behind a colon.
pub(super) fn tmpfs(at: &At<'_>) -> Read<Vec<Mount>> {
    let one = |text: String| {
        let (target, options) = text.split_once(':').unwrap_or((&text, ""));
        let mut tmpfs = TmpfsOptions::default();
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("size", size)) => {
                    tmpfs.size_bytes = units::bytes(size).map_err(|problem| at.wrong(problem))?;
                }
                Some(("mode", mode)) => {
                    tmpfs.mode =
                        u32::from_str_radix(mode, 8).map_err(|_| at.wrong(format!("mode {mode:?}")))?;
                }
                _ => {
                    return Err(at.wrong(format!(
                        "the option {option:?} of a tmpfs is not known: size, mode"
                    )));
                }
            }
        }
        if !target.starts_with('/') {
            return Err(at.wrong(format!("{target:?} must begin with /")));
        }
        let target = target.to_owned();
        Ok(Mount {
            kind: MountType::Tmpfs,
            target,
            tmpfs_options: Some(tmpfs),
            ..Mount::default()
        })
    };
    at.one_or_more()?.into_iter().map(one).collect()
}

/// Permission bits: YAML's octal forms `0440` and `0o440`, or a decimal number as YAML 1.2 reads it without them.
fn mode(at: &At<'_>) -> Read<u32> {
    let text = at.scalar()?;
    let digits = text
        .strip_prefix("0o")
        .or_else(|| text.strip_prefix('0').filter(|rest| !rest.is_empty()));
    let parsed = match digits {
        Some(octal) => u32::from_str_radix(octal, 8),
        None => text.parse(),
    };
    let parsed = parsed.ok().filter(|&mode| mode <= 0o7777);
    parsed.ok_or_else(|| at.wrong(format!("{text:?} is not a mode such as 0440")))
}

pub(super) fn references(at: &At<'_>) -> Read<Vec<Reference>> {
    at.list()?.iter().map(reference).collect()
}

fn reference(at: &At<'_>) -> Read<Reference> {
    if !at.is_map() {
        return Ok(Reference {
            source: at.text()?,
            ..Reference::default()
        });
    }
    let mut object = at.object()?;
    let reference = Reference {
        source: object.required("source", At::text)?,
        target: object.read("target", At::text)?,
        uid: object.read("uid", At::scalar)?,
        gid: object.read("gid", At::scalar)?,
        mode: object.read("mode", mode)?,
    };
    object.finish()?;
    Ok(reference)
}
