//! The overlay root, through the new mount API: one `lowerdir+` per layer, so that the number of layers is bounded by
//! overlayfs (500) and not by the page that mount(2) has for its options. Linux before 6.8 has only the latter.

use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use sys::overlay::{Overlay, mount_in_one, takes_layers_one_by_one};

use super::Error;
use crate::container::OverlayMount;

/// Mounts `overlay`, detached: it becomes visible where init attaches it, nowhere else.
pub(crate) fn mount(overlay: &OverlayMount) -> Result<OwnedFd, Error> {
    if !takes_layers_one_by_one() {
        return mount_older(overlay);
    }
    let context = Context::open("overlay")?;
    context.set("source", Some("overlay"))?;
    for layer in &overlay.lower {
        context.set_path("lowerdir+", layer)?;
    }
    if let Some(upper) = &overlay.upper {
        context.set_path("upperdir", upper)?;
    }
    if let Some(work) = &overlay.work {
        context.set_path("workdir", work)?;
    }
    for option in &overlay.options {
        match option.split_once('=') {
            Some((name, value)) => context.set(name, Some(value))?,
            None => context.set(option, None)?,
        }
    }
    context.mount(MountAttrFlags::empty())
}

fn mount_older(overlay: &OverlayMount) -> Result<OwnedFd, Error> {
    let mount = Overlay {
        lower: &overlay.lower,
        upper: overlay.upper.as_deref(),
        work: overlay.work.as_deref(),
        options: &overlay.options,
        flags: MountFlags::empty(),
    };
    mount_in_one(&mount).map_err(|source| Error::Filesystem {
        fstype: "overlay".to_owned(),
        option: None,
        log: String::new(),
        source,
    })
}

/// A filesystem that is being configured (`fsopen(2)`).
pub(super) struct Context {
    fd: OwnedFd,
    fstype: String,
}

impl Context {
    /// Starts the configuration of a new filesystem of type `fstype`.
    pub(super) fn open(fstype: &str) -> Result<Self, Error> {
        let fd = fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|source| Error::Filesystem {
            fstype: fstype.to_owned(),
            option: None,
            log: String::new(),
            source: source.into(),
        })?;
        Ok(Self {
            fd,
            fstype: fstype.to_owned(),
        })
    }

    /// Sets one option.
    pub(super) fn set(&self, name: &str, value: Option<&str>) -> Result<(), Error> {
        match value {
            Some(value) => fsconfig_set_string(&self.fd, name, value),
            None => fsconfig_set_flag(&self.fd, name),
        }
        .map_err(|source| {
            let option = value.map_or_else(|| name.to_owned(), |value| format!("{name}={value}"));
            self.error(Some(option), source.into())
        })
    }

    fn set_path(&self, name: &str, value: &std::path::Path) -> Result<(), Error> {
        fsconfig_set_string(&self.fd, name, value)
            .map_err(|source| self.error(Some(format!("{name}={}", value.display())), source.into()))
    }

    /// Creates the filesystem and a detached mount of it.
    pub(super) fn mount(&self, attributes: MountAttrFlags) -> Result<OwnedFd, Error> {
        fsconfig_create(&self.fd)
            .and_then(|()| fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes))
            .map_err(|source| self.error(None, source.into()))
    }

    fn error(&self, option: Option<String>, source: io::Error) -> Error {
        Error::Filesystem {
            fstype: self.fstype.clone(),
            option,
            log: self.log(),
            source,
        }
    }

    /// What the filesystem has to say: one message per read, ENODATA at the end (fsopen's message log).
    fn log(&self) -> String {
        let mut messages = Vec::new();
        let mut buffer = [0; 512];
        while let Ok(mut file) = self.fd.try_clone().map(std::fs::File::from) {
            match file.read(&mut buffer) {
                Ok(length) if length > 0 && messages.len() < 8 => {
                    let text = String::from_utf8_lossy(&buffer[..length]);
                    // "e overlay: text": the letter is the severity.
                    messages.push(
                        text.trim_end()
                            .split_once(' ')
                            .map_or("", |(_, text)| text)
                            .to_owned(),
                    );
                }
                _ => break,
            }
        }
        messages.join("; ")
    }
}
