//! Silos and copies as people see them: pure, from what nodes said of their silos and what a volume's writer reports.
//!
//! Two look at the same copy: its node, whose sign of life tells how the silo is, and the writer, if the volume is
//! attached, which tells how far the copy has come. A silo that its node or its writer calls unfit is so; otherwise the
//! writer's word counts. Without a writer nobody knows whether copies agree: they are idle, and compared at the next
//! attach.

use std::ops::Range;

use crate::base::clock::rfc3339;
use crate::base::id::{SiloId, SlotIndex, VolumeId};
use crate::base::units::{Size, Span};
use crate::cluster::replication::scrub_request::DamagedRun;
use crate::cluster::replication::scrubber::ScrubReport;
use crate::cluster::replication::writer::report::{self, Change, SiloReport, SlotReport};
use crate::cluster::state::silo::SiloInfo;
use crate::cluster::state::volume::SlotPlacement;
use crate::daemon::api::silo::{Cleaning, Damage, Scrub, Space};
use crate::daemon::api::{
    NodeRef, NodeState, Replica, ReplicaState, Silo, SiloState, Slot, Volume, VolumeState, Warning,
};
use crate::daemon::peers::{SiloDetails, SiloLife};
use crate::daemon::scrubs;
use crate::store::space::SpaceReport;

/// What a node says of a silo that it has open.
#[derive(Clone, Copy)]
pub struct Word<'a> {
    pub life: &'a SiloLife,
    /// A daemon of 0.1.0 does not tell.
    pub details: Option<&'a SiloDetails>,
}

/// What volumes are called.
pub type VolumeNames<'a> = &'a dyn Fn(VolumeId) -> Option<String>;

/// A silo by its node's word, if the node is up and has it open.
pub fn silo(id: SiloId, info: &SiloInfo, node: NodeState, word: Option<Word<'_>>, names: VolumeNames<'_>) -> Silo {
    let told = word.map(|word| word.life);
    let (state, reason) = match (node, told) {
        (NodeState::Unknown, _) => (SiloState::Unknown, None),
        (NodeState::Down | NodeState::Joining, _) => (SiloState::Down, None),
        (NodeState::Up, None) => (SiloState::Down, Some("its node runs without it".to_owned())),
        (NodeState::Up, Some(told)) => standing(told),
    };
    Silo {
        id,
        state,
        reason,
        path: told.map(|told| told.path.clone()),
        capacity_bytes: info.capacity_bytes,
        used_bytes: told.map(|told| told.used_bytes),
        space: word.and_then(|word| word.details).map(|details| space(&details.space)),
        scrub: word.and_then(|word| word.details).map(|details| scrub(&details.scrub, names)),
    }
}

fn space(report: &SpaceReport) -> Space {
    Space {
        live_bytes: report.live_bytes,
        free_bytes: report.free_bytes,
        full: report.full,
        missing_bytes: report.missing_bytes,
        cleaning: Cleaning {
            written_bytes: report.written_bytes,
            moved_bytes: report.moved_bytes,
            removed_segments: report.removed_segments,
            damaged_places: report.cleaning_found,
        },
    }
}

fn scrub(report: &ScrubReport, names: VolumeNames<'_>) -> Scrub {
    let damage =
        |run: &DamagedRun| Damage { volume: run.key.volume, name: names(run.key.volume), range: scrubs::range(run) };
    Scrub {
        running: report.running,
        checked_bytes: report.scrubbed_bytes,
        total_bytes: report.total_bytes,
        finished_at: report.finished_at.map(rfc3339),
        found_blocks: report.found,
        repaired_blocks: report.repaired,
        damaged_blocks: report.damaged,
        damage: report.runs.iter().map(damage).collect(),
    }
}

/// What is to be said of a silo that takes no new writes.
pub fn full(silo: &Silo, node: &str) -> Option<Warning> {
    let space = silo.space.filter(|space| space.full && silo.state == SiloState::Up)?;
    let (used, capacity) = (Size(silo.used_bytes.unwrap_or_default()), Size(silo.capacity_bytes));
    let missing = Size(space.missing_bytes);
    let message = format!(
        "silo {} on {node} is full: {used} of {capacity} used; it takes no new writes until {missing} more are free",
        silo.id.short()
    );
    let hint = "delete or trim what volumes do not need, or on that machine make room on the disk or raise the \
                capacity: infinit node run --silo PATH:CAPACITY";
    Some(Warning { message, hint: Some(hint.to_owned()) })
}

/// What is to be said of damaged blocks that are not repaired yet.
pub fn damaged_blocks(silo: &Silo, node: &str, volumes: &[Volume]) -> Option<Warning> {
    let scrub = silo.scrub.as_ref().filter(|scrub| scrub.damaged_blocks > 0 && silo.state == SiloState::Up)?;
    let called = |damage: &Damage| damage.name.clone().unwrap_or_else(|| damage.volume.short());
    let places: Vec<String> =
        scrub.damage.iter().map(|damage| format!("bytes {} of volume {}", damage.range, called(damage))).collect();
    let blocks = if scrub.damaged_blocks == 1 { "block" } else { "blocks" };
    let message = format!(
        "silo {} on {node} has {} damaged {blocks}: {}",
        silo.id.short(),
        scrub.damaged_blocks,
        places.join(", ")
    );
    let of = |damage: &&Damage| volumes.iter().find(|volume| volume.id == damage.volume);
    let detached = scrub.damage.iter().filter_map(|damage| of(&damage)).find(|volume| volume.attachment.is_none());
    let hint = match detached {
        Some(volume) => format!("they are repaired while it is attached: infinit volume attach {}", volume.name),
        None => "they are repaired as soon as another copy can give them: infinit volume status NAME".to_owned(),
    };
    Some(Warning { message, hint: Some(hint) })
}

/// A silo that a node has open and the cluster does not take as that node's.
pub fn stranger(told: &SiloLife) -> Silo {
    let (state, reason) = standing(told);
    Silo {
        id: told.id,
        state,
        reason,
        path: Some(told.path.clone()),
        capacity_bytes: told.capacity_bytes,
        used_bytes: Some(told.used_bytes),
        space: None,
        scrub: None,
    }
}

fn standing(told: &SiloLife) -> (SiloState, Option<String>) {
    if let Some(why) = &told.foreign {
        return (SiloState::Foreign, Some(why.clone()));
    }
    if let Some(why) = &told.fault {
        return (SiloState::Damaged, Some(why.clone()));
    }
    match told.stalled_ms {
        Some(ms) => (SiloState::Stalled, Some(format!("its disk has not answered for {}s", ms / 1000))),
        None => (SiloState::Up, None),
    }
}

/// One copy: where it lies, how that silo is, and what the writer tells of it if there is one.
pub struct Copy<'a> {
    pub node: NodeRef,
    /// The node as it is called in sentences.
    pub label: &'a str,
    pub node_state: NodeState,
    pub silo: &'a Silo,
    pub told: Option<&'a SiloReport>,
}

impl Copy<'_> {
    /// How it stands, and what is said of it if that is not as it should be. `holder` is the writer's node.
    fn state(&self, holder: &str) -> (ReplicaState, Option<String>) {
        use report::SiloState as Told;
        let told = self.told.map(|told| &told.state);
        let why = self.silo.reason.as_deref().unwrap_or_default();
        let (state, said) = match (told, self.silo.state) {
            (Some(Told::Foreign), _) | (_, SiloState::Foreign) => {
                (ReplicaState::Foreign, "is foreign: it is not the silo that the cluster knows".to_owned())
            }
            (Some(Told::Faulted(why)), _) => (ReplicaState::Damaged, format!("is damaged: {why}")),
            (_, SiloState::Damaged) => (ReplicaState::Damaged, format!("is damaged: {why}")),
            (Some(Told::Damaged), _) => {
                (ReplicaState::Damaged, "is damaged: it lost what it had reported to be on disk".to_owned())
            }
            (_, SiloState::Stalled) => (ReplicaState::Stalled, format!("is stalled: {why}")),
            (Some(Told::Live), _) => return (ReplicaState::UpToDate, None),
            (Some(Told::CatchingUp), _) if self.lacks_room() => {
                let said = format!("waits for room to catch up{}: its silo is full", self.behind());
                (ReplicaState::CatchingUp, said)
            }
            (Some(Told::CatchingUp), _) => (ReplicaState::CatchingUp, format!("is catching up{}", self.moved())),
            (Some(Told::Joining), _) => (ReplicaState::CatchingUp, "is about to catch up".to_owned()),
            (Some(Told::Leased(ms)), _) => {
                let left = Span(std::time::Duration::from_secs(ms.div_ceil(1000).max(1)));
                (ReplicaState::CatchingUp, format!("keeps an earlier writer's lease for another {left}"))
            }
            (Some(Told::Unreachable), SiloState::Down) | (None, SiloState::Down) => {
                (ReplicaState::Down, format!("is down{}", self.behind()))
            }
            (Some(Told::Unreachable), SiloState::Up | SiloState::Unknown) => {
                (ReplicaState::Down, format!("cannot be reached from {holder}{}", self.behind()))
            }
            (None, SiloState::Up) => return (ReplicaState::Idle, None),
            (None, SiloState::Unknown) => return (ReplicaState::Unknown, None),
        };
        (state, Some(format!("the copy on {} {said}", self.label)))
    }

    /// Whether it is up to date and its silo refuses new writes.
    fn is_full(&self) -> bool {
        self.told.is_some_and(|told| told.state == report::SiloState::Live && !told.takes_writes)
    }

    /// Whether it is behind, and stays so for want of space: it is sent nothing that its silo has no room for.
    fn lacks_room(&self) -> bool {
        let full = self.silo.space.is_some_and(|space| space.full);
        self.told.is_some_and(|told| told.state == report::SiloState::CatchingUp && (full || !told.takes_writes))
    }

    fn moved(&self) -> String {
        match self.told.and_then(|told| told.moved_bytes) {
            Some(bytes @ 1..) => format!(", {} moved so far", Size(bytes)),
            Some(0) | None => String::new(),
        }
    }

    /// `live`: the bytes of all that lies where a copy comes from.
    fn replica(&self, state: ReplicaState, range: &Range<u64>, live: Option<u64>) -> Replica {
        let moved = self.told.and_then(|told| told.moved_bytes);
        let change = self.told.map(|told| told.change).unwrap_or_default();
        let bytes_per_second = moved.and_then(|bytes| bytes.saturating_mul(1000).checked_div(change.elapsed_ms));
        let left_ms = moved.and_then(|_| left_ms(change, range)).map(|left| {
            let rest = live.zip(moved).and_then(|(live, moved)| live.checked_sub(moved).filter(|rest| *rest > 0));
            let at_most =
                rest.zip(bytes_per_second).and_then(|(rest, rate)| rest.saturating_mul(1000).checked_div(rate));
            at_most.map_or(left, |at_most| left.min(at_most))
        });
        Replica {
            silo: self.silo.id,
            node: self.node.clone(),
            state,
            behind_bytes: self.told.and_then(|told| told.behind_bytes),
            behind_writes: self.told.and_then(|told| told.behind_writes),
            moved_bytes: moved,
            bytes_per_second,
            left_ms,
            leaves: change.leaves,
        }
    }

    fn behind(&self) -> String {
        match self.told.and_then(|told| told.behind_bytes) {
            Some(bytes @ 1..) => format!(", {} behind", Size(bytes)),
            Some(0) | None => String::new(),
        }
    }
}

/// How long the rest of a transfer takes if it goes on as it did so far; nobody knows before a part of it is done.
fn left_ms(transfer: Change, range: &Range<u64>) -> Option<u64> {
    let done = transfer.position.clamp(range.start, range.end) - range.start;
    let left = range.end - range.start - done;
    (done > 0).then(|| (u128::from(transfer.elapsed_ms) * u128::from(left) / u128::from(done)) as u64)
}

/// What is asked of a slot: by which node the volume is attached, and what its writer reports.
pub struct View<'a> {
    pub holder: Option<&'a str>,
    pub told: Option<&'a SlotReport>,
    /// Copies that the policy asks for.
    pub wanted: usize,
    /// The slot's part of the volume, in bytes.
    pub range: Range<u64>,
}

/// One slot with its copies, and what would mend it.
pub fn slot(
    index: SlotIndex,
    placed: &SlotPlacement,
    copies: &[Copy<'_>],
    joining: &[Copy<'_>],
    view: &View<'_>,
) -> (Slot, Option<String>) {
    let holder = view.holder.unwrap_or_default();
    let judged: Vec<(ReplicaState, Option<String>)> = copies.iter().map(|copy| copy.state(holder)).collect();
    let good = judged.iter().filter(|(state, _)| *state == ReplicaState::UpToDate).count();
    let majority = placed.silos.len() / 2 + 1;
    let state = match (view.holder, view.told) {
        (None, _) => VolumeState::Detached,
        (Some(_), None) => VolumeState::Suspended,
        (Some(_), Some(told)) if !told.serving || good < majority => VolumeState::Suspended,
        (Some(_), Some(_)) if good < placed.silos.len().max(view.wanted) => VolumeState::Degraded,
        (Some(_), Some(_)) => VolumeState::Healthy,
    };
    let said: Vec<&str> = judged.iter().filter_map(|(_, said)| said.as_deref()).collect();
    let full: Vec<&str> = copies.iter().filter(|copy| copy.is_full()).map(|copy| copy.label).collect();
    let no_room = good.saturating_sub(full.len()) < majority && view.told.is_some_and(|told| told.serving);
    let no_room = no_room.then(|| format!("it takes no new writes: the silos of {} are full", full.join(" and ")));
    let few = (placed.silos.len() < view.wanted).then(|| {
        let making = if joining.is_empty() { "" } else { ", and more are being made" };
        format!("it has {} of {} copies{making}", placed.silos.len(), view.wanted)
    });
    let said: Vec<&str> = said.into_iter().chain(few.as_deref()).collect();
    let said: Vec<&str> = said.into_iter().chain(no_room.as_deref().filter(|_| !full.is_empty())).collect();
    let reason = match (state, said.is_empty()) {
        (_, false) => Some(said.join(", ")),
        (VolumeState::Suspended, true) if view.told.is_some() => Some("its copies are being compared".to_owned()),
        (_, true) => None,
    };
    // What serves, or may serve at the next attach; what is not known yet is not complained of.
    let fit = |state: &ReplicaState| match state {
        ReplicaState::UpToDate | ReplicaState::CatchingUp | ReplicaState::Idle | ReplicaState::Unknown => true,
        ReplicaState::Down | ReplicaState::Damaged | ReplicaState::Foreign | ReplicaState::Stalled => false,
    };
    let missing = majority.saturating_sub(judged.iter().filter(|(state, _)| fit(state)).count());
    let mend = mend(copies, &judged, missing);
    // No copy is sent more than there is where it comes from.
    let sources = copies.iter().zip(&judged).filter(|(_, (state, _))| *state == ReplicaState::UpToDate);
    let live = sources.filter_map(|(copy, _)| copy.silo.space.map(|space| space.live_bytes)).min();
    let replicas = copies.iter().zip(judged).map(|(copy, (state, _))| copy.replica(state, &view.range, live)).collect();
    let joining = joining.iter().map(|copy| copy.replica(copy.state(holder).0, &view.range, live)).collect();
    (Slot { slot: index, configuration: placed.config, state, reason, replicas, joining }, mend)
}

/// Whether a volume that is not attached could be: what keeps it from that.
pub fn unattachable(slot: &Slot) -> bool {
    let may = |state: ReplicaState| matches!(state, ReplicaState::Idle | ReplicaState::Unknown);
    let fit = slot.replicas.iter().filter(|replica| may(replica.state)).count();
    fit < slot.replicas.len() / 2 + 1
}

/// `missing` copies more are a majority; all of them are wanted.
fn mend(copies: &[Copy<'_>], judged: &[(ReplicaState, Option<String>)], missing: usize) -> Option<String> {
    let of = |wanted: ReplicaState| -> Vec<&Copy<'_>> {
        copies.iter().zip(judged).filter(|(_, (state, _))| *state == wanted).map(|(copy, _)| copy).collect()
    };
    let names = |copies: &[&Copy<'_>]| -> Vec<String> { copies.iter().map(|copy| copy.label.to_owned()).collect() };
    let mut steps = Vec::new();
    let down: Vec<&Copy<'_>> =
        of(ReplicaState::Down).into_iter().filter(|copy| copy.node_state == NodeState::Down).collect();
    steps.extend(start(&names(&down), if missing > 0 { missing } else { down.len() }));
    let full: Vec<&Copy<'_>> = copies.iter().filter(|copy| copy.lacks_room()).collect();
    if !full.is_empty() {
        // What this volume trims stays on such a copy until it has caught up.
        let places = names(&full).join(" and ");
        let raise = "raise the capacity: infinit node run --silo PATH:CAPACITY";
        steps.push(format!("make room on the disk of {places}, or {raise}"));
    }
    let stalled = names(&of(ReplicaState::Stalled));
    if !stalled.is_empty() {
        steps.push(format!("look after the disk of {}: journalctl -k says more there", stalled.join(" and ")));
    }
    let foreign = names(&of(ReplicaState::Foreign));
    if !foreign.is_empty() {
        steps.push(format!("put back the silo that was there before on {}", foreign.join(" and ")));
    }
    if !of(ReplicaState::Damaged).is_empty() {
        steps.push("to have all copies again, copy it to a new volume".to_owned());
    }
    (!steps.is_empty()).then(|| steps.join("; "))
}

/// Which nodes to start, where so many of them are enough.
pub fn start(down: &[String], enough: usize) -> Option<String> {
    match down {
        [] => None,
        [only] => Some(format!("start node {only}")),
        several if enough <= 1 => Some(format!("start node {}", several.join(" or "))),
        several if enough >= several.len() => Some(format!("start the nodes {}", several.join(" and "))),
        several => Some(format!("start {enough} of the nodes {}", several.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{ConfigNumber, Incarnation, NodeId, SlotKey};
    use crate::cluster::state::silo;

    fn info() -> SiloInfo {
        SiloInfo {
            node: NodeId::default(),
            capacity_bytes: 100,
            incarnation: Incarnation::default(),
            state: silo::SiloState::InService,
        }
    }

    fn life(number: u8) -> SiloLife {
        SiloLife {
            id: SiloId([number; 16]),
            path: "/data".into(),
            capacity_bytes: 100,
            used_bytes: 10,
            fault: None,
            foreign: None,
            stalled_ms: None,
        }
    }

    fn word(life: &SiloLife) -> Word<'_> {
        Word { life, details: None }
    }

    fn told(number: u8, state: report::SiloState, behind: Option<u64>, moved: Option<u64>) -> SiloReport {
        SiloReport {
            silo: SiloId([number; 16]),
            state,
            behind_writes: behind.map(|bytes| bytes.div_ceil(4096)),
            behind_bytes: behind,
            moved_bytes: moved,
            takes_writes: true,
            change: Change { elapsed_ms: 2000, position: 256, ..Change::default() },
        }
    }

    /// Three copies on a, b and c, each by its node's state and word; with a writer on a, what it says of each.
    fn slot_of(nodes: [(NodeState, Option<SiloLife>); 3], writer: Option<[SiloReport; 3]>) -> (Slot, Option<String>) {
        let ids = [1, 2, 3].map(|number| SiloId([number; 16]));
        let silos: Vec<Silo> = (0..3)
            .map(|i| super::silo(ids[i], &info(), nodes[i].0, nodes[i].1.as_ref().map(word), &|_| None))
            .collect();
        let live = |silos: &[SiloReport]| silos.iter().filter(|s| s.state == report::SiloState::Live).count();
        let report = writer.map(|silos| SlotReport {
            chosen: None,
            known: Default::default(),
            slot: 0,
            majority: 2,
            serving: live(&silos) >= 2,
            suspended_ms: None,
            silos: silos.into(),
        });
        let copies: Vec<Copy<'_>> = (0..3)
            .map(|i| Copy {
                node: NodeRef { id: NodeId([i as u8; 32]), name: "host".into() },
                label: ["a", "b", "c"][i],
                node_state: nodes[i].0,
                silo: &silos[i],
                told: report.as_ref().map(|report| &report.silos[i]),
            })
            .collect();
        let placed = SlotPlacement { silos: ids.to_vec(), config: ConfigNumber(1) };
        let view = View { holder: report.as_ref().map(|_| "a"), told: report.as_ref(), wanted: 3, range: 0..1024 };
        slot(SlotIndex(0), &placed, &copies, &[], &view)
    }

    fn up(number: u8) -> (NodeState, Option<SiloLife>) {
        (NodeState::Up, Some(life(number)))
    }

    fn states(slot: &Slot) -> Vec<String> {
        slot.replicas.iter().map(|replica| replica.state.to_string()).collect()
    }

    #[test]
    fn copies_that_nobody_compares_are_idle() {
        let (slot, mend) = slot_of([up(1), (NodeState::Down, None), (NodeState::Unknown, None)], None);
        assert_eq!(states(&slot), ["idle", "down", "unknown"]);
        assert_eq!((slot.state, slot.reason.as_deref()), (VolumeState::Detached, Some("the copy on b is down")));
        assert_eq!(mend.as_deref(), Some("start node b"));
        assert!(!unattachable(&slot));
        let (slot, mend) = slot_of([up(1), (NodeState::Down, None), (NodeState::Down, None)], None);
        assert!(unattachable(&slot));
        assert_eq!(mend.as_deref(), Some("start node b or c"));
    }

    #[test]
    fn a_copy_that_is_behind_says_by_how_much_or_nothing() {
        use report::SiloState as Told;
        let three = |third| Some([told(1, Told::Live, Some(0), None), told(2, Told::Live, Some(0), None), third]);
        let (slot, mend) =
            slot_of([up(1), up(2), (NodeState::Down, None)], three(told(3, Told::Unreachable, Some(8192), None)));
        assert_eq!(slot.reason.as_deref(), Some("the copy on c is down, 8KiB behind"));
        assert_eq!((slot.state, mend.as_deref()), (VolumeState::Degraded, Some("start node c")));
        let (slot, mend) = slot_of([up(1), up(2), up(3)], three(told(3, Told::Unreachable, Some(0), None)));
        assert_eq!(slot.reason.as_deref(), Some("the copy on c cannot be reached from a"));
        assert_eq!(mend, None);
        let (slot, _) = slot_of([up(1), up(2), up(3)], three(told(3, Told::CatchingUp, None, Some(0))));
        assert_eq!(slot.reason.as_deref(), Some("the copy on c is catching up"));
        let (slot, _) = slot_of([up(1), up(2), up(3)], three(told(3, Told::CatchingUp, None, Some(3 << 20))));
        assert_eq!(slot.reason.as_deref(), Some("the copy on c is catching up, 3MiB moved so far"));
        let third = &slot.replicas[2];
        assert_eq!((third.bytes_per_second, third.left_ms), (Some(3 << 19), Some(6000)));
        let sent = told(3, Told::CatchingUp, None, Some(3 << 20));
        let silo = super::silo(sent.silo, &info(), NodeState::Up, None, &|_| None);
        let node = NodeRef { id: NodeId([3; 32]), name: "host".into() };
        let copy = Copy { node, label: "c", node_state: NodeState::Up, silo: &silo, told: Some(&sent) };
        for (live, left) in [(1 << 40, 6000), (6 << 20, 2000), (2 << 20, 6000)] {
            let third = copy.replica(ReplicaState::CatchingUp, &(0..1024), Some(live));
            assert_eq!(third.left_ms, Some(left), "with {live} bytes where it comes from");
        }
        let full = SiloReport { takes_writes: false, ..told(3, Told::CatchingUp, Some(4096), Some(0)) };
        let (slot, mend) = slot_of([up(1), up(2), up(3)], three(full));
        assert_eq!(
            slot.reason.as_deref(),
            Some("the copy on c waits for room to catch up, 4KiB behind: its silo is full")
        );
        assert!(mend.is_some_and(|mend| mend.starts_with("make room on the disk of c")));
        let (slot, _) = slot_of([up(1), up(2), up(3)], three(told(3, Told::Leased(1200), None, None)));
        assert_eq!(slot.reason.as_deref(), Some("the copy on c keeps an earlier writer's lease for another 2s"));
    }

    #[test]
    fn a_silo_that_is_unfit_by_its_nodes_word_is_no_good_copy() {
        use report::SiloState as Told;
        let live = || [1, 2, 3].map(|number| told(number, Told::Live, Some(0), None));
        let with = |change: fn(&mut SiloLife)| {
            let mut third = life(3);
            change(&mut third);
            (NodeState::Up, Some(third))
        };
        let stalled = with(|life| life.stalled_ms = Some(7400));
        let (slot, mend) = slot_of([up(1), up(2), stalled.clone()], Some(live()));
        assert_eq!((slot.state, states(&slot)[2].as_str()), (VolumeState::Degraded, "stalled"));
        assert_eq!(slot.reason.as_deref(), Some("the copy on c is stalled: its disk has not answered for 7s"));
        assert!(mend.is_some_and(|mend| mend.contains("disk of c")));
        let (slot, _) = slot_of([up(1), stalled.clone(), stalled], Some(live()));
        assert_eq!(slot.state, VolumeState::Suspended);

        let damaged = with(|life| life.fault = Some("a sync failed".into()));
        let (slot, _) = slot_of([up(1), up(2), damaged], None);
        assert_eq!(slot.reason.as_deref(), Some("the copy on c is damaged: a sync failed"));

        let foreign = with(|life| life.foreign = Some("it is another".into()));
        let mut reports = live();
        reports[2].state = Told::Faulted("it is another".into());
        let (slot, mend) = slot_of([up(1), up(2), foreign], Some(reports));
        assert_eq!(states(&slot)[2], "foreign");
        assert!(mend.is_some_and(|mend| mend.contains("on c")));
    }

    #[test]
    fn a_silo_of_a_node_that_is_not_heard_has_no_known_use() {
        let down = super::silo(SiloId([1; 16]), &info(), NodeState::Down, None, &|_| None);
        assert_eq!((down.state, down.used_bytes, down.reason), (SiloState::Down, None, None));
        let without = super::silo(SiloId([1; 16]), &info(), NodeState::Up, None, &|_| None);
        assert_eq!(without.reason.as_deref(), Some("its node runs without it"));
    }

    #[test]
    fn a_full_silo_says_how_much_is_missing_and_a_damaged_one_where() {
        let volume = VolumeId([9; 16]);
        let run = DamagedRun { key: SlotKey { volume, slot: SlotIndex(0) }, first_block: 2, blocks: 3 };
        let details = SiloDetails {
            id: SiloId([1; 16]),
            space: SpaceReport { full: true, missing_bytes: 24 << 20, ..SpaceReport::default() },
            scrub: ScrubReport { damaged: 3, runs: vec![run], ..ScrubReport::default() },
        };
        let life = SiloLife { used_bytes: 90, ..life(1) };
        let names = |_| Some("pg".to_owned());
        let word = Word { life: &life, details: Some(&details) };
        let silo = super::silo(SiloId([1; 16]), &info(), NodeState::Up, Some(word), &names);
        let id = SiloId([1; 16]).short();
        assert_eq!(
            full(&silo, "a").unwrap().message,
            format!("silo {id} on a is full: 90B of 100B used; it takes no new writes until 24MiB more are free")
        );
        let warning = damaged_blocks(&silo, "a", &[]).unwrap();
        assert_eq!(warning.message, format!("silo {id} on a has 3 damaged blocks: bytes 8192-20479 of volume pg"));
        assert!(warning.hint.unwrap().contains("another copy"));
        let well = Word { life: &life, details: None };
        let silo = super::silo(SiloId([1; 16]), &info(), NodeState::Up, Some(well), &names);
        assert_eq!((full(&silo, "a"), damaged_blocks(&silo, "a", &[])), (None, None));
        assert_eq!((silo.space, silo.scrub), (None, None));
    }

    #[test]
    fn the_nodes_to_start_are_as_many_as_are_needed() {
        let names = |count: usize| ["b", "c", "d"][..count].iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(start(&names(0), 1), None);
        assert_eq!(start(&names(1), 1).as_deref(), Some("start node b"));
        assert_eq!(start(&names(2), 1).as_deref(), Some("start node b or c"));
        assert_eq!(start(&names(2), 2).as_deref(), Some("start the nodes b and c"));
        assert_eq!(start(&names(3), 2).as_deref(), Some("start 2 of the nodes b, c, d"));
    }
}
