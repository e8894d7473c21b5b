//! One controller per file: the fields of `linux.resources` that belong to it, as writes for v1 and v2.

pub(super) mod cpu;
pub(super) mod device_program;
pub(super) mod devices;
pub(super) mod hugetlb;
pub(super) mod io;
pub(super) mod memory;
pub(super) mod pids;
