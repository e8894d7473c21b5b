//! Capability sets (capabilities(7)) of a payload.

use oci_spec::runtime::{Capabilities, LinuxCapabilities};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::Error;

/// Five sets of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sets {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

impl Sets {
    /// The sets of a configuration; without one every set is empty.
    pub(crate) fn of(capabilities: Option<&LinuxCapabilities>) -> Self {
        let Some(capabilities) = capabilities else {
            return Self::default();
        };
        Self {
            bounding: bits(capabilities.bounding().as_ref()),
            effective: bits(capabilities.effective().as_ref()),
            permitted: bits(capabilities.permitted().as_ref()),
            inheritable: bits(capabilities.inheritable().as_ref()),
            ambient: bits(capabilities.ambient().as_ref()),
        }
    }

    /// Fails if a set asks for what the calling thread does not hold.
    pub(crate) fn check_available(&self) -> Result<(), Error> {
        let held = rustix::thread::capabilities(None)
            .map_err(|error| Error::Step("read the runtime's capabilities", error.into()))?
            .permitted
            .bits();
        let missing = (self.bounding | self.permitted | self.effective) & !held;
        match missing {
            0 => Ok(()),
            bits => Err(Error::Capability(name(bits.trailing_zeros()))),
        }
    }

    /// Removes everything else from the bounding set of the calling thread. Needs `CAP_SETPCAP`.
    pub(crate) fn apply_bounding(&self) -> Result<(), Error> {
        for index in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << index);
            if self.bounding & (1 << index) != 0 {
                continue;
            }
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                // The first number that this kernel does not know.
                Err(rustix::io::Errno::INVAL) => break,
                Err(error) => return Err(Error::Step("reduce the bounding set", error.into())),
            }
        }
        Ok(())
    }

    /// Makes permitted capabilities effective again, which a change of user has switched off (`PR_SET_KEEPCAPS`).
    pub(crate) fn raise_effective() -> Result<(), Error> {
        let step = |error: rustix::io::Errno| Error::Step("raise the kept capabilities", error.into());
        let mut sets = rustix::thread::capabilities(None).map_err(step)?;
        sets.effective = sets.permitted;
        rustix::thread::set_capabilities(None, sets).map_err(step)
    }

    /// What the kernel will put into the ambient set: only what is permitted and inheritable
    /// (`PR_CAP_AMBIENT_RAISE`, prctl(2)). `runc spec` writes ambient capabilities without inheritable ones, and
    /// what cannot be granted is no reason to fail (OCI runtime spec, process.capabilities).
    fn grantable_ambient(&self) -> u64 {
        self.ambient & self.permitted & self.inheritable
    }

    /// Sets the other four sets of the calling thread for good.
    pub(crate) fn apply(&self) -> Result<(), Error> {
        let sets = CapabilitySets {
            effective: CapabilitySet::from_bits_retain(self.effective),
            permitted: CapabilitySet::from_bits_retain(self.permitted),
            inheritable: CapabilitySet::from_bits_retain(self.inheritable),
        };
        rustix::thread::set_capabilities(None, sets)
            .map_err(|error| Error::Step("set the capabilities", error.into()))?;
        let step = |error: rustix::io::Errno| Error::Step("set the ambient capabilities", error.into());
        rustix::thread::clear_ambient_capability_set().map_err(step)?;
        for index in (0..u64::BITS).filter(|index| self.grantable_ambient() & (1 << index) != 0) {
            let capability = CapabilitySet::from_bits_retain(1 << index);
            rustix::thread::configure_capability_in_ambient_set(capability, true).map_err(step)?;
        }
        Ok(())
    }
}

fn bits(set: Option<&Capabilities>) -> u64 {
    set.into_iter()
        .flatten()
        .filter_map(|capability| format!("CAP_{capability}").parse::<caps::Capability>().ok())
        .fold(0, |bits, capability| bits | capability.bitmask())
}

fn name(index: u32) -> String {
    caps::all()
        .iter()
        .find(|capability| u32::from(capability.index()) == index)
        .map_or_else(|| format!("number {index}"), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_become_bits() {
        let capabilities: LinuxCapabilities = serde_json::from_value(json!({
            "bounding": ["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE"],
            "effective": ["CAP_NET_BIND_SERVICE"],
        }))
        .unwrap();
        let sets = Sets::of(Some(&capabilities));
        assert_eq!(sets.bounding, 1 | (1 << 21) | (1 << 40));
        assert_eq!((sets.effective, sets.inheritable), (1 << 10, 0));
        assert_eq!(name(21), "CAP_SYS_ADMIN");
    }

    /// Every capability of the specification has a bit.
    #[test]
    fn none_is_lost() {
        let all: Vec<String> = caps::all().iter().map(ToString::to_string).collect();
        let capabilities: LinuxCapabilities = serde_json::from_value(json!({ "bounding": all })).unwrap();
        assert_eq!(
            Sets::of(Some(&capabilities)).bounding.count_ones() as usize,
            caps::all().len()
        );
    }
}
