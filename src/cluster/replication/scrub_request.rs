//! Scrubs of one volume that people ask for: what was asked, how far each has come, and what it left damaged.
//!
//! A request is registered at once, by whoever asks, so that a question right after it finds it; the silo's scrubber takes
//! one after the other. Asking for a volume whose scrub is under way joins it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::base::id::{SlotKey, VolumeId};

/// Requests that are remembered, those that ended too: far more volumes than people scrub at once.
const REQUESTS_MAX: usize = 256;
/// Runs of damaged blocks that are named; the others are counted.
pub const RUNS_MAX: usize = 16;

/// The scrub of one volume on one silo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubRequest {
    pub volume: VolumeId,
    pub stage: Stage,
    /// What there was to verify when it began, and what was: the volume's blocks, and the index.
    pub total_bytes: u64,
    pub checked_bytes: u64,
    /// Time spent on that, in milliseconds.
    pub busy_ms: u64,
    /// Blocks that were damaged, and of them those that are whole again.
    pub damaged: u64,
    pub repaired: u64,
    /// The first runs of those that are not.
    pub left: Vec<DamagedRun>,
}

/// How far a request has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Another one is under way.
    Waiting,
    Reading,
    /// All was read, and what is damaged is being repaired.
    Repairing,
    /// It is over. Damage is left only where no writer was there to repair it, or found no whole copy.
    Done {
        had_writer: bool,
    },
    /// It ended early: why.
    Failed(String),
}

/// Neighbouring damaged blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedRun {
    pub key: SlotKey,
    pub first_block: u64,
    pub blocks: u64,
}

impl ScrubRequest {
    fn new(volume: VolumeId) -> Self {
        Self {
            volume,
            stage: Stage::Waiting,
            total_bytes: 0,
            checked_bytes: 0,
            busy_ms: 0,
            damaged: 0,
            repaired: 0,
            left: Vec::new(),
        }
    }

    /// Whether nothing more comes of it.
    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Done { .. } | Stage::Failed(_))
    }
}

/// The requests of one silo. Cheap to clone.
#[derive(Clone, Default)]
pub struct ScrubRequests {
    requests: Arc<Mutex<Vec<ScrubRequest>>>,
}

impl ScrubRequests {
    /// Registers a request, unless one of the volume is under way.
    pub fn add(&self, volume: VolumeId) {
        let mut requests = self.lock();
        if requests.iter().any(|request| request.volume == volume && !request.is_over()) {
            return;
        }
        requests.retain(|request| request.volume != volume);
        if requests.len() >= REQUESTS_MAX
            && let Some(oldest) = requests.iter().position(ScrubRequest::is_over)
        {
            requests.remove(oldest);
        }
        requests.push(ScrubRequest::new(volume));
    }

    /// How the last request for a volume stands.
    pub fn of(&self, volume: VolumeId) -> Option<ScrubRequest> {
        self.lock().iter().find(|request| request.volume == volume).cloned()
    }

    /// The volume whose turn is next.
    pub(super) fn next(&self) -> Option<VolumeId> {
        self.lock().iter().find(|request| request.stage == Stage::Waiting).map(|request| request.volume)
    }

    /// Changes the request of a volume that is under way.
    pub(super) fn change(&self, volume: VolumeId, change: impl FnOnce(&mut ScrubRequest)) {
        if let Some(request) = self.lock().iter_mut().find(|request| request.volume == volume && !request.is_over()) {
            change(request);
        }
    }

    /// Ends all that are not over: the silo serves no more.
    pub(super) fn fail_all(&self, why: &str) {
        for request in self.lock().iter_mut().filter(|request| !request.is_over()) {
            request.stage = Stage::Failed(why.to_owned());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ScrubRequest>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Blocks in order of slot and number as runs, the first few of them.
pub fn runs<'a>(blocks: impl IntoIterator<Item = &'a (SlotKey, u64)>) -> Vec<DamagedRun> {
    let mut runs: Vec<DamagedRun> = Vec::new();
    for (key, block) in blocks {
        let follows = |run: &&mut DamagedRun| run.key == *key && run.first_block + run.blocks == *block;
        if let Some(run) = runs.last_mut().filter(follows) {
            run.blocks += 1;
            continue;
        }
        if runs.len() == RUNS_MAX {
            break;
        }
        runs.push(DamagedRun { key: *key, first_block: *block, blocks: 1 });
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::SlotIndex;

    #[test]
    fn neighbours_are_one_run_and_the_list_ends() {
        let key = |slot| SlotKey { volume: VolumeId([1; 16]), slot: SlotIndex(slot) };
        let run = |slot, first_block, blocks| DamagedRun { key: key(slot), first_block, blocks };
        let blocks = [(key(0), 3), (key(0), 4), (key(0), 6), (key(1), 7)];
        assert_eq!(runs(&blocks), [run(0, 3, 2), run(0, 6, 1), run(1, 7, 1)]);
        let scattered: Vec<(SlotKey, u64)> = (0..100).map(|block| (key(0), block * 2)).collect();
        assert_eq!(runs(&scattered).len(), RUNS_MAX);
    }

    #[test]
    fn a_second_request_joins_the_first_until_that_is_over() {
        let (requests, volume) = (ScrubRequests::default(), VolumeId([1; 16]));
        requests.add(volume);
        requests.change(volume, |request| request.checked_bytes = 7);
        requests.add(volume);
        assert_eq!(requests.of(volume).unwrap().checked_bytes, 7);
        requests.fail_all("the disk failed");
        assert_eq!(requests.of(volume).unwrap().stage, Stage::Failed("the disk failed".into()));
        requests.add(volume);
        assert_eq!(requests.of(volume).unwrap(), ScrubRequest::new(volume));
    }

    #[test]
    fn what_is_under_way_is_never_forgotten_for_another() {
        let requests = ScrubRequests::default();
        let volume = |number: usize| VolumeId((number as u128).to_be_bytes());
        requests.add(volume(0));
        for number in 1..REQUESTS_MAX {
            requests.add(volume(number));
            requests.change(volume(number), |request| request.stage = Stage::Done { had_writer: true });
        }
        requests.add(volume(REQUESTS_MAX));
        assert!(requests.of(volume(0)).is_some() && requests.of(volume(1)).is_none());
        assert!(requests.of(volume(REQUESTS_MAX)).is_some());
    }
}
