//! Resource limits (getrlimit(2)).

use oci_spec::runtime::{PosixRlimit, PosixRlimitType};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::Error;

/// Sets `limits` on the calling process.
pub(crate) fn apply(limits: &[PosixRlimit]) -> Result<(), Error> {
    for limit in limits {
        // RLIM_INFINITY is the largest number; rustix words it as None.
        let value = |limit: u64| (limit != u64::MAX).then_some(limit);
        let new = Rlimit {
            current: value(limit.soft()),
            maximum: value(limit.hard()),
        };
        setrlimit(resource(limit.typ()), new).map_err(|source| Error::Rlimit {
            name: limit.typ().to_string(),
            soft: limit.soft(),
            hard: limit.hard(),
            source: source.into(),
        })?;
    }
    Ok(())
}

/// What a refusal means: only that the hard limit would have been raised.
pub(super) fn hint(source: &std::io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM) => " (raising a hard limit needs CAP_SYS_RESOURCE)",
        _ => "",
    }
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}
