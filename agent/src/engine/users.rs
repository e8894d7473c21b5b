//! Who a process in a container is: `--user` looked up in the container's own passwd and group files.
//!
//! The files belong to the image or container and are hostile: they are read through a confined descriptor, bounded in
//! size, and only regular files count (CVE-2026-47262). A number is never looked up as a name (CVE-2016-3697), and
//! must fit 31 bits (CVE-2024-40635).

use storage::RootFd;

use super::error::{EngineError, Result};

/// No real passwd or group file is larger.
const FILE_LIMIT: u64 = 4 << 20;
/// Linux takes 65536 groups at most (NGROUPS_MAX).
const GROUP_LIMIT: usize = 65_536;

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// `gid` first, then the others, ascending, unique: a process whose primary group changes must not fall out of it
    /// (CVE-2022-36109).
    pub additional: Vec<u32>,
    pub home: String,
}

/// The account files of a container, bounded.
#[derive(Debug, Default)]
pub struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Reads both files; an absent file is empty.
    ///
    /// # Errors
    /// A file that is too large or no regular file.
    pub fn read(root: &RootFd) -> Result<Self> {
        Ok(Self {
            passwd: read(root, "/etc/passwd")?,
            group: read(root, "/etc/group")?,
        })
    }

    /// Resolves `user[:group]` (empty: root) with the groups of `--group-add`.
    ///
    /// # Errors
    /// An unknown name or a number out of range, named.
    pub fn resolve(&self, spec: &str, group_add: &[String]) -> Result<Identity> {
        let (user, group) = match spec.split_once(':') {
            None => (spec, None),
            Some((_, "")) => {
                return Err(EngineError::Invalid(format!(
                    "invalid user {spec:?}: empty group"
                )));
            }
            Some((user, group)) => (user, Some(group)),
        };
        let account = self.account(user)?;
        let mut additional = Vec::new();
        let gid = match group {
            Some(group) => self.group_id(group)?,
            None => {
                additional = account
                    .name
                    .as_deref()
                    .map(|name| self.memberships(name))
                    .unwrap_or_default();
                account.gid
            }
        };
        for group in group_add {
            additional.push(self.group_id(group)?);
        }
        additional.sort_unstable();
        additional.dedup();
        additional.retain(|id| *id != gid);
        additional.insert(0, gid);
        additional.truncate(GROUP_LIMIT);
        Ok(Identity {
            uid: account.uid,
            gid,
            additional,
            home: account.home,
        })
    }

    fn account(&self, user: &str) -> Result<Account> {
        let entries = || self.passwd.lines().filter_map(Account::parse);
        if user.is_empty() || is_numeric(user) {
            let uid = if user.is_empty() { 0 } else { number(user)? };
            return Ok(entries()
                .find(|entry| entry.uid == uid)
                .unwrap_or_else(|| Account::nameless(uid)));
        }
        entries()
            .find(|entry| entry.name.as_deref() == Some(user))
            .ok_or_else(|| {
                EngineError::Invalid(format!(
                    "unable to find user {user}: no matching entries in passwd file"
                ))
            })
    }

    fn group_id(&self, group: &str) -> Result<u32> {
        if is_numeric(group) {
            return number(group);
        }
        self.groups()
            .find(|(name, ..)| *name == group)
            .map(|(_, gid, _)| gid)
            .ok_or_else(|| {
                EngineError::Invalid(format!(
                    "unable to find group {group}: no matching entries in group file"
                ))
            })
    }

    fn memberships(&self, user: &str) -> Vec<u32> {
        self.groups()
            .filter(|(.., members)| members.split(',').any(|m| m == user))
            .map(|(_, gid, _)| gid)
            .collect()
    }

    /// name, gid, members
    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            let gid = fields.nth(1)?.parse().ok()?;
            Some((name, gid, fields.next().unwrap_or("")))
        })
    }
}

struct Account {
    name: Option<String>,
    uid: u32,
    gid: u32,
    home: String,
}

impl Account {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields
            .next()
            .filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).filter(|home| home.starts_with('/')).unwrap_or("/");
        Some(Self {
            name: Some(name.to_owned()),
            uid,
            gid,
            home: home.to_owned(),
        })
    }

    fn nameless(uid: u32) -> Self {
        Self {
            name: None,
            uid,
            gid: 0,
            home: "/".into(),
        }
    }
}

/// Anything that begins like a number is one: `1000x` is an error, not a name, and neither is `-1`.
fn is_numeric(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

fn number(text: &str) -> Result<u32> {
    match text.parse::<u32>() {
        Ok(id) if id <= i32::MAX as u32 && !text.starts_with('+') => Ok(id),
        _ => Err(EngineError::Invalid(format!(
            "uids and gids must be in range 0-2147483647, not {text}"
        ))),
    }
}

fn read(root: &RootFd, path: &str) -> Result<String> {
    match root.read_file(path, FILE_LIMIT) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(storage::RootError::NotFound { .. }) => Ok(String::new()),
        Err(error) => Err(EngineError::storage(format!(
            "look up users in the container's {path}"
        ))(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n1000:x:0:0::/evil:/bin/sh\n\
                     broken\nbad:x:99999999999:0::/:/x\n"
                .into(),
            group: "root:x:0:root\nwheel:x:10:root,app\nextra:x:11:app\nempty:x:12:\n".into(),
        }
    }

    #[test]
    fn names_and_their_groups() {
        let app = accounts().resolve("app", &[]).unwrap();
        assert_eq!(
            (app.uid, app.gid, app.additional, app.home.as_str()),
            (1000, 1001, vec![1001, 10, 11], "/home/app")
        );
        let root = accounts().resolve("", &["extra".into(), "77".into()]).unwrap();
        assert_eq!(
            (root.uid, root.gid, root.additional, root.home.as_str()),
            (0, 0, vec![0, 10, 11, 77], "/root")
        );
    }

    #[test]
    fn a_number_is_never_a_name() {
        let user = accounts().resolve("1000", &[]).unwrap();
        assert_eq!((user.uid, user.home.as_str()), (1000, "/home/app"));
        let unknown = accounts().resolve("4242", &[]).unwrap();
        assert_eq!((unknown.uid, unknown.gid, unknown.home.as_str()), (4242, 0, "/"));
    }

    #[test]
    fn an_explicit_group_replaces_memberships() {
        let app = accounts().resolve("app:wheel", &[]).unwrap();
        assert_eq!((app.gid, app.additional), (10, vec![10]));
        assert_eq!(accounts().resolve("5:6", &[]).unwrap().gid, 6);
    }

    #[test]
    fn out_of_range_and_unknown_are_refused() {
        for bad in [
            "2147483648",
            "4294967296",
            "-1",
            "+1",
            "1:",
            "nobody",
            "root:nogroup",
            "0:-5",
            "root:4294967295",
        ] {
            assert!(accounts().resolve(bad, &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn hostile_files_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootFd::open_host(dir.path()).unwrap();
        assert_eq!(Accounts::read(&root).unwrap().passwd, "");
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let huge = std::fs::File::create(dir.path().join("etc/group")).unwrap();
        huge.set_len(1 << 30).unwrap();
        assert!(Accounts::read(&root).is_err());
        std::fs::remove_file(dir.path().join("etc/group")).unwrap();
        let fifo = dir.path().join("etc/passwd");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(Accounts::read(&root).is_err());
    }
}
