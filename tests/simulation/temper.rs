//! What one seed's schedule is like: how many silos and slots, how the network and the disks behave, and which faults
//! come how often. Extremes find more than averages, so each trait is drawn by itself, and often absent.

use std::time::Duration;

use infinit::cluster::replication::writer::Durability;

use super::dice::Dice;

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1000 * MS;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Break,
    Partition,
    CrashSilo,
    CrashSiloInCall,
    PowerSilo,
    PowerAll,
    CrashWriter,
    TakeOver,
    TakeOverStorm,
    Pause,
    SlowSilo,
    FullSilo,
    TellFence,
    Detach,
    /// The holder and the next writer see different silos, and do not hear of one another.
    Isolate,
    /// A majority of a slot's silos, and no writer.
    PowerMost,
    SlowDisk,
    ClientLeaves,
    /// An operator attaches and accepts a loss, although there is none.
    Recover,
    /// An operator asks how it goes.
    Status,
    BitFlip,
    FailedSync,
    BlankSilo,
    RestoredSilo,
    /// Others fill a silo's disk, and some time later they free it.
    FillDisk,
    /// A volume waits for its silos, and meanwhile the client's connection goes with all that was asked on it.
    LeaveSuspended,
    /// The daemon restarts under a live client, which sends again what was not answered.
    RestartWriter,
    /// A slot is to have other silos.
    Move,
}

impl Fault {
    /// What is counted when it happened.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Break => "connections broken",
            Fault::Partition => "partitions",
            Fault::CrashSilo => "silos crashed",
            Fault::CrashSiloInCall => "silos crashed in a call",
            Fault::PowerSilo => "silos without power",
            Fault::PowerAll => "all without power",
            Fault::CrashWriter => "writers crashed",
            Fault::TakeOver => "take-overs",
            Fault::TakeOverStorm => "storms of take-overs",
            Fault::Pause => "writers paused",
            Fault::SlowSilo => "slow silos",
            Fault::FullSilo => "full silos",
            Fault::TellFence => "fences told",
            Fault::Detach => "detached",
            Fault::Isolate => "holders isolated",
            Fault::PowerMost => "majorities without power",
            Fault::SlowDisk => "slow disks",
            Fault::ClientLeaves => "clients that left",
            Fault::Recover => "recoveries asked for",
            Fault::Status => "reports asked for",
            Fault::BitFlip => "bits flipped",
            Fault::FailedSync => "failed syncs",
            Fault::BlankSilo => "blank silos",
            Fault::RestoredSilo => "restored silos",
            Fault::FillDisk => "disks filled",
            Fault::LeaveSuspended => "clients that left a suspended volume",
            Fault::RestartWriter => "writers restarted under a live client",
            Fault::Move => "moves of slots",
        }
    }
}

/// How often each comes, as a weight, in the schedules that have it.
pub const FAULTS: [(Fault, u64); 24] = [
    (Fault::Break, 6),
    (Fault::Partition, 6),
    (Fault::CrashSilo, 4),
    (Fault::CrashSiloInCall, 3),
    (Fault::PowerSilo, 4),
    (Fault::PowerAll, 1),
    (Fault::CrashWriter, 4),
    (Fault::TakeOver, 4),
    (Fault::TakeOverStorm, 2),
    (Fault::Pause, 3),
    (Fault::SlowSilo, 2),
    (Fault::FullSilo, 1),
    (Fault::TellFence, 1),
    (Fault::Detach, 1),
    (Fault::Isolate, 2),
    (Fault::PowerMost, 2),
    (Fault::SlowDisk, 2),
    (Fault::ClientLeaves, 2),
    (Fault::Recover, 1),
    (Fault::Status, 1),
    (Fault::BitFlip, 1),
    (Fault::FailedSync, 1),
    (Fault::BlankSilo, 1),
    (Fault::RestoredSilo, 1),
];
/// The same; which of these a schedule has says nothing of what else it is like.
pub const FAULTS_BESIDE: [(Fault, u64); 3] =
    [(Fault::FillDisk, 2), (Fault::LeaveSuspended, 1), (Fault::RestartWriter, 1)];
/// Some schedules have this, with silos to spare. Then no bit flips, for a copy that has decayed and is not found may become
/// the only one.
const MOVES: (Fault, u64) = (Fault::Move, 6);

/// Which silos hold which slots.
#[derive(Clone, Debug)]
pub struct Shape {
    pub silos: usize,
    pub slots: Vec<Vec<usize>>,
    pub slot_bytes: u64,
    pub volume_bytes: u64,
    /// Every second node is in one zone, the others in another.
    pub zones: bool,
}

#[derive(Clone, Debug)]
pub struct Temper {
    pub shape: Shape,
    pub lease: Duration,
    pub durability: Durability,
    /// I/O fails after so long without a majority.
    pub io_timeout: Option<Duration>,
    /// How long faults go on.
    pub fault_ns: u64,
    pub clients: usize,
    pub depth: usize,
    pub think_ns: u64,
    pub latency_ns: (u64, u64),
    /// Of a thousand messages within a connection so many are lost, doubled, overtaken.
    pub rough: (u64, u64, u64),
    pub sync_ns: (u64, u64),
    pub serve_ns: (u64, u64),
    pub checkpoint_ns: u64,
    pub fault_every_ns: u64,
    pub faults: Vec<(Fault, u64)>,
    /// The cluster state hears of a silo's new incarnation after about so long.
    pub confirm_ns: u64,
    /// How many blocks the clients fight for.
    pub hot_blocks: usize,
    pub flush_permille: u64,
    pub read_permille: u64,
    /// Clocks go wrong as far as they may, one way or the other.
    pub extreme_drift: bool,
    /// Each attach asks for up to so many times the lease.
    pub lease_factor_max: u32,
    /// A real cluster group grants the epochs.
    pub governed: bool,
}

impl Temper {
    /// No faults, a fast network: what scripts start from.
    pub fn calm(shape: Shape) -> Self {
        Self {
            shape,
            lease: Duration::from_secs(2),
            durability: Durability::Flush,
            io_timeout: None,
            fault_ns: 0,
            clients: 0,
            depth: 1,
            think_ns: 10 * MS,
            latency_ns: (MS, MS),
            rough: (0, 0, 0),
            sync_ns: (2 * MS, 2 * MS),
            serve_ns: (0, 0),
            checkpoint_ns: 0,
            fault_every_ns: 0,
            faults: Vec::new(),
            confirm_ns: MS,
            hot_blocks: 8,
            flush_permille: 0,
            read_permille: 230,
            extreme_drift: false,
            lease_factor_max: 1,
            governed: false,
        }
    }

    pub fn draw(dice: &mut Dice) -> Self {
        let mut shape = Shape::draw(dice);
        let mut faults = Vec::new();
        for (fault, weight) in FAULTS {
            if dice.chance(650) {
                faults.push((fault, weight * dice.between(1, 4)));
            }
        }
        let mut beside = dice.fork();
        for (fault, weight) in FAULTS_BESIDE {
            if beside.chance(300) {
                faults.push((fault, weight * beside.between(1, 4)));
            }
        }
        if beside.chance(350) {
            faults.retain(|(fault, _)| *fault != Fault::BitFlip);
            faults.push((MOVES.0, MOVES.1 * beside.between(1, 4)));
            if beside.chance(250) {
                shape = Shape::one(2 * beside.between(1, 2) as usize);
            }
            shape.silos += beside.between(0, 2) as usize;
        }
        let rough = if dice.chance(150) { (dice.below(20), dice.below(20), dice.below(50)) } else { (0, 0, 0) };
        let latency =
            *dice.pick(&[(MS / 20, MS / 5), (MS / 5, 2 * MS), (MS, 30 * MS), (MS / 10, 200 * MS)]).unwrap_or(&(MS, MS));
        let sync = *dice.pick(&[(MS / 10, MS), (MS, 10 * MS), (5 * MS, 80 * MS), (MS, 1500 * MS)]).unwrap_or(&(MS, MS));
        let serve = *dice.pick(&[(0, 0), (0, MS), (0, 20 * MS), (0, 900 * MS)]).unwrap_or(&(0, 0));
        Self {
            shape,
            lease: Duration::from_millis(*dice.pick(&[600, 1500, 5000]).unwrap_or(&1500)),
            durability: if dice.chance(850) { Durability::Flush } else { Durability::Write },
            io_timeout: dice.chance(150).then(|| Duration::from_millis(dice.between(20, 2000))),
            fault_ns: dice.between(3, 14) * SECOND,
            clients: dice.between(1, 4) as usize,
            depth: dice.between(1, 6) as usize,
            think_ns: *dice.pick(&[4 * MS, 20 * MS, 80 * MS]).unwrap_or(&MS),
            latency_ns: latency,
            rough,
            sync_ns: sync,
            serve_ns: serve,
            checkpoint_ns: *dice.pick(&[0, 300 * MS, 1500 * MS]).unwrap_or(&0),
            fault_every_ns: *dice.pick(&[120 * MS, 400 * MS, 1200 * MS]).unwrap_or(&SECOND),
            faults,
            confirm_ns: *dice.pick(&[MS, 300 * MS, 3 * SECOND]).unwrap_or(&MS),
            hot_blocks: dice.between(2, 24) as usize,
            flush_permille: *dice.pick(&[10, 80, 250]).unwrap_or(&80),
            read_permille: *dice.pick(&[230, 230, 650]).unwrap_or(&230),
            extreme_drift: dice.chance(500),
            lease_factor_max: if dice.chance(250) { 4 } else { 1 },
            governed: false,
        }
    }
}

impl Shape {
    fn draw(dice: &mut Dice) -> Self {
        match dice.below(10) {
            0..5 => Shape::one(3),
            5..9 => Shape::two(),
            _ => Shape::one(5),
        }
    }

    /// One slot of four extents on all the silos.
    pub fn one(silos: usize) -> Self {
        Shape { silos, slots: vec![(0..silos).collect()], slot_bytes: 4 << 20, volume_bytes: 4 << 20, zones: false }
    }

    /// Two slots of two extents, on different three of four silos.
    pub fn two() -> Self {
        let slots = vec![vec![0, 1, 2], vec![1, 2, 3]];
        Shape { silos: 4, slots, slot_bytes: 2 << 20, volume_bytes: 4 << 20, zones: false }
    }
}
