//! One scripted life of a silo, crashed at every operation of its disk.

use std::sync::atomic::Ordering;

use super::*;
use crate::store::faulty::Crash;
use crate::store::slot::Vote;
use crate::store::staging::ExtentListing;

/// What the script has achieved when it stopped.
#[derive(Default)]
struct Reached {
    /// The history as appended; of it the first `synced` are durable.
    history: Vec<Op>,
    synced: usize,
    /// While a commit that changes the history is under way: what it may have become.
    next: Option<Vec<Op>>,
}

fn ops(chooser: &mut Chooser, epoch: u64, seqs: std::ops::Range<u64>) -> Vec<Op> {
    seqs.map(|seq| chooser.op(stamp(epoch, seq))).collect()
}

fn append(silo: &Silo, reached: &mut Reached, ops: Vec<Op>) -> Result<()> {
    for batch in ops.chunks(6) {
        // A batch that failed may be there in part, as any unsynced one.
        reached.history.extend(batch);
        silo.append(&batch.iter().map(Op::record).collect::<Vec<_>>())?;
    }
    Ok(())
}

fn sync(silo: &Silo, reached: &mut Reached) -> Result<()> {
    silo.sync()?;
    reached.synced = reached.history.len();
    Ok(())
}

/// Two lives: appends over several segments, checkpoints, a trim that is carried out, a stop, then a stale suffix that is
/// replaced by what was staged, more appends, and a stop.
fn script(disk: &FaultyDisk, reached: &mut Reached) -> Result<()> {
    let mut chooser = Chooser::new(11);
    let silo = open(disk, 1)?;
    silo.commit(&[commit(SlotState { adopted: Epoch(1), ..SlotState::default() }, Change::Keep)])?;
    append(&silo, reached, ops(&mut chooser, 1, 1..20))?;
    sync(&silo, reached)?;
    let mut zeroes = 0;
    for op in ops(&mut chooser, 1, 20..40) {
        append(&silo, reached, vec![Op { count: op.count.min(4), ..op }])?;
        sync(&silo, reached)?;
        zeroes += u32::from(silo.zeroes_due());
        silo.zero_ahead()?;
    }
    assert!(zeroes > 0, "small syncs one after the other are a rhythm");
    silo.set_committed(KEY, Seq(15))?;
    silo.checkpoint()?;
    reached.synced = reached.history.len();
    append(&silo, reached, ops(&mut chooser, 1, 40..50))?;
    silo.close()?;
    reached.synced = reached.history.len();
    drop(silo);
    let silo = open(disk, 2)?;
    append(&silo, reached, ops(&mut chooser, 1, 50..60))?;

    // Epoch 2 branched off at 30. A listing names what exists in each extent then, with what changed since 15.
    let history: Vec<Op> = reached.history[..30].iter().copied().chain(ops(&mut chooser, 2, 31..36)).collect();
    let blocks = fold(&history);
    for extent in 0..BLOCKS / 256 {
        let mut listing = ExtentListing::empty(extent, Seq(35));
        let mut records = Vec::new();
        for (block, (stamp, kind)) in blocks.range(extent * 256..(extent + 1) * 256) {
            listing.set((block % 256) as usize);
            if stamp.seq > Seq(15) {
                records.push(Op { stamp: *stamp, first: *block, count: 1, kind: *kind }.record().into_transfer());
            }
        }
        silo.append(&records)?;
        silo.stage_listing(KEY, &listing)?;
    }
    reached.next = Some(history.clone());
    let state = SlotState { adopted: Epoch(2), applied: Seq(35), committed: Seq(15), ..silo.slot(KEY).unwrap() };
    silo.commit(&[commit(state, Change::Adopt { base: Seq(15) })])?;
    *reached = Reached { synced: history.len(), history, next: None };
    append(&silo, reached, ops(&mut chooser, 2, 36..46))?;
    sync(&silo, reached)?;
    silo.set_committed(KEY, Seq(45))?;
    silo.checkpoint()?;
    append(&silo, reached, ops(&mut chooser, 2, 46..50))?;
    let vote = Vote { adopted: Epoch(2), applied: Seq(47) };
    silo.sync()?;
    reached.synced = reached.history.len();
    reached.next = Some(reached.history.iter().copied().filter(|op| op.stamp.seq <= Seq(47)).collect());
    silo.commit(&[commit(silo.slot(KEY).unwrap(), Change::Revert { vote })])?;
    let history = reached.next.take().unwrap_or_default();
    *reached = Reached { synced: history.len(), history, next: None };
    silo.close()
}

/// Opens the silo and checks that it holds a history that it may hold.
fn check(disk: &FaultyDisk, reached: &Reached, crash: Crash, what: &str) {
    let silo = open(disk, 99).unwrap_or_else(|error| panic!("{what}: {error}"));
    let Some(state) = silo.slot(KEY) else {
        assert!(reached.synced == 0, "{what}: the slot is gone");
        return;
    };
    if let Some(next) = &reached.next
        && state.applied == last(next)
        && state.applied != last(&reached.history)
    {
        assert_holds(&silo, next, what);
        return;
    }
    let kept = reached.history.iter().position(|op| op.stamp.seq == state.applied).map_or(0, |at| at + 1);
    assert!(kept >= reached.synced, "{what}: {kept} kept of {} synced", reached.synced);
    if crash == Crash::Process {
        assert!(reached.history.len() - kept <= 6, "{what}: a process crash lost whole batches");
    }
    assert_holds(&silo, &reached.history[..kept], what);
    // What was recovered is durable: a power loss right now takes nothing of it.
    disk.crash(Crash::Power);
    drop(silo);
    let silo = open(disk, 100).unwrap_or_else(|error| panic!("{what}, again: {error}"));
    assert_eq!(silo.slot(KEY).unwrap().applied, state.applied, "{what}");
    assert_holds(&silo, &reached.history[..kept], what);
}

fn last(history: &[Op]) -> Seq {
    history.last().map_or(Seq::ZERO, |op| op.stamp.seq)
}

fn formatted(seed: u64) -> FaultyDisk {
    let disk = FaultyDisk::new(seed);
    Silo::format(Arc::new(disk.clone()), SILO).unwrap();
    disk
}

fn crash_at_every_operation(crash: Crash) {
    let counting = formatted(0);
    let before = counting.operations();
    script(&counting, &mut Reached::default()).unwrap();
    let operations = counting.operations() - before;
    assert!(operations > 100, "the script is to do much: {operations}");
    for at in 0..operations {
        let disk = formatted(at);
        disk.crash_after(at, crash);
        let mut reached = Reached::default();
        // A crash while the last handle is dropped fails nothing that the script waits for.
        let _ = script(&disk, &mut reached);
        assert!(disk.is_down());
        disk.restart();
        check(&disk, &reached, crash, &format!("{crash:?} crash at operation {at}"));
    }
}

#[test]
fn a_power_loss_at_any_operation_leaves_a_history_with_all_that_was_synced() {
    crash_at_every_operation(Crash::Power);
}

#[test]
fn a_process_crash_at_any_operation_leaves_a_history_with_all_that_was_written() {
    crash_at_every_operation(Crash::Process);
}

/// Opening is itself crashed at every operation, after an unclean stop.
#[test]
fn an_opening_that_is_interrupted_anywhere_is_done_again() {
    let prepared = |seed| {
        let (disk, silo) = fresh(seed);
        let history = ops(&mut Chooser::new(seed), 1, 1..40);
        for batch in history.chunks(6) {
            silo.append(&batch.iter().map(Op::record).collect::<Vec<_>>()).unwrap();
        }
        silo.sync().unwrap();
        disk.crash(Crash::Process);
        drop(silo);
        (disk, history)
    };
    let (counting, _) = prepared(3);
    let before = counting.operations();
    open(&counting, 2).unwrap();
    for at in 0..counting.operations() - before {
        let (disk, history) = prepared(3);
        disk.crash_after(at, Crash::Power);
        // A crash at the very end may hit the dropping of the handle only.
        let opened = open(&disk, 2).map(drop);
        assert!(opened.is_err() || disk.is_down());
        disk.restart();
        let silo = open(&disk, 3).unwrap();
        assert_holds(&silo, &history, &format!("crash of an opening at {at}"));
    }
}

/// The simulation of a cluster rests on it: the same seed gives the same run, to the last byte on the disk.
#[test]
fn the_same_seed_gives_the_same_disk() {
    let outcome = |seed| {
        let disk = formatted(seed);
        disk.crash_after(150 + seed, Crash::Power);
        let _ = script(&disk, &mut Reached::default());
        disk.restart();
        let silo = open(&disk, 7).unwrap();
        silo.close().unwrap();
        drop(silo);
        let names = crate::store::disk::Disk::list(&disk).unwrap();
        let contents: Vec<u32> = names.iter().map(|name| crc32c::crc32c(&disk.contents(name).unwrap())).collect();
        (names, contents, disk.operations())
    };
    for seed in 0..20 {
        assert_eq!(outcome(seed), outcome(seed), "seed {seed}");
    }
}

/// What silos report of one another tells, after a power loss, which of them lost something: it must outlast one itself,
/// and saving it must claim nothing else.
#[test]
fn saved_reports_outlast_a_power_loss_and_claim_nothing() {
    let (disk, silo) = fresh(3);
    let reports = vec![(SILO, Epoch(1), Seq(7)), (SiloId([9; 16]), Epoch(1), Seq(9))];
    let history = ops(&mut Chooser::new(2), 1, 1..8);
    silo.append(&history.iter().map(Op::record).collect::<Vec<_>>()).unwrap();
    assert!(!silo.has_unsaved_peers());
    silo.set_peers(KEY, reports.clone()).unwrap();
    assert!(silo.has_unsaved_peers());
    silo.save_peers().unwrap();
    assert!(!silo.has_unsaved_peers());
    drop(silo);
    disk.crash(Crash::Power);
    let silo = open(&disk, 2).unwrap();
    let state = silo.slot(KEY).unwrap();
    assert_eq!(state.peers, reports);
    assert!(state.applied < Seq(8));
    assert_holds(&silo, &history[..state.applied.0 as usize], "what was not synced may be gone, in order");
}

/// A tail is written anew at each opening and takes the old one's place: however often the process is killed before it
/// comes to a checkpoint, nothing is lost, the disk does not fill with old tails, and the checkpoint is due in time.
#[test]
fn the_tails_of_one_opening_after_another_take_each_others_place() {
    let (disk, mut silo) = fresh(5);
    let (mut chooser, mut history, mut bytes) = (Chooser::new(5), Vec::new(), 0);
    for life in 2..20 {
        let some = ops(&mut chooser, 1, life * 5..life * 5 + 5);
        let records: Vec<Record> = some.iter().map(Op::record).collect();
        bytes += records.iter().map(|record| record.len() as u64).sum::<u64>();
        silo.append(&records).unwrap();
        silo.sync().unwrap();
        history.extend(some);
        disk.crash(if life % 2 == 0 { Crash::Power } else { Crash::Process });
        drop(silo);
        silo = open(&disk, life).unwrap();
        assert_holds(&silo, &history, &format!("life {life}"));
        assert_eq!(silo.pending_bytes.load(Ordering::Relaxed), bytes, "a checkpoint is due when it would have been");
        let names = crate::store::disk::Disk::list(&disk).unwrap();
        let segments = names.iter().filter(|name| name.starts_with("segment-")).count() as u64;
        assert!(segments <= 2 + bytes / (256 << 10), "life {life}: {segments} segments for {bytes} bytes");
    }
    silo.checkpoint().unwrap();
    silo.close().unwrap();
    drop(silo);
    assert_holds(&open(&disk, 20).unwrap(), &history, "in the end");
}

/// What an incomplete slot received is no part of its history, wherever in a checkpoint of it the silo stops.
#[test]
fn an_incomplete_slot_goes_back_from_any_point_of_a_checkpoint() {
    let write = |seq: u64, first: u64| Op { stamp: stamp(1, seq), first, count: 4, kind: Kind::Data };
    let history: Vec<Op> = (1..=4).map(|seq| write(seq, seq * 8)).collect();
    let vote = Vote { adopted: Epoch(1), applied: Seq(4) };
    for crash in [Crash::Power, Crash::Process] {
        for at in 0.. {
            let (disk, silo) = fresh(at);
            history.iter().for_each(|op| silo.append(&[op.record()]).unwrap());
            silo.checkpoint().unwrap();
            let state = SlotState { incomplete: Some(vote), ..silo.slot(KEY).unwrap() };
            silo.commit(&[commit(state, Change::Keep)]).unwrap();
            // In extents that it had nothing in.
            (5..=9).for_each(|seq| silo.append(&[write(seq, seq * 200).record()]).unwrap());
            disk.crash_after(at, crash);
            let _ = silo.checkpoint();
            let was_down = disk.is_down();
            disk.crash(crash);
            disk.restart();
            drop(silo);
            let silo = open(&disk, 2).unwrap();
            let what = format!("{crash:?} crash at operation {at} of the checkpoint");
            assert_eq!(silo.slot(KEY).unwrap().vote(), vote, "{what}");
            assert_holds(&silo, &history, &what);
            if !was_down {
                assert!(at > 8, "a checkpoint is more than {at} operations");
                break;
            }
        }
    }
}
