//! `POST /v1/volumes/{name}/scrub` begins, or joins, the scrub of a volume's copies; `GET` tells how it stands.

use serde::{Deserialize, Serialize};

use crate::base::id::{SiloId, VolumeId};
use crate::daemon::api::NodeRef;
use crate::daemon::api::silo::Range;

/// Asks for a scrub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrubVolume {}

/// The scrub of a volume that was asked for last, silo by silo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeScrub {
    pub id: VolumeId,
    pub name: String,
    /// Where it is attached: what is damaged is repaired only while it is.
    #[serde(default)]
    pub attached_to: Option<NodeRef>,
    pub silos: Vec<SiloScrub>,
}

/// The scrub of one copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiloScrub {
    pub silo: SiloId,
    pub node: NodeRef,
    pub state: ScrubState,
    /// Why it failed, or was not begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What there is to verify, and what was: the volume's blocks, and the silo's index.
    pub total_bytes: u64,
    pub checked_bytes: u64,
    /// Null until something was read.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
    /// Blocks found damaged, and of them those that are whole again and those that are not.
    pub damaged_blocks: u64,
    pub repaired_blocks: u64,
    pub left_blocks: u64,
    /// Where those are that are not: the first few.
    pub left: Vec<Range>,
}

/// How far the scrub of a copy has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScrubState {
    /// Another volume's is under way there.
    Waiting,
    Reading,
    /// All was read, and what is damaged is being repaired.
    Repairing,
    Done,
    /// It ended early: the silo is out of service.
    Failed,
    /// Its node does not answer, or runs without the silo.
    Unreachable,
    /// It was not asked for since the silo's node was started.
    NotBegun,
}

impl ScrubState {
    /// Whether more comes of it.
    pub fn is_under_way(self) -> bool {
        match self {
            ScrubState::Waiting | ScrubState::Reading | ScrubState::Repairing => true,
            ScrubState::Done | ScrubState::Failed | ScrubState::Unreachable | ScrubState::NotBegun => false,
        }
    }
}
