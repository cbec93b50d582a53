//! The state of the model: what silos have on disk and in memory, what each epoch's writer believes, and what clients
//! were told. Small numbers throughout, so that a state packs into some eighty bytes.

/// The most that any bounds allow; every number fits in four bits.
pub const EPOCHS: usize = 3;
pub const WRITES: usize = 3;
pub const SLOTS: usize = 2;
pub const REPLICAS: usize = 6;
const SILOS: usize = 4;
/// Nothing, where there may be a set of writes or a sequence number.
pub const NONE: u8 = 15;
/// More than a packed state ever takes.
pub const PACKED_MAX: usize = 224;

/// A set of writes: bit `i` is the `i`-th write that was ever numbered.
pub type Set = u8;

/// What is modelled: which silos hold which slots, and how much may happen.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Silo and slot of each replica; those of a silo stand together.
    pub replicas: &'static [(usize, usize)],
    pub silos: usize,
    pub slots: usize,
    /// These silos, from the first to before the last, are alike: exchanging them changes nothing.
    pub alike: (usize, usize),
    pub bounds: Bounds,
}

/// How often each thing may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub epochs: u8,
    pub writes: u8,
    /// A silo loses power, and of what it had not synced nothing, a part or all.
    pub power_losses: u8,
    /// A silo's process dies and comes back: its memory is lost, its page cache is not.
    pub restarts: u8,
    /// A silo loses with its power also what it had synced, and reported.
    pub tears: u8,
    /// A connection breaks, and both ends live on.
    pub cuts: u8,
    /// Whether the silos hear in time what the others reported durable.
    pub tells: bool,
}

/// One slot on one silo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replica {
    /// `P`.
    pub promise: u8,
    /// `A`.
    pub adopted: u8,
    /// Everything applied, in the page cache at least. `S` is the number of the last.
    pub history: Set,
    /// What a power loss leaves for certain.
    pub synced: Set,
    /// `D`, as the silo reports it.
    pub durable: u8,
    /// `W`: everything up to here is durable on a majority, as the writer told.
    pub watermark: u8,
    /// The last complete history, while something out of prefix may be stored.
    pub incomplete: Set,
    /// While catching up: from where on histories are compared, how far the stream has come (nothing if it does not catch
    /// up), what was transferred, and how far the stream must come before that counts.
    pub base: u8,
    pub live: u8,
    pub staged: Set,
    pub needs: u8,
    /// The highest `(A, D)` that the silo reported, as its peers know it.
    pub reported: (u8, u8),
    /// Something synced was lost here.
    pub torn: u8,
    /// Broken variants only: the epoch and the history that a power loss brings back.
    pub shadow: (u8, Set),
}

/// How a writer sees a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    #[default]
    Away,
    /// A broken variant only: it reported its vote, and has not promised yet.
    Asked,
    Voted,
    CatchingUp,
    Live,
}

/// What the writer of an epoch knows of a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub mode: Mode,
    /// The silo is the incarnation that the writer knows, and they are connected.
    pub current: bool,
    /// The vote: `(A, S)`, and the history that this stands for, which the writer does not see.
    pub vote: (u8, u8),
    pub history: Set,
    pub incomplete: bool,
    pub watermark: u8,
    /// Acknowledged numbers; before it is live, `D` at the vote.
    pub applied: u8,
    pub durable: u8,
}

/// One slot at the writer of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterSlot {
    pub chosen: bool,
    pub choice: (u8, u8),
    /// The history that was chosen.
    pub history: Set,
    /// A majority adopted the epoch.
    pub adopted: bool,
    /// The end of the stream.
    pub last: u8,
    pub answered: u8,
    /// Durable on a majority, and no longer remembered.
    pub committed: u8,
}

/// The writer of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writer {
    /// It can still do something.
    pub alive: bool,
    pub serving: bool,
    pub next_seq: u8,
    pub slots: [WriterSlot; SLOTS],
}

/// A write that was numbered: its stamp, and its slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Write {
    pub epoch: u8,
    pub seq: u8,
    pub slot: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    pub replicas: [Replica; REPLICAS],
    /// By epoch, the first is 1.
    pub views: [[View; REPLICAS]; EPOCHS],
    pub writers: [Writer; EPOCHS],
    pub writes: [Write; WRITES],
    /// How many writes were numbered.
    pub written: u8,
    /// What clients were told: answered; covered by a flush.
    pub answered: Set,
    pub flushed: Set,
    /// Taken from some silo by a power loss.
    pub lost: Set,
    /// Answered, not flushed, and taken by power losses from so many silos that no majority has it.
    pub excused: Set,
    /// Of an epoch that ended, and absent from what a later one showed: gone for good.
    pub dropped: Set,
    pub left: Bounds,
}

impl State {
    /// Blank silos, and no epoch yet.
    pub fn initial(shape: &Shape) -> State {
        let replica = Replica { incomplete: NONE, live: NONE, staged: NONE, shadow: (NONE, 0), ..Replica::default() };
        let mut state = State {
            replicas: [replica; REPLICAS],
            views: [[View::default(); REPLICAS]; EPOCHS],
            writers: [Writer::default(); EPOCHS],
            writes: [Write::default(); WRITES],
            written: 0,
            answered: 0,
            flushed: 0,
            lost: 0,
            excused: 0,
            dropped: 0,
            left: shape.bounds,
        };
        for writer in &mut state.writers[..usize::from(shape.bounds.epochs)] {
            writer.alive = true;
        }
        state
    }

    pub fn writer(&self, epoch: u8) -> &Writer {
        &self.writers[usize::from(epoch) - 1]
    }

    pub fn writer_mut(&mut self, epoch: u8) -> &mut Writer {
        &mut self.writers[usize::from(epoch) - 1]
    }

    pub fn view(&self, epoch: u8, replica: usize) -> &View {
        &self.views[usize::from(epoch) - 1][replica]
    }

    pub fn view_mut(&mut self, epoch: u8, replica: usize) -> &mut View {
        &mut self.views[usize::from(epoch) - 1][replica]
    }

    /// The writes in a set, in the order in which they were numbered.
    pub fn each(&self, set: Set) -> impl Iterator<Item = (usize, Write)> + '_ {
        let known = self.writes.iter().copied().enumerate().take(usize::from(self.written));
        known.filter(move |(index, _)| set >> index & 1 == 1)
    }

    /// Those of a set that a condition holds for.
    pub fn only(&self, set: Set, holds: impl Fn(&Write) -> bool) -> Set {
        self.each(set).filter(|(_, write)| holds(write)).fold(0, |kept, (index, _)| kept | 1 << index)
    }

    /// Those of a set with numbers up to this one.
    pub fn upto(&self, set: Set, seq: u8) -> Set {
        self.only(set, |write| write.seq <= seq)
    }

    pub fn of_slot(&self, slot: usize) -> Set {
        self.only(Set::MAX, |write| usize::from(write.slot) == slot)
    }

    /// The number of the last write of a set; 0 for none.
    pub fn end_of(&self, set: Set) -> u8 {
        self.each(set).map(|(_, write)| write.seq).max().unwrap_or(0)
    }

    /// The state's bytes: equal for two states exactly if they differ by an exchange of silos that are alike at the most.
    pub fn pack(&self, shape: &Shape) -> Packed {
        let mut state = *self;
        let mut columns = [Packed::default(); SILOS];
        for (silo, column) in columns.iter_mut().enumerate().take(shape.silos) {
            state.visit_silo(shape, silo, column);
        }
        columns[shape.alike.0..shape.alike.1].sort_unstable_by(|a, b| a.bytes().cmp(b.bytes()));
        let mut packed = Packed::default();
        for column in &columns[..shape.silos] {
            packed.extend(column.bytes());
        }
        state.visit_rest(shape, &mut packed);
        packed
    }

    pub fn unpack(shape: &Shape, bytes: &[u8]) -> State {
        let mut state = State::initial(shape);
        let mut reader = Reader(bytes);
        for silo in 0..shape.silos {
            state.visit_silo(shape, silo, &mut reader);
        }
        state.visit_rest(shape, &mut reader);
        state
    }

    /// Every field that concerns one silo, the same way for packing and unpacking.
    fn visit_silo(&mut self, shape: &Shape, silo: usize, codec: &mut impl Codec) {
        for (index, _) in shape.replicas.iter().enumerate().filter(|(_, replica)| replica.0 == silo) {
            self.replicas[index].visit(codec);
            for epoch in 0..usize::from(shape.bounds.epochs) {
                self.views[epoch][index].visit(codec);
            }
        }
    }

    fn visit_rest(&mut self, shape: &Shape, codec: &mut impl Codec) {
        for writer in &mut self.writers[..usize::from(shape.bounds.epochs)] {
            writer.visit(shape.slots, codec);
        }
        for write in &mut self.writes[..usize::from(shape.bounds.writes)] {
            codec.pair(&mut write.epoch, &mut write.seq);
            codec.pair(&mut write.slot, &mut 0);
        }
        codec.pair(&mut self.written, &mut self.lost);
        codec.pair(&mut self.answered, &mut self.flushed);
        codec.pair(&mut self.excused, &mut self.dropped);
        codec.pair(&mut self.left.power_losses, &mut self.left.restarts);
        codec.pair(&mut self.left.tears, &mut self.left.cuts);
    }
}

impl Replica {
    fn visit(&mut self, codec: &mut impl Codec) {
        codec.pair(&mut self.promise, &mut self.adopted);
        codec.pair(&mut self.history, &mut self.synced);
        codec.pair(&mut self.durable, &mut self.watermark);
        codec.pair(&mut self.incomplete, &mut self.live);
        codec.pair(&mut self.base, &mut self.staged);
        codec.pair(&mut self.needs, &mut self.torn);
        codec.pair(&mut self.reported.0, &mut self.reported.1);
        codec.pair(&mut self.shadow.0, &mut self.shadow.1);
    }

    /// What it votes with, and all that it may be the source of.
    pub fn complete(&self) -> Set {
        if self.incomplete == NONE { self.history } else { self.incomplete }
    }

    pub fn is_catching_up(&self) -> bool {
        self.live != NONE
    }

    pub fn stop_catching_up(&mut self) {
        (self.base, self.live, self.staged, self.needs) = (0, NONE, NONE, 0);
    }
}

impl View {
    fn visit(&mut self, codec: &mut impl Codec) {
        let mut mode = self.mode as u8;
        let mut flags = u8::from(self.current) | u8::from(self.incomplete) << 1;
        codec.pair(&mut mode, &mut flags);
        let modes = [Mode::Away, Mode::Asked, Mode::Voted, Mode::CatchingUp, Mode::Live];
        self.mode = modes[usize::from(mode)];
        (self.current, self.incomplete) = (flags & 1 != 0, flags & 2 != 0);
        codec.pair(&mut self.vote.0, &mut self.vote.1);
        codec.pair(&mut self.history, &mut self.watermark);
        codec.pair(&mut self.applied, &mut self.durable);
    }
}

impl Writer {
    fn visit(&mut self, slots: usize, codec: &mut impl Codec) {
        let mut flags = u8::from(self.alive) | u8::from(self.serving) << 1;
        codec.pair(&mut flags, &mut self.next_seq);
        (self.alive, self.serving) = (flags & 1 != 0, flags & 2 != 0);
        for slot in &mut self.slots[..slots] {
            let mut flags = u8::from(slot.chosen) | u8::from(slot.adopted) << 1;
            codec.pair(&mut flags, &mut slot.last);
            (slot.chosen, slot.adopted) = (flags & 1 != 0, flags & 2 != 0);
            codec.pair(&mut slot.choice.0, &mut slot.choice.1);
            codec.pair(&mut slot.history, &mut slot.answered);
            codec.pair(&mut slot.committed, &mut 0);
        }
    }
}

/// Takes two numbers of four bits each to a byte, or from one.
trait Codec {
    fn pair(&mut self, high: &mut u8, low: &mut u8);
}

/// Bytes of a state, or of a part of it.
#[derive(Clone, Copy)]
pub struct Packed {
    len: usize,
    bytes: [u8; PACKED_MAX],
}

impl Default for Packed {
    fn default() -> Self {
        Self { len: 0, bytes: [0; PACKED_MAX] }
    }
}

impl Packed {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

impl Codec for Packed {
    fn pair(&mut self, high: &mut u8, low: &mut u8) {
        debug_assert!(*high <= NONE && *low <= NONE, "a number has outgrown four bits");
        self.bytes[self.len] = *high << 4 | *low;
        self.len += 1;
    }
}

struct Reader<'a>(&'a [u8]);

impl Codec for Reader<'_> {
    fn pair(&mut self, high: &mut u8, low: &mut u8) {
        let Some((byte, rest)) = self.0.split_first() else { return };
        (*high, *low) = (*byte >> 4, *byte & 15);
        self.0 = rest;
    }
}
