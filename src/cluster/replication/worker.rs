//! What the threads of a silo do one at a time: messages to its acceptor, effects on its store, answers to the writers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use crate::base::clock::Moment;
use crate::base::id::{ConfigNumber, Epoch, NodeId, Seq, SlotKey, VolumeId};
use crate::cluster::replication::acceptor::Session;
use crate::cluster::replication::keeper::{self, Keeper, Outcome};
use crate::cluster::replication::message::{Answer, FromSilo, Request, ToSilo};
use crate::store::error::StoreError;

/// How often free space is looked at.
const SPACE_CHECK_EVERY: Duration = Duration::from_millis(200);
/// How old what silos report of one another may be on the disk, while there is I/O: it tells, after a power loss, which
/// of them lost something (rule 14).
const PEERS_SAVE_EVERY: Duration = Duration::from_secs(2);

/// How long space that a trim or an overwrite lets go may stay taken on a silo with room, and on one that is short of it.
const FREE_EVERY: Duration = Duration::from_secs(5);
const FREE_EVERY_SHORT: Duration = Duration::from_millis(500);
/// A sync that took longer is no quick one: what may take so long is left to the sync thread, so that connections go
/// on showing that they live.
pub(super) const QUICK_SYNC_MAX: Duration = Duration::from_millis(50);

/// Up to where a sync makes each slot durable.
pub type Marks = Vec<(SlotKey, Seq)>;
/// Where a session's answers go.
pub type Sink = Arc<dyn Fn(FromSilo) + Send + Sync>;

/// How many messages of a session wait in the silo's inbox: while there are any, later ones queue behind them.
pub type Waiting = Arc<AtomicUsize>;

/// What the background thread is asked for; the greater includes the lesser.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chore {
    /// See what is due, and clean.
    Look,
    /// Make a checkpoint first.
    Checkpoint,
}

#[expect(clippy::large_enum_variant, reason = "nearly all inputs are messages: a box each would cost more")]
pub enum Input {
    Opened(Session, Sink, Waiting),
    Closed(Session),
    Message(NodeId, Session, ToSilo),
    /// The scrub found these blocks damaged.
    Damaged(Vec<(SlotKey, u64)>),
    /// A scrub was asked for.
    Scrub,
    Confirmed,
    Retire(String),
    Forget(VolumeId),
    /// The volume's epoch and the configuration of slots that this silo is none of.
    Left(Vec<(SlotKey, Epoch, ConfigNumber)>),
    Inspect(Box<dyn FnOnce(&Keeper) + Send>),
    Stop,
}

/// One of the threads has it at a time; none keeps it while the disk syncs.
pub struct Worker {
    keeper: Keeper,
    sinks: HashMap<Session, (Sink, Waiting)>,
    runtime: tokio::runtime::Handle,
    /// None once the silo stops.
    threads: Option<Threads>,
    /// The session that a volume's writer was last heard on.
    writers: HashMap<VolumeId, Session>,
    syncing: bool,
    syncs_are_quick: bool,
    checked_at: Moment,
    peers_saved_at: Moment,
    /// When a checkpoint was last asked for, for whatever reason.
    merged_at: Moment,
}

/// The ways to the other threads, which end when these are dropped.
pub struct Threads {
    pub syncs: Sender<()>,
    pub chores: Sender<Chore>,
    pub scrubs: Sender<()>,
}

impl Worker {
    pub fn new(keeper: Keeper, threads: Threads, runtime: tokio::runtime::Handle) -> Worker {
        Worker {
            keeper,
            sinks: HashMap::new(),
            runtime,
            threads: Some(threads),
            writers: HashMap::new(),
            syncing: false,
            syncs_are_quick: true,
            checked_at: Moment::default(),
            peers_saved_at: Moment::default(),
            merged_at: Moment::default(),
        }
    }

    pub fn has_stopped(&self) -> bool {
        self.threads.is_none()
    }

    /// Takes messages that came through the inbox.
    #[must_use]
    pub fn take_in(&mut self, messages: &mut Vec<(NodeId, Session, ToSilo)>) -> Option<Marks> {
        for (_, session, _) in messages.iter() {
            if let Some((_, waiting)) = self.sinks.get(session) {
                waiting.fetch_sub(1, Ordering::Release);
            }
        }
        self.process(messages)
    }

    /// Judges a message that asks for a read: nothing of it waits for the disk here.
    pub fn judge(&mut self, from: NodeId, session: Session, message: ToSilo) {
        let outcome = self.keeper.process(Moment::now(), [(from, session, message)]);
        self.dispatch(outcome);
    }

    /// Carries out messages and answers them; their records go to the disk with one write.
    ///
    /// A write alone that asks for durability at once is one whose client waits for nothing else: then the thread that has
    /// it had better sync too, if syncs are quick, instead of waking another. What to sync is returned;
    /// [`Worker::synced_here`] must follow. Where there are more, others come while these are synced.
    #[must_use]
    pub fn process(&mut self, messages: &mut Vec<(NodeId, Session, ToSilo)>) -> Option<Marks> {
        if messages.is_empty() {
            return None;
        }
        let is_alone = matches!(&messages[..], [(_, _, message)] if message.is_synced_write());
        let sync_here = self.syncs_are_quick && is_alone;
        let now = Moment::now();
        let check = now.since(self.checked_at) >= SPACE_CHECK_EVERY;
        if check {
            self.checked_at = now;
            self.keeper.forget_rest();
            let outcome = self.keeper.set_room(self.keeper.room());
            self.dispatch(outcome);
        }
        for (_, session, message) in messages.iter() {
            if let ToSilo::Rare(_, volume, Request::Promote { .. } | Request::Heartbeat { .. }) = message {
                self.writers.insert(*volume, *session);
            }
        }
        let outcome = self.keeper.process(now, messages.drain(..));
        let wanted = self.send_out(outcome);
        if let Some(chore) = self.chore(now, check) {
            self.ask_for(chore);
        }
        if wanted && sync_here {
            return self.next_sync();
        }
        self.wake_syncs(wanted);
        None
    }

    fn ask_for(&self, chore: Chore) {
        if let Some(threads) = &self.threads {
            // The thread for chores lives until its sender is dropped.
            let _ = threads.chores.send(chore);
        }
    }

    /// What the background should see to.
    fn chore(&mut self, now: Moment, check: bool) -> Option<Chore> {
        let silo = self.keeper.silo();
        let since = now.since(self.merged_at);
        let frees = silo.may_free() && since >= if silo.is_short() { FREE_EVERY_SHORT } else { FREE_EVERY };
        if frees || silo.checkpoint_due() {
            self.merged_at = now;
            return Some(Chore::Checkpoint);
        }
        let save_peers = now.since(self.peers_saved_at) >= PEERS_SAVE_EVERY && silo.has_unsaved_peers();
        if save_peers {
            self.peers_saved_at = now;
        }
        (save_peers || silo.zeroes_due() || check && (silo.tidy_due() || silo.urgency() > 0.0)).then_some(Chore::Look)
    }

    /// Whatever is no message; false once the silo stops.
    pub fn other(&mut self, input: Input) -> bool {
        match input {
            Input::Opened(session, sink, waiting) => {
                waiting.fetch_sub(1, Ordering::Release);
                self.sinks.insert(session, (sink, waiting));
            }
            Input::Closed(session) => {
                self.sinks.remove(&session);
                self.writers.retain(|_, writer| *writer != session);
            }
            Input::Damaged(blocks) => self.tell_damage(&blocks),
            Input::Scrub => {
                if let Some(threads) = &self.threads {
                    // The scrub's thread lives as long as this one.
                    let _ = threads.scrubs.send(());
                }
            }
            Input::Confirmed => {
                if let Err(error) = self.keeper.confirmed() {
                    tracing::error!("cannot remember that the silo's incarnation is confirmed: {error}");
                }
            }
            Input::Retire(why) => self.keeper.retire(why),
            Input::Forget(volume) => {
                let outcome = self.keeper.forget(volume);
                self.dispatch(outcome);
                // What it held returns to the disk at once.
                self.ask_for(Chore::Checkpoint);
            }
            Input::Left(slots) => {
                let outcome = self.keeper.left(&slots);
                self.dispatch(outcome);
                self.ask_for(Chore::Checkpoint);
            }
            Input::Inspect(ask) => ask(&self.keeper),
            Input::Message(..) => {}
            Input::Stop => {
                self.threads = None;
                // Whoever is connected learns of it by the end of the connection.
                self.sinks.clear();
                return false;
            }
        }
        true
    }

    fn dispatch(&mut self, outcome: Outcome) {
        let wanted = self.send_out(outcome);
        self.wake_syncs(wanted);
    }

    /// Has the sync thread start, if somebody waits for durability and no sync runs.
    fn wake_syncs(&mut self, wanted: bool) {
        if wanted && let Some(threads) = &self.threads {
            // The sync thread lives until its sender is dropped.
            self.syncing = threads.syncs.send(()).is_ok();
        }
    }

    /// Sends the answers, and has what is to be read be read. Whether a sync must start.
    fn send_out(&mut self, outcome: Outcome) -> bool {
        let replies = outcome.replies;
        for (index, (session, reply)) in replies.iter().enumerate() {
            // Of acknowledgements of one slot that follow one another, the last says it all.
            let superseded = match (reply, replies.get(index + 1)) {
                (FromSilo::Ack(ack), Some((next, FromSilo::Ack(later)))) => next == session && later.key == ack.key,
                _ => false,
            };
            if let (false, Some((sink, _))) = (superseded, self.sinks.get(session)) {
                sink(reply.clone());
            }
        }
        for (session, volume, request) in outcome.serves {
            if let Some((sink, _)) = self.sinks.get(&session) {
                self.serve(sink.clone(), volume, request);
            }
        }
        outcome.sync && !self.syncing
    }

    /// What the next sync is for; none if nobody waits, and then the sync thread rests.
    pub fn next_sync(&mut self) -> Option<Marks> {
        let marks = self.keeper.begin_sync();
        self.syncing = !marks.is_empty();
        self.syncing.then_some(marks)
    }

    /// The sync thread's sync ended; it asks for the next one itself.
    pub fn synced(&mut self, marks: &Marks, took: Duration, result: Result<(), StoreError>) {
        self.syncs_are_quick = took <= QUICK_SYNC_MAX;
        let outcome = self.keeper.end_sync(marks, result);
        self.dispatch(outcome);
    }

    /// Another thread does not come to run the sync that it was given.
    pub fn leave_sync(&mut self) {
        self.syncing = false;
        self.wake_syncs(true);
    }

    /// A sync ended that another thread than the sync thread ran, which goes on if somebody waits by now.
    pub fn synced_here(&mut self, marks: &Marks, took: Duration, result: Result<(), StoreError>) {
        self.syncing = false;
        self.synced(marks, took, result);
    }

    /// Whether a volume's writer is connected.
    pub(super) fn has_writer(&self, volume: VolumeId) -> bool {
        self.writers.contains_key(&volume)
    }

    /// Tells the writers of damaged blocks; who has none attached is told by the scrub again, later.
    fn tell_damage(&self, blocks: &[(SlotKey, u64)]) {
        let silo = self.keeper.silo();
        for (key, block) in blocks {
            let sink = self.writers.get(&key.volume).and_then(|session| self.sinks.get(session));
            if let (Some((sink, _)), Some(state)) = (sink, silo.slot(*key)) {
                let answer = Answer::Damaged { slot: key.slot, epoch: state.adopted, block: *block };
                sink(FromSilo::Rare(silo.id(), key.volume, answer));
            }
        }
    }

    /// Short reads of what is in memory are answered on this thread, everything else on one that may wait.
    fn serve(&self, sink: Sink, volume: VolumeId, request: Request) {
        let silo = self.keeper.silo().clone();
        if let Some(answer) = keeper::serve_at_once(&silo, volume, &request) {
            return sink(answer);
        }
        self.runtime.spawn_blocking(move || sink(keeper::serve(&silo, volume, &request)));
    }
}
