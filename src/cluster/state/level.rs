//! What all members understand. Members of neighbouring versions are members of one network while it is upgraded, one node
//! after the other: until the last one is, nothing may be decided that an older one cannot read. So each set of new commands
//! has a level, the leader raises the network's once all members are there, and until then these commands are refused.
//!
//! | level | since | what is new |
//! |---|---|---|
//! | 0 | 0.1.0 | |
//! | 1 | 0.2.0 | slots move; nodes drain, leave, are witnesses; silos are given up; settings |

use serde::{Deserialize, Serialize};

use crate::cluster::state::ClusterState;
use crate::cluster::state::command::{Command, Outcome};
use crate::cluster::state::refusal::Refusal;

/// How much a version understands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Level(pub u16);

impl Level {
    /// What this program understands.
    pub const OWN: Level = Level(1);

    /// Of a program of this version, as it calls itself; a newer one understands all that this one does.
    pub fn of_version(version: &str) -> Level {
        let mut numbers = version.split('.').map(|part| part.parse::<u64>().unwrap_or(0));
        let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        match (major, minor) {
            (0, 0..=1) => Level(0),
            _ => Level::OWN,
        }
    }
}

impl Command {
    /// What all members must understand before this may be decided.
    fn level(&self) -> Level {
        match self {
            Command::Genesis(_)
            | Command::Join(_)
            | Command::Announce(_)
            | Command::Leave { .. }
            | Command::OpenSilo(_)
            | Command::CreateVolume(_)
            | Command::Attach { .. }
            | Command::CloseExport { .. }
            | Command::Detach { .. }
            | Command::DeleteVolume { .. }
            | Command::Raise { .. } => Level(0),
            Command::SetSiloState { .. }
            | Command::Reconfigure(_)
            | Command::Maintain { .. }
            | Command::SetDuty { .. }
            | Command::SetRole { .. }
            | Command::SetReplicas { .. }
            | Command::SetDownAfter { .. } => Level(1),
        }
    }
}

impl ClusterState {
    pub(super) fn check_level(&self, command: &Command) -> Result<(), Refusal> {
        if command.level() > self.level { Err(Refusal::NotAllUnderstand) } else { Ok(()) }
    }

    /// Never lowers it.
    pub(super) fn raise(&mut self, level: Level) -> Result<Outcome, Refusal> {
        self.founded()?;
        self.level = self.level.max(level);
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_understand_what_they_brought_and_what_was_before() {
        for (version, level) in [("0.1.0", 0), ("0.1.9", 0), ("0.2.0", 1), ("0.3.1-rc1", 1), ("1.0.0", 1), ("?", 0)] {
            assert_eq!(Level::of_version(version), Level(level), "{version}");
        }
        assert_eq!(Level::of_version(env!("CARGO_PKG_VERSION")), Level::OWN);
    }
}
