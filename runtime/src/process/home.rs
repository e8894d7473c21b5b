//! `HOME` of a process that its configuration does not give one: the sixth field of the container's /etc/passwd, read by
//! the runtime itself through the root's descriptor (no NSS, nothing of the image is loaded).

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{FileType, OFlags};

use crate::rootfs::path::{Links, Root};

/// As much of /etc/passwd as is read; an image may bring one without bound.
const MAX_LENGTH: u64 = 1 << 20;

/// Home directory of `uid`, or `/`.
pub(crate) fn directory(root: &Root, uid: u32) -> String {
    read_passwd(root)
        .and_then(|passwd| find(&passwd, uid))
        .unwrap_or_else(|| "/".to_owned())
}

/// Neither a FIFO (hence `O_NONBLOCK`) nor a device is read.
fn read_passwd(root: &Root) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = root.open(Path::new("/etc/passwd"), flags, Links::Follow).ok()?;
    let mode = rustix::fs::fstat(&file).ok()?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return None;
    }
    let mut bytes = Vec::new();
    File::from(file).take(MAX_LENGTH).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn find(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let matches = fields.get(2)?.parse::<u32>() == Ok(uid);
        let home = fields.get(5).filter(|home| home.starts_with('/'))?;
        matches.then(|| (*home).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_decides_not_the_name() {
        let passwd = "1000:x:0:0::/named:/bin/sh\nroot:x:0:0:root:/root:/bin/sh\nu:x:1000:1::/home/u:\n";
        assert_eq!(find(passwd, 1000).unwrap(), "/home/u");
        assert_eq!(find(passwd, 7), None);
        assert_eq!(find("bad line\nx:y:notanumber:0::/x:", 0), None);
    }
}
