//! What one seed's schedule of the cluster group is like. Extremes find more than averages, so each trait is drawn by
//! itself, and often absent.

use std::time::Duration;

use infinit::cluster::consensus::Tuning;

use super::super::dice::Dice;

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1000 * MS;

/// The most by which a clock goes wrong, in parts of a million.
const DRIFT_PPM_MAX: i64 = 10_000;
/// How long the end may take once faults are over: an election or two, what was under way, and a snapshot.
pub const HEALING_NS: u64 = 60 * SECOND;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One direction between two members carries nothing.
    Deafen,
    /// A member is cut off from all others, both ways or only one.
    Isolate,
    /// The members fall into two parts.
    Split,
    Crash,
    CrashLeader,
    /// The process dies in the middle of a commit.
    CrashInCommit,
    Power,
    PowerInCommit,
    PowerAll,
    /// The leader's machine, in the middle of a commit.
    PowerLeader,
    Pause,
    PauseLeader,
    SlowDisk,
    FailedSync,
    /// A member stops as an operator stops it.
    Restart,
    Join,
    Leave,
}

impl Fault {
    /// What is counted when it happened.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Deafen => "directions cut",
            Fault::Isolate => "members isolated",
            Fault::Split => "splits",
            Fault::Crash => "members crashed",
            Fault::CrashLeader => "leaders crashed",
            Fault::CrashInCommit => "members crashed in a commit",
            Fault::Power => "members without power",
            Fault::PowerInCommit => "members without power in a commit",
            Fault::PowerAll => "all without power",
            Fault::PowerLeader => "leaders without power",
            Fault::Pause => "members paused",
            Fault::PauseLeader => "leaders paused",
            Fault::SlowDisk => "slow disks",
            Fault::FailedSync => "failed syncs",
            Fault::Restart => "restarts",
            Fault::Join => "joins",
            Fault::Leave => "leaves",
        }
    }
}

pub const FAULTS: [(Fault, u64); 17] = [
    (Fault::Deafen, 4),
    (Fault::Isolate, 4),
    (Fault::Split, 3),
    (Fault::Crash, 3),
    (Fault::CrashLeader, 3),
    (Fault::CrashInCommit, 3),
    (Fault::Power, 3),
    (Fault::PowerInCommit, 3),
    (Fault::PowerAll, 2),
    (Fault::PowerLeader, 3),
    (Fault::Pause, 3),
    (Fault::PauseLeader, 3),
    (Fault::SlowDisk, 2),
    (Fault::FailedSync, 1),
    (Fault::Restart, 2),
    (Fault::Join, 3),
    (Fault::Leave, 2),
];

#[derive(Clone, Debug)]
pub struct Temper {
    /// Members that join right after the founder.
    pub joiners: usize,
    pub tuning: Tuning,
    /// How often a message is lost, repeated, or very late, in a thousand.
    pub lost: u64,
    pub repeated: u64,
    pub late: u64,
    pub latency_ns: (u64, u64),
    pub late_ns: u64,
    /// How long work on a disk waits before and after it is done.
    pub disk_ns: (u64, u64),
    /// Every clock goes wrong as far as it may, one way or the other.
    pub extreme_drift: bool,
    /// Between two requests of clients, on average.
    pub think_ns: u64,
    /// Of a thousand requests, so many read.
    pub reads: u64,
    /// Of a thousand requests, so many give up early.
    pub hasty: u64,
    pub fault_every_ns: u64,
    pub faults: Vec<(Fault, u64)>,
    pub outage_ns: u64,
    pub duration_ns: u64,
}

impl Temper {
    pub fn draw(dice: &mut Dice) -> Temper {
        let mut faults: Vec<(Fault, u64)> = FAULTS.to_vec();
        // Half of the schedules know few faults: those in company of others are too seldom.
        if dice.chance(500) {
            faults.retain(|_| dice.chance(350));
        }
        let snapshots = dice.chance(500);
        let tuning = Tuning {
            snapshot_every: if snapshots { dice.between(8, 40) } else { 2_000 },
            log_kept: if snapshots { dice.between(0, 10) } else { 1_000 },
            ..Tuning::default()
        };
        let rough = dice.chance(600);
        Temper {
            joiners: dice.below(5) as usize,
            tuning,
            lost: if rough { dice.below(150) } else { 0 },
            repeated: if rough { dice.below(150) } else { 0 },
            late: if dice.chance(500) { dice.below(60) } else { 0 },
            latency_ns: (MS / 10, dice.between(MS / 5, 40 * MS)),
            late_ns: dice.between(50 * MS, 4 * SECOND),
            disk_ns: (0, if dice.chance(300) { dice.between(5 * MS, 150 * MS) } else { dice.between(MS / 10, 5 * MS) }),
            extreme_drift: dice.chance(300),
            think_ns: dice.between(20 * MS, 250 * MS),
            reads: dice.between(100, 600),
            hasty: dice.below(500),
            fault_every_ns: dice.between(300 * MS, 4 * SECOND),
            faults,
            outage_ns: dice.between(200 * MS, 4 * SECOND),
            duration_ns: dice.between(8, 25) * SECOND,
        }
    }

    /// How wrong a new machine's clock goes.
    pub fn drift_ppm(&self, dice: &mut Dice) -> i64 {
        let drift = dice.between(0, 2 * DRIFT_PPM_MAX as u64) as i64 - DRIFT_PPM_MAX;
        match (self.extreme_drift, drift < 0) {
            (true, true) => -DRIFT_PPM_MAX,
            (true, false) => DRIFT_PPM_MAX,
            (false, _) => drift,
        }
    }

    /// When even the slowest end must have come.
    pub fn limit_ns(&self) -> u64 {
        self.duration_ns + 2 * HEALING_NS
    }

    /// How long a client waits for an answer.
    pub fn patience(&self, dice: &mut Dice) -> Duration {
        let ms = if dice.chance(self.hasty) { dice.between(1, 400) } else { dice.between(1_000, 12_000) };
        Duration::from_millis(ms)
    }
}
