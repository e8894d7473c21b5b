//! One member goes on alone with what it has: for a cluster that has lost more managers than it can spare.

use openraft::Vote;

use super::log::Log;
use super::machine::Machine;
use super::{Consensus, ConsensusConfig, ConsensusError, stopped};
use crate::disk;
use crate::state::replica::Replica;

impl Consensus {
    /// Makes a group of one of what the directory holds: the state with every entry that this member has received, agreed
    /// upon or not, and no other members. Consensus must not be running. [`Consensus::open`] goes on from there; the other
    /// members, if any are left, must never be started again.
    ///
    /// # Errors
    /// [`ConsensusError::Directory`] if the directory has no group, [`ConsensusError::Damaged`], and those of the files.
    pub async fn rescue(config: &ConsensusConfig) -> Result<(), ConsensusError> {
        if !Self::exists(&config.dir) {
            return Err(ConsensusError::Directory {
                path: config.dir.clone(),
                exists: false,
            });
        }
        let (dir, at_rest) = (config.dir.clone(), config.at_rest.clone());
        let opened = disk::work(&config.dir, move || {
            let machine = Machine::open(&dir, &at_rest, Replica::default())?;
            Ok::<_, ConsensusError>((Log::open(&dir, &at_rest, machine.kept())?, machine))
        });
        let (log, machine) = opened.await.map_err(stopped)??;
        for entry in log.entries_after(machine.last()) {
            machine.apply_alone(entry);
        }
        machine.make_sole(config.id, config.member.clone());
        // With the snapshot the others are gone. What a crash leaves in the journal afterwards is not after it.
        machine.write_snapshot().await?;
        log.begin_anew(Vote::new(log.term() + 1, config.id), machine.last())
            .await;
        Ok(())
    }
}
