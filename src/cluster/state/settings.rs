//! What holds for the whole network until somebody sets it otherwise.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::cluster::state::ClusterState;
use crate::cluster::state::command::Outcome;
use crate::cluster::state::refusal::Refusal;

/// The shortest and longest time after which a silo is replaced, in milliseconds: a node that restarts must not be taken for
/// one that is gone, and a month without a copy is no repair.
pub const DOWN_AFTER_MS: RangeInclusive<u64> = 5_000..=30 * 86_400_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// A silo that nobody reached for so long is replaced, in milliseconds.
    pub down_after_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { down_after_ms: 600_000 }
    }
}

impl ClusterState {
    pub(super) fn set_down_after(&mut self, down_after_ms: u64) -> Result<Outcome, Refusal> {
        self.founded()?;
        if !DOWN_AFTER_MS.contains(&down_after_ms) {
            return Err(Refusal::BadDownAfter { down_after_ms });
        }
        self.settings.down_after_ms = down_after_ms;
        Ok(Outcome::Done)
    }
}
