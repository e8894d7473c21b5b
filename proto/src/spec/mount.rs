//! What is mounted into a container.

use super::Labels;
use crate::json::{api_struct, api_word};

api_word! {
    /// What kind of thing is mounted.
    pub enum MountType {
        /// A path of the host.
        Bind = "bind",
        /// A named or anonymous volume.
        #[default]
        Volume = "volume",
        /// Memory.
        Tmpfs = "tmpfs",
        /// A pipe of Windows; refused.
        Npipe = "npipe",
        /// A volume of a cluster's storage; refused.
        Cluster = "cluster",
        /// An image's files; refused.
        Image = "image",
    }
}

api_struct! {
    /// One mount.
    pub struct Mount {
        /// What kind.
        #[serde(rename = "Type")]
        pub kind: MountType,
        /// Path of the host, or name of the volume; empty for an anonymous one.
        pub source: String,
        /// Path in the container.
        pub target: String,
        /// Whether it can only be read.
        pub read_only: bool,
        /// Of macOS; `default`, `consistent`, `cached`, `delegated` mean the same here.
        pub consistency: String,
        /// For binds.
        pub bind_options: Option<BindOptions>,
        /// For volumes.
        pub volume_options: Option<VolumeOptions>,
        /// For memory.
        pub tmpfs_options: Option<TmpfsOptions>,
    }
}

api_struct! {
    /// How a bind behaves.
    pub struct BindOptions {
        /// `private`, `rprivate`, `shared`, `rshared`, `slave` or `rslave`; `rprivate` where it is empty.
        pub propagation: String,
        /// Whether mounts below the source stay out.
        pub non_recursive: bool,
        /// Whether a missing source is made, as a directory.
        pub create_mountpoint: bool,
        /// Whether only the top mount is read-only.
        pub read_only_non_recursive: bool,
        /// Whether it must be read-only all the way down, or fail.
        pub read_only_force_recursive: bool,
    }
}

api_struct! {
    /// How a volume is made and filled.
    pub struct VolumeOptions {
        /// Whether the image's content stays out of an empty volume.
        pub no_copy: bool,
        /// Labels, if the volume is made now.
        pub labels: Labels,
        /// Driver, if the volume is made now.
        pub driver_config: Option<VolumeDriver>,
        /// A directory within the volume.
        pub subpath: String,
    }
}

api_struct! {
    /// A volume driver and its options.
    pub struct VolumeDriver {
        /// `local` where it is empty.
        pub name: String,
        /// Options of the driver.
        pub options: Labels,
    }
}

api_struct! {
    /// How memory is mounted.
    pub struct TmpfsOptions {
        /// Bytes at most; 0 is no limit.
        pub size_bytes: i64,
        /// Permission bits of the top directory; 0 is 1777.
        pub mode: u32,
        /// Further mount options.
        pub options: Vec<Vec<String>>,
    }
}
