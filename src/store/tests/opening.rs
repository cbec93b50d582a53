//! How a large silo opens after its process was killed, and what memory it takes while it serves.
//!
//! The index is loaded in key order and describes blocks that lie in sparse segments: they read as zeroes, with the
//! checksum that zeroes have, so that any block can be read and verified although only a few are really there. Three
//! processes, each this program again: one loads, one writes until it is killed, one opens, reads and writes, and says
//! what that took. `tests/bench/opening` runs it for a silo of 1 TiB; a small one is part of the suite.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::store::disk::{Disk, RealDisk};
use crate::store::index::Leaves;
use crate::store::keys::{BLOCKS as GROUPS, Entry, GROUP_BLOCKS, pack, place_key};
use crate::store::segment::{SEGMENT_HEADER_BYTES, segment_name};
use crate::store::version::{Place, Version};

/// Blocks of one slot, 32 GiB as in a volume; a smaller silo has a single slot.
const SLOT_BLOCKS_MAX: u64 = (32 << 30) / BLOCK_BYTES;
/// Groups of one transaction of the load.
const LOAD_GROUPS: usize = 16_384;
/// Records of one append, and appends between two syncs.
const BATCH: u64 = 8;
const SYNC_EVERY: u64 = 8;
/// Odd, so that multiplying by it permutes what a power of two counts.
const SCATTER: u64 = 0x9e37_79b9_7f4a_7c15;
const MIB: u64 = 1 << 20;
/// Names the folder, the step and the measure for the processes that this one starts.
const VARIABLE: &str = "INFINIT_OPENING";

/// What is measured.
#[derive(Clone, Copy, Debug)]
struct Measure {
    /// What the index describes, a power of two.
    gib: u64,
    /// Blocks that were written together, a power of two up to 32. At 1 every block is a run of its own.
    run: u64,
    /// Blocks written at random before the last checkpoint, and at the least after it.
    written: u64,
    tail: u64,
    cache_mib: u64,
    /// How long it serves.
    millis: u64,
    /// What must hold: the time to open, what it reads meanwhile, and the memory that it ever takes beyond that of a
    /// process that does nothing.
    opening_millis_max: u64,
    read_mib_max: u64,
    memory_mib_max: u64,
}

impl Measure {
    fn to_text(self) -> String {
        let Measure { gib, run, written, tail, cache_mib, millis, .. } = self;
        let limits = (self.opening_millis_max, self.read_mib_max, self.memory_mib_max);
        format!("{gib} {run} {written} {tail} {cache_mib} {millis} {} {} {}", limits.0, limits.1, limits.2)
    }

    fn from_text(text: &str) -> Self {
        let numbers: Vec<u64> = text.split(' ').map(|number| number.parse().unwrap()).collect();
        let [gib, run, written, tail, cache_mib, millis, opening_millis_max, read_mib_max, memory_mib_max] =
            numbers[..].try_into().unwrap();
        let limits =
            Measure { gib, run, written, tail, cache_mib, millis, opening_millis_max, read_mib_max, memory_mib_max };
        assert!(gib.is_power_of_two() && run.is_power_of_two() && run <= 32);
        limits
    }

    fn blocks(self) -> u64 {
        (self.gib << 30) / BLOCK_BYTES
    }

    fn slot_blocks(self) -> u64 {
        self.blocks().min(SLOT_BLOCKS_MAX)
    }

    fn slots(self) -> u32 {
        (self.blocks() / self.slot_blocks()) as u32
    }

    fn options(self, incarnation: u64) -> SiloOptions {
        // What is left of the last segment is read at opening: on a small silo it is to be little.
        let segment_bytes = (self.gib * (64 << 10)).clamp(4 * MIB, 64 * MIB) as u32;
        let index_cache_bytes = (self.cache_mib * MIB) as usize;
        let options = SiloOptions::new(self.gib * (3 << 29), Incarnation(incarnation), [1; 16]);
        SiloOptions { segment_bytes, index_cache_bytes, ..options }
    }

    fn open(self, folder: &Path, incarnation: u64) -> Silo {
        Silo::open(Arc::new(RealDisk::new(folder)), self.options(incarnation)).unwrap()
    }

    /// Bytes from one loaded run to the next in a segment: its data, and what stands before it.
    fn stride(self) -> u64 {
        self.run * BLOCK_BYTES + self.head()
    }

    fn head(self) -> u64 {
        112 + self.run * 8
    }

    fn runs_of_segment(self) -> u64 {
        (u64::from(self.options(1).segment_bytes) - u64::from(SEGMENT_HEADER_BYTES) - 16) / self.stride()
    }

    fn segments(self) -> u32 {
        (self.blocks() / self.run).div_ceil(self.runs_of_segment()) as u32
    }

    /// The version that a block was loaded with: runs lie in the log in an order that has nothing to do with theirs.
    fn loaded(self, block: u64, zeroes: u32) -> Version {
        let place = (block / self.run).wrapping_mul(SCATTER) % (self.blocks() / self.run);
        let start = u64::from(SEGMENT_HEADER_BYTES) + place % self.runs_of_segment() * self.stride() + self.head();
        let offset = (start + block % self.run * BLOCK_BYTES) as u32;
        let segment = 1 + (place / self.runs_of_segment()) as u32;
        Version { stamp: stamp(1, 1 + place), place: Place::Data { segment, offset, crc: zeroes } }
    }

    /// The number that writes begin above.
    fn first_seq(self) -> u64 {
        2 * self.blocks()
    }

    /// The block that the write with this number goes to, anywhere.
    fn block_of(self, seq: u64) -> u64 {
        let mixed = (seq ^ seq >> 31).wrapping_mul(SCATTER);
        ((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 17) % self.blocks()
    }

    fn key(self, block: u64) -> SlotKey {
        slot((block / self.slot_blocks()) as u32)
    }
}

fn slot(number: u32) -> SlotKey {
    SlotKey { volume: VolumeId([1; 16]), slot: SlotIndex(number) }
}

/// What the kernel says of this process, in KiB or bytes.
fn told(file: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn memory() -> String {
    let mib = |field| told("status", field) >> 10;
    format!("{} MiB (at the most {}, of it {} not of a file)", mib("VmRSS:"), mib("VmHWM:"), mib("RssAnon:"))
}

/// What this process has spent on processors: on a machine with much else to do the better part of what is told.
fn processor_seconds() -> f64 {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}

fn load(folder: &Path, measure: Measure) {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(folder));
    Silo::format(disk.clone(), SILO).unwrap();
    let silo = measure.open(folder, 1);
    let state = SlotState { promise: Epoch(1), adopted: Epoch(1), ..SlotState::default() };
    let commits =
        (0..measure.slots()).map(|at| SlotCommit { key: slot(at), state: state.clone(), change: Change::Keep });
    silo.commit(&commits.collect::<Vec<_>>()).unwrap();
    let zeroes = crc32c::crc32c(&[0; BLOCK_BYTES as usize]);
    let (began, mut packed_bytes) = (Instant::now(), 0);
    for number in 0..measure.slots() {
        let slot = silo.find(slot(number)).unwrap();
        let blocks = u64::from(number) * measure.slot_blocks()..u64::from(number + 1) * measure.slot_blocks();
        let groups: Vec<u64> = (blocks.start / GROUP_BLOCKS..blocks.end / GROUP_BLOCKS).collect();
        for some in groups.chunks(LOAD_GROUPS) {
            let loaded = silo.change_index(&silo.index.turn(false), Leaves::Enough, |txn, tally| {
                let mut table = txn.open_table(GROUPS)?;
                for group in some {
                    let version = |index: u8| measure.loaded(group * GROUP_BLOCKS + u64::from(index), zeroes);
                    let entries: Vec<Entry> = (0..GROUP_BLOCKS as u8).map(|index| (index, version(index))).collect();
                    entries.iter().for_each(|(_, version)| tally.change(version, 1));
                    let packed = pack(&entries);
                    packed_bytes += packed.len();
                    table.insert(&place_key(slot.number, *group), &packed[..])?;
                }
                Ok(())
            });
            loaded.unwrap();
        }
        slot.write().extents.raise_blocks(blocks.start, measure.slot_blocks(), Seq(1));
    }
    let (seconds, bytes) = (began.elapsed().as_secs_f64(), silo.index.size());
    println!(
        "loaded {} GiB in key order in {seconds:.1} s, {:.0} blocks/s: index {} MiB, {} KiB a GiB ({} KiB packed); {}",
        measure.gib,
        measure.blocks() as f64 / seconds,
        bytes / MIB,
        (bytes >> 10) / measure.gib,
        (packed_bytes as u64 >> 10) / measure.gib,
        memory(),
    );
    silo.close().unwrap();
    let bytes = u64::from(measure.options(1).segment_bytes);
    (1..=measure.segments()).for_each(|number| disk.create(&segment_name(number)).unwrap().set_len(bytes).unwrap());
}

/// Writes at random, and syncs; returns the number to go on with. `each` is told of every sync.
fn write(silo: &Silo, measure: Measure, mut seq: u64, count: u64, mut each: impl FnMut(u64)) -> u64 {
    let end = seq + count;
    while seq < end {
        for _ in 0..SYNC_EVERY {
            let records = (seq..seq + BATCH).map(|seq| {
                let (block, stamp) = (measure.block_of(seq), stamp(1, seq));
                Record::write(measure.key(block), block * BLOCK_BYTES, stamp, content(stamp).into())
            });
            silo.append(&records.collect::<Vec<_>>()).unwrap();
            seq += BATCH;
        }
        silo.sync().unwrap();
        (0..measure.slots()).for_each(|number| silo.set_committed(slot(number), Seq(seq - 1)).unwrap());
        each(seq - 1);
    }
    seq
}

/// What a silo's background thread does, until told to stop; how long checkpoints took.
fn chores(silo: &Silo, stop: &AtomicBool, checkpoints: &Mutex<Vec<f64>>) {
    while !stop.load(Ordering::Relaxed) {
        if silo.checkpoint_due() {
            let began = Instant::now();
            silo.checkpoint().unwrap();
            checkpoints.lock().unwrap().push(began.elapsed().as_secs_f64());
        } else if silo.tidy_due() {
            silo.tidy().unwrap();
        }
        silo.clean().unwrap();
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// Lets the background thread end, also when an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes until it is killed, and says how far it has come.
fn churn(folder: &Path, measure: Measure) {
    let silo = measure.open(folder, 2);
    let (stop, checkpoints) = (AtomicBool::new(false), Mutex::default());
    let began = Instant::now();
    // Above whatever an earlier one has written.
    let applied = silo.slots().iter().map(|(_, state)| state.applied.0).max().unwrap_or(0);
    let mut seq = measure.first_seq().max(applied + 1);
    std::thread::scope(|scope| {
        scope.spawn(|| chores(&silo, &stop, &checkpoints));
        let _stop = Stop(&stop);
        seq = write(&silo, measure, seq, measure.written, |_| {});
    });
    let rate = measure.written as f64 / began.elapsed().as_secs_f64();
    let checkpoints = checkpoints.into_inner().unwrap();
    println!("{rate:.0} random writes/s, checkpoints of {checkpoints:.1?} s; {}", memory());
    silo.checkpoint().unwrap();
    write(&silo, measure, seq, u64::MAX / 2, |synced| println!("synced {synced}"));
}

/// Opens after the kill, finds everything up to `synced`, serves, and holds what it takes against the limits.
fn open_and_serve(folder: &Path, measure: Measure, synced: u64) {
    let (at_rest, read) = (told("status", "VmRSS:"), told("io", "rchar:"));
    let (began, spent) = (Instant::now(), processor_seconds());
    let silo = measure.open(folder, 3);
    let (opening, spent) = (began.elapsed(), processor_seconds() - spent);
    let read_mib = (told("io", "rchar:") - read) / MIB;
    println!(
        "opened in {:.2} s, of it {spent:.2} s on a processor, {read_mib} MiB read; {}",
        opening.as_secs_f64(),
        memory()
    );
    assert!(opening.as_millis() < measure.opening_millis_max.into(), "it opens in time");
    assert!(read_mib < measure.read_mib_max, "it opens without reading the index");

    let first = synced + 1 - measure.tail;
    let newest: BTreeMap<u64, u64> = (first..=synced).map(|seq| (measure.block_of(seq), seq)).collect();
    for (block, seq) in &newest {
        let run = silo.read(measure.key(*block), *block, 1).unwrap();
        let found = u64::from_le_bytes(*run.data.first_chunk().unwrap());
        // What was written behind the last sync may have survived as well.
        assert!(found >= *seq, "block {block}: write {seq} is missing, {found} is there");
    }
    drop(newest);
    serve(&silo, measure, synced + (1 << 20));
    let taken = (told("status", "VmHWM:") - at_rest) >> 10;
    println!("{}; {taken} MiB more than at rest", memory());
    assert!(taken < measure.memory_mib_max, "its memory is bounded");
    silo.close().unwrap();
}

/// Random reads and writes for a while, anywhere.
fn serve(silo: &Silo, measure: Measure, mut seq: u64) {
    let (stop, checkpoints, reads) = (AtomicBool::new(false), Mutex::default(), AtomicU64::new(0));
    let (began, first) = (Instant::now(), seq);
    let mut slowest = Duration::ZERO;
    std::thread::scope(|scope| {
        scope.spawn(|| chores(silo, &stop, &checkpoints));
        scope.spawn(|| read_anywhere(silo, measure, &stop, &reads));
        let _stop = Stop(&stop);
        while began.elapsed().as_millis() < measure.millis.into() {
            let began = Instant::now();
            seq = write(silo, measure, seq, BATCH * SYNC_EVERY, |_| {});
            slowest = slowest.max(began.elapsed());
        }
    });
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{:.0} random reads/s beside {:.0} random writes/s, {} synced took {slowest:.1?} at the most, checkpoints of \
         {:.1?} s",
        reads.into_inner() as f64 / seconds,
        (seq - first) as f64 / seconds,
        BATCH * SYNC_EVERY,
        checkpoints.into_inner().unwrap(),
    );
}

fn read_anywhere(silo: &Silo, measure: Measure, stop: &AtomicBool, reads: &AtomicU64) {
    let mut chooser = Chooser::new(5);
    while !stop.load(Ordering::Relaxed) {
        let block = chooser.below(measure.blocks());
        let run = silo.read(measure.key(block), block, 1).unwrap();
        let seq = u64::from_le_bytes(*run.data.first_chunk().unwrap());
        assert!(seq == 0 || measure.block_of(seq) == block, "block {block} holds write {seq}");
        reads.fetch_add(1, Ordering::Relaxed);
    }
}

/// Starts a step in a process of its own.
fn start(folder: &Path, measure: Measure, step: &str) -> std::process::Child {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["store::tests::opening::step", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    child.env(VARIABLE, format!("{step}\n{}\n{}", folder.display(), measure.to_text()));
    child.stdout(Stdio::piped()).spawn().unwrap()
}

/// The lines of a step's own that it has said, up to one that `last` wants, or its end.
fn listen(child: &mut std::process::Child, last: impl Fn(&str) -> bool) -> Vec<String> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut heard = Vec::new();
    for line in lines {
        let done = last(&line);
        heard.push(line);
        if done {
            break;
        }
    }
    heard
}

/// The whole measurement; everything that the processes say.
fn measured(parent: &Path, measure: Measure) -> String {
    let folder = tempfile::tempdir_in(parent).unwrap();
    let mut said = Vec::new();
    let mut child = start(folder.path(), measure, "load");
    said.extend(listen(&mut child, |_| false));
    assert!(child.wait().unwrap().success(), "{}", said.join("\n"));

    let mut child = start(folder.path(), measure, "churn");
    let enough = measure.first_seq() + measure.written + measure.tail;
    let synced = |line: &str| line.strip_prefix("synced ").map(|number| number.parse::<u64>().unwrap());
    let heard = listen(&mut child, |line| synced(line).is_some_and(|number| number >= enough));
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    let last = heard.last().and_then(|line| synced(line)).unwrap_or_else(|| panic!("{}", heard.join("\n")));
    said.extend(heard.into_iter().filter(|line| synced(line).is_none()));

    let mut child = start(folder.path(), measure, &format!("open {last}"));
    said.extend(listen(&mut child, |_| false));
    assert!(child.wait().unwrap().success(), "{}", said.join("\n"));
    // The first line of each follows on the name of the test without a line's end between them.
    let said = said.iter().map(|line| line.rsplit("... ").next().unwrap_or(line));
    said.filter(|line| line.contains(" MiB") || line.contains("/s")).collect::<Vec<_>>().join("\n")
}

#[test]
#[ignore = "a step of the others here, which run it"]
fn step() {
    let Ok(text) = std::env::var(VARIABLE) else { return };
    let mut lines = text.lines();
    let (step, folder) = (lines.next().unwrap(), Path::new(lines.next().unwrap()));
    let measure = Measure::from_text(lines.next().unwrap());
    match step.split_once(' ') {
        None if step == "load" => load(folder, measure),
        None => churn(folder, measure),
        Some((_, synced)) => open_and_serve(folder, measure, synced.parse().unwrap()),
    }
}

/// An index of 4 GiB of blocks, many times the cache: it opens without being read, and does not come to lie in memory.
#[test]
fn opening_after_a_kill_reads_and_keeps_a_bounded_part_of_the_index() {
    let measure = Measure {
        gib: 4,
        run: 1,
        written: 2000,
        tail: 500,
        cache_mib: 4,
        millis: 700,
        opening_millis_max: 60_000,
        read_mib_max: 12,
        memory_mib_max: 24,
    };
    println!("{}", measured(&std::env::temp_dir(), measure));
}

#[test]
#[ignore = "measures; run by tests/bench/opening"]
fn opening_a_large_silo() {
    let number = |name: &str, otherwise: u64| std::env::var(name).map_or(otherwise, |text| text.parse().unwrap());
    let parent = std::env::var("INFINIT_BENCH_DIR").unwrap_or("/tmp".to_owned());
    let measure = Measure {
        gib: number("INFINIT_BENCH_GIB", 1024),
        run: number("INFINIT_BENCH_RUN", 1),
        written: number("INFINIT_BENCH_MIB", 2048) * MIB / BLOCK_BYTES,
        tail: number("INFINIT_BENCH_TAIL_MIB", 256) * MIB / (BLOCK_BYTES + 120),
        cache_mib: number("INFINIT_BENCH_CACHE_MIB", 64),
        millis: 1000 * number("INFINIT_BENCH_SECONDS", 20),
        opening_millis_max: 10_000,
        read_mib_max: 2048,
        memory_mib_max: 512,
    };
    println!("{}", measured(Path::new(&parent), measure));
}
