//! The overlay root, through the new mount API: one `lowerdir+` per layer, so that the number of layers is bounded by
//! overlayfs (500) and not by the page that mount(2) has for its options.

use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use super::{Error, overlay_legacy as legacy};
use crate::container::OverlayMount;

/// Mounts `overlay`, detached: it becomes visible where init attaches it, nowhere else.
pub(crate) fn mount(overlay: &OverlayMount) -> Result<OwnedFd, Error> {
    let context = Context::open("overlay")?;
    context.set("source", Some("overlay"))?;
    for (index, layer) in overlay.lower.iter().enumerate() {
        match context.set_path("lowerdir+", layer) {
            // The option itself, not the layer, is unknown to this kernel.
            Err(error) if index == 0 && layer.is_dir() && error.is_unknown_option() => {
                return legacy::mount_legacy(overlay).map_err(|source| context.error(None, source));
            }
            set => set?,
        }
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
