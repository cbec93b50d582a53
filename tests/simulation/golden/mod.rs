//! Scripts: the schedules that broke wrong variants of the protocol, played event by event on the simulation's own
//! world, and compared with what is checked in under `traces/`. `INFINIT_GOLDEN=1` writes them anew.

pub mod disks;
pub mod epochs;
pub mod histories;
pub mod late;
pub mod leases;
pub mod limits;
pub mod lives;
pub mod moves;

use std::io::IoSlice;
use std::path::Path;

use infinit::base::block::BLOCK_BYTES;
use infinit::base::id::{Epoch, SlotIndex};
use infinit::base::mutant;
use infinit::cluster::replication::message::{Answer, FromSilo, ToSilo};
use infinit::cluster::replication::writer::report::SiloState;
use infinit::cluster::replication::writer::{RequestError, Response};
use infinit::store::disk::Disk;
use infinit::store::faulty::{Crash, FaultyDisk};

use super::dice::Dice;
use super::temper::{MS, SECOND, Shape, Temper};
use super::workload::{Kind, Op, Tag, tags_of};
use super::world::{Event, World};

/// A world that does what it is told, and nothing else.
pub struct Script {
    world: World,
    name: &'static str,
}

impl Script {
    /// A world of silos that are all open, with perfect clocks and a network of 1 ms.
    fn begin(name: &'static str, shape: Shape) -> Self {
        let mut world = World::new(Temper::calm(shape), Dice::new(1), true);
        world.persistent = false;
        world.trace.quiet = true;
        for silo in 0..world.silos.len() {
            world.clocks[silo] = Default::default();
            world.reopen(silo);
        }
        world.run_for(10 * MS);
        Self { world, name }
    }

    /// A line of prose in the trace.
    fn say(&mut self, text: &str) {
        self.world.note(|| format!("# {text}"));
    }

    fn wait(&mut self, ms: u64) {
        self.world.run_for(ms * MS);
        self.stands();
    }

    fn stands(&self) {
        if let Some(why) = &self.world.failure {
            panic!("{why}\n{}", self.text());
        }
    }

    /// Attaches on a node and lets it be; returns the writer.
    fn attach(&mut self, node: usize) -> usize {
        self.world.attach(node - 1);
        self.world.writers.len() - 1
    }

    /// Attaches on a node and waits until the writer serves.
    fn serve(&mut self, node: usize) -> usize {
        let writer = self.attach(node);
        let serves = self.world.run_until(10 * SECOND, |world| world.writers[writer].is_serving());
        self.stands();
        assert!(serves, "w{writer} does not serve\n{}", self.text());
        writer
    }

    fn ask(&mut self, writer: usize, kind: Kind, block: u64, blocks: u64) -> Tag {
        let tag = self.world.fresh_tag();
        let (position, length) = (block * BLOCK_BYTES, blocks * BLOCK_BYTES);
        self.world.submit(writer, Op::new(tag, kind, position, length));
        tag
    }

    fn answer(&mut self, writer: usize, tag: Tag) -> Result<Response, RequestError> {
        let done = self.world.run_until(5 * SECOND, |world| world.writers[writer].answers.contains_key(&tag));
        self.stands();
        assert!(done, "request {tag} is not answered\n{}", self.text());
        self.world.writers[writer].answers[&tag].clone()
    }

    /// Writes a block and waits for the answer.
    fn write(&mut self, writer: usize, block: u64) -> Tag {
        let tag = self.ask(writer, Kind::Write, block, 1);
        assert_eq!(self.answer(writer, tag), Ok(Response::Done));
        tag
    }

    fn trim(&mut self, writer: usize, block: u64, blocks: u64) {
        let tag = self.ask(writer, Kind::Trim, block, blocks);
        assert_eq!(self.answer(writer, tag), Ok(Response::Done));
    }

    fn flush(&mut self, writer: usize) {
        let tag = self.ask(writer, Kind::Flush, 0, 0);
        assert_eq!(self.answer(writer, tag), Ok(Response::Done));
    }

    /// Reads a block and expects this write's bytes, or zeroes for 0.
    fn expect(&mut self, writer: usize, block: u64, expected: Tag) {
        let tag = self.ask(writer, Kind::Read, block, 1);
        let Ok(Response::Data(bytes)) = self.answer(writer, tag) else { panic!("no data\n{}", self.text()) };
        let tags = tags_of(block * BLOCK_BYTES, &bytes).unwrap();
        self.world.note(|| format!("w{writer} sees write {} in block {block}", tags[0]));
        assert!(tags.iter().all(|tag| *tag == expected), "block {block} has {tags:?}\n{}", self.text());
    }

    /// From here on requests may fail for want of a whole copy or of time.
    fn lawful_errors(&mut self) {
        self.world.errors_are_lawful = true;
    }

    /// Whether a request is still open.
    fn is_open(&self, writer: usize, tag: Tag) -> bool {
        self.world.writers[writer].ops.contains_key(&tag)
    }

    /// Messages to a silo of which this says so are lost from now on.
    fn lose(&mut self, silo: usize, which: fn(&ToSilo) -> bool) {
        self.world.note(|| format!("s{silo} misses some messages"));
        self.world.losses.push((silo - 1, which));
    }

    fn lose_no_more(&mut self) {
        self.world.losses.clear();
    }

    /// Messages to a silo of which this says so take long from now on.
    fn delay(&mut self, silo: usize, which: fn(&ToSilo) -> bool) {
        self.world.note(|| format!("s{silo} gets some messages late"));
        self.world.late.push((silo - 1, which));
    }

    /// What took long until now arrives, if this says so; nothing takes long any more.
    fn arrive(&mut self, which: fn(&ToSilo) -> bool) {
        self.world.late.clear();
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.world.under_way).into_iter().partition(|(_, message)| which(message));
        self.world.under_way = later;
        for (connection, message) in now {
            self.world.note(|| format!("late: {}", super::trace::to_silo(&message)));
            self.world.at(0, Event::ToSilo(connection, message));
        }
        self.wait(5);
    }

    /// The acknowledgements of a silo take long from now on, beyond the end of its connection: no transport lets that
    /// happen, and the machines do not lean on it.
    fn delay_acks(&mut self, silo: usize) {
        self.world.note(|| format!("s{silo}'s acknowledgements take long"));
        self.world.late_acks = Some(silo - 1);
    }

    /// Those that took long until now arrive; none takes long any more.
    fn acks_arrive(&mut self) {
        self.world.late_acks = None;
        for (writer, message) in std::mem::take(&mut self.world.acks_under_way) {
            self.world.note(|| format!("late: {}", super::trace::from_silo(&message)));
            let now = self.world.moment(self.world.writers[writer].node);
            self.world.writers[writer].writer.message(now, message);
            self.world.pump(writer);
        }
        self.stands();
    }

    /// Those that took long until now never arrive; none takes long any more.
    fn acks_are_lost(&mut self) {
        self.world.late_acks = None;
        self.world.acks_under_way.clear();
        self.world.note(|| "they are lost".to_owned());
    }

    /// Cuts a writer's connection to a silo; what was sent on it may still arrive.
    fn cut(&mut self, writer: usize, silo: usize) {
        let id = self.world.writers[writer].links[silo - 1].expect("they are connected");
        self.world.cut(id, true);
    }

    fn kill(&mut self, writer: usize) {
        self.world.kill_writer(writer);
    }

    fn crash(&mut self, silo: usize) {
        self.world.crash_silo(silo - 1, Crash::Process);
    }

    fn power(&mut self, silo: usize) {
        self.world.crash_silo(silo - 1, Crash::Power);
    }

    /// How many attaches let old clients go on.
    fn resumed(&self) -> u64 {
        self.world.counts.get("resumed").copied().unwrap_or_default()
    }

    fn open(&mut self, silo: usize) {
        self.world.at(0, Event::Reopen(silo - 1));
        self.wait(1);
    }

    /// Flips a bit of a written block where a silo has it on its disk.
    fn decay(&mut self, silo: usize, block: u64, written: Tag) {
        let bytes = super::workload::content(written, block * BLOCK_BYTES, BLOCK_BYTES);
        let disk = &self.world.silos[silo - 1].disk;
        let names = disk.list().unwrap();
        let place = names.iter().find_map(|name| {
            let contents = disk.contents(name).unwrap();
            let at = contents.windows(bytes.len()).position(|window| window == bytes)?;
            Some((name, at as u64))
        });
        let (name, at) = place.expect("the silo has the block");
        assert!(disk.flip_bit(name, at + 1000, 3));
        self.world.decays = true;
        self.world.note(|| format!("s{silo} has a flipped bit in block {block}"));
    }

    /// Starts a silo that is down with another disk.
    fn restart_on(&mut self, silo: usize, disk: FaultyDisk) {
        (self.world.strangers, self.world.faults_are_lawful) = (true, true);
        self.world.silos[silo - 1].disk = disk;
        self.world.silos[silo - 1].standing.clear();
        self.open(silo);
    }

    /// What a backup of a silo's directory holds.
    fn copy(&mut self, silo: usize) -> FaultyDisk {
        self.world.note(|| format!("s{silo}'s directory is copied"));
        let (from, to) = (&self.world.silos[silo - 1].disk, FaultyDisk::new(7));
        for name in from.list().unwrap() {
            let file = to.create(&name).unwrap();
            file.write_vectored_at(&mut [IoSlice::new(&from.contents(&name).unwrap())], 0).unwrap();
            file.sync_data().unwrap();
        }
        to.sync_dir().unwrap();
        to
    }

    /// What people are told of a silo's place in the only slot.
    fn state_of(&self, writer: usize, silo: usize) -> SiloState {
        let host = &self.world.writers[writer].writer;
        host.report(self.world.moment(0)).slots[0].silos[silo - 1].state.clone()
    }

    fn serves(&self, writer: usize) -> bool {
        self.world.writers[writer].is_serving()
    }

    fn checkpoint(&mut self, silo: usize) {
        let life = self.world.silos[silo - 1].life;
        let keeper = self.world.silos[silo - 1].keeper.as_ref().expect("the silo is open");
        keeper.silo().checkpoint().unwrap();
        self.world.note(|| format!("s{silo} makes a checkpoint in life {life}"));
        self.world.check_content(silo - 1);
    }

    /// A silo tells the writer that its scrub found a block damaged, in the writer's epoch and so many beyond.
    fn tell_damage(&mut self, writer: usize, silo: usize, slot: u32, beyond: u64, block: u64) {
        let id = self.world.writers[writer].links[silo - 1].expect("the writer is connected");
        let epoch = Epoch(self.world.writers[writer].epoch.0 + beyond);
        let answer = Answer::Damaged { slot: SlotIndex(slot), epoch, block };
        let volume = super::world::key_of(0).volume;
        self.world.send_to_writer(id, FromSilo::Rare(super::world::silo_id(silo - 1), volume, answer));
    }

    /// Whether a silo can read a block.
    fn reads(&self, silo: usize, block: u64) -> bool {
        let keeper = self.world.silos[silo - 1].keeper.as_ref().expect("the silo is open");
        keeper.silo().read(super::world::key_of(0), block, 1).is_ok()
    }

    /// What a silo would vote, (A, S), and whether it is complete.
    fn vote(&self, silo: usize, slot: usize) -> (u64, u64, bool) {
        let standing = &self.world.silos[silo - 1].standing[&super::world::key_of(slot)];
        (standing.vote.adopted.0, standing.vote.applied.0, standing.complete)
    }

    fn text(&self) -> String {
        let mut text = self.world.trace.lines.as_ref().map(|lines| lines.join("\n")).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Compares the trace with the checked-in one; not of a product with a deliberate bug, of which only the asserts count.
    fn end(self) {
        self.stands();
        if mutant::any() {
            return;
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/simulation/traces").join(self.name);
        if std::env::var_os("INFINIT_GOLDEN").is_some() {
            std::fs::write(&path, self.text()).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        let text = self.text();
        let differs = golden.lines().zip(text.lines()).position(|(golden, line)| golden != line);
        let at = differs.unwrap_or(golden.lines().count().min(text.lines().count()));
        assert!(
            golden == text,
            "{} differs from line {} on:\n{}\nbut it was\n{}\nINFINIT_GOLDEN=1 writes it anew",
            path.display(),
            at + 1,
            text.lines().skip(at).take(20).collect::<Vec<_>>().join("\n"),
            golden.lines().skip(at).take(5).collect::<Vec<_>>().join("\n"),
        );
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.text());
        }
    }
}

fn is_append(message: &ToSilo) -> bool {
    matches!(message, ToSilo::Append(_))
}
