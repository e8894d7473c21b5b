//! Becoming the user that the payload runs as.

use rustix::process::{Gid, Uid};
use rustix::thread::{set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::Error;

/// Numbers of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Additional groups; replaces those of the caller even if empty.
    pub(crate) groups: Vec<u32>,
}

impl Identity {
    /// Root, with no other group.
    pub(crate) const ROOT: Self = Self {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
    };

    /// Becomes it, keeping the permitted capabilities.
    pub(crate) fn assume(&self) -> Result<(), Error> {
        let groups: Vec<Gid> = self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let step = |text| move |error: rustix::io::Errno| Error::Step(text, error.into());
        set_keep_capabilities(true).map_err(step("keep capabilities over the change of user"))?;
        match set_thread_groups(&groups) {
            // A user namespace may forbid it (user_namespaces(7), "setgroups"); then there is nothing to give up either.
            Err(rustix::io::Errno::PERM) if groups.is_empty() => {}
            done => done.map_err(step("set the additional groups"))?,
        }
        set_thread_res_gid(gid, gid, gid).map_err(step("set the group"))?;
        set_thread_res_uid(uid, uid, uid).map_err(step("set the user"))
    }
}
