//! The container of a task.

use super::{Labels, Mount};
use crate::json::api_struct;
use crate::{ConfigId, SecretId};

api_struct! {
    /// What a task's container is made of.
    pub struct ContainerSpec {
        /// The image, as the user wrote it.
        pub image: String,
        /// Labels of the container.
        pub labels: Labels,
        /// Takes the place of the image's entrypoint.
        pub command: Vec<String>,
        /// Takes the place of the image's command.
        pub args: Vec<String>,
        /// May hold templates such as `{{.Task.Slot}}`.
        pub hostname: String,
        /// `NAME=value`; may hold templates.
        pub env: Vec<String>,
        /// Working directory.
        pub dir: String,
        /// `user[:group]`, names or numbers.
        pub user: String,
        /// Groups in addition.
        pub groups: Vec<String>,
        /// What the container may do beyond the default, or less.
        pub privileges: Option<Privileges>,
        /// Whether an init process reaps in it.
        pub init: Option<bool>,
        /// Signal that ends it gently; the image's, or SIGTERM, where it is empty.
        pub stop_signal: String,
        /// Whether it has a terminal.
        #[serde(rename = "TTY")]
        pub tty: bool,
        /// Whether its standard input stays open.
        pub open_stdin: bool,
        /// Whether its root is read-only.
        pub read_only: bool,
        /// What is mounted into it.
        pub mounts: Vec<Mount>,
        /// Nanoseconds between the stop signal and SIGKILL; 10 s where it is not said.
        pub stop_grace_period: Option<i64>,
        /// Takes the place of the image's healthcheck.
        pub healthcheck: Option<HealthConfig>,
        /// Lines for /etc/hosts: `IP name [name …]`.
        pub hosts: Vec<String>,
        /// Takes the place of the node's resolver settings.
        #[serde(rename = "DNSConfig")]
        pub dns_config: Option<DnsConfig>,
        /// Files that hold secrets.
        pub secrets: Vec<SecretReference>,
        /// Files that hold configs.
        pub configs: Vec<ConfigReference>,
        /// Only `default` and empty mean something on Linux.
        pub isolation: String,
        /// Kernel settings of its namespaces.
        pub sysctls: Labels,
        /// Capabilities beyond the default set.
        pub capability_add: Vec<String>,
        /// Capabilities taken from the default set.
        pub capability_drop: Vec<String>,
        /// Resource limits per process.
        pub ulimits: Vec<Ulimit>,
        /// Added to the kernel's badness when memory runs out, -1000 to 1000.
        pub oom_score_adj: i64,
    }
}

api_struct! {
    /// How the health of a container is found out. Times are nanoseconds; 0 is the default.
    pub struct HealthConfig {
        /// Empty: as the image says. `["NONE"]`: none. `["CMD", …]`: a program. `["CMD-SHELL", "line"]`: a shell's line.
        pub test: Vec<String>,
        /// Between two probes; 30 s.
        pub interval: i64,
        /// For one probe; 30 s.
        pub timeout: i64,
        /// In which failures do not count; 0 s.
        pub start_period: i64,
        /// Between two probes within the start period; 5 s.
        pub start_interval: i64,
        /// Failures in a row that make it unhealthy; 3.
        pub retries: i64,
    }
}

api_struct! {
    /// What a container may do beyond the default, or less.
    pub struct Privileges {
        /// Of Windows; refused.
        pub credential_spec: Option<CredentialSpec>,
        /// Labels of SELinux.
        #[serde(rename = "SELinuxContext")]
        pub selinux_context: Option<SeLinuxContext>,
        /// Which system calls it may make.
        pub seccomp: Option<SeccompOptions>,
        /// Profile of AppArmor.
        pub app_armor: Option<AppArmor>,
        /// Whether exec can never give more rights.
        pub no_new_privileges: bool,
    }
}

api_struct! {
    /// Credentials of Windows.
    pub struct CredentialSpec {
        /// A config that holds it.
        pub config: String,
        /// A file that holds it.
        pub file: String,
        /// A registry key that holds it.
        pub registry: String,
    }
}

api_struct! {
    /// Labels of SELinux.
    pub struct SeLinuxContext {
        /// Whether labels are off.
        pub disable: bool,
        /// Part of the label.
        pub user: String,
        /// Part of the label.
        pub role: String,
        /// Part of the label.
        #[serde(rename = "Type")]
        pub kind: String,
        /// Part of the label.
        pub level: String,
    }
}

api_struct! {
    /// Which system calls a container may make.
    pub struct SeccompOptions {
        /// `default`, `unconfined` or `custom`.
        pub mode: String,
        /// The profile's JSON in base64, for `custom`.
        pub profile: String,
    }
}

api_struct! {
    /// Profile of AppArmor.
    pub struct AppArmor {
        /// `default` or `disabled`.
        pub mode: String,
    }
}

api_struct! {
    /// Settings of the resolver.
    pub struct DnsConfig {
        /// Addresses of name servers.
        pub nameservers: Vec<String>,
        /// Domains to search in.
        pub search: Vec<String>,
        /// Options of resolv.conf(5).
        pub options: Vec<String>,
    }
}

api_struct! {
    /// Where a secret or config lies in the container.
    pub struct FileTarget {
        /// Path; relative ones are below /run/secrets, or below / for configs.
        pub name: String,
        /// Owner.
        #[serde(rename = "UID")]
        pub uid: String,
        /// Group.
        #[serde(rename = "GID")]
        pub gid: String,
        /// Permission bits.
        pub mode: u32,
    }
}

api_struct! {
    /// A secret that a container reads.
    pub struct SecretReference {
        /// Where it lies.
        pub file: Option<FileTarget>,
        /// Which one.
        #[serde(rename = "SecretID")]
        pub secret_id: SecretId,
        /// Its name, for people.
        pub secret_name: String,
    }
}

api_struct! {
    /// A config that a container reads.
    pub struct ConfigReference {
        /// Where it lies.
        pub file: Option<FileTarget>,
        /// Used by the runtime itself; refused.
        pub runtime: Option<super::Empty>,
        /// Which one.
        #[serde(rename = "ConfigID")]
        pub config_id: ConfigId,
        /// Its name, for people.
        pub config_name: String,
    }
}

/// A limit of setrlimit(2).
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Ulimit {
    /// Such as `nofile`.
    #[serde(default)]
    pub name: String,
    /// What a process may raise its own limit to; -1 is without limit.
    #[serde(default)]
    pub hard: i64,
    /// What applies; -1 is without limit.
    #[serde(default)]
    pub soft: i64,
}
