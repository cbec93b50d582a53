//! One silo at work: a thread that appends and answers, one that syncs, one that checkpoints, and readers.
//!
//! The append thread takes everything that waits and writes it with one system call; the sync thread runs one fsync
//! for everyone who waits for durability by then, while appends go on, and tells them itself: a wake-up of another thread
//! costs more than the telling. Both use the worker, one at a time; neither holds it while the disk syncs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::clock::{Moment, wall_seconds};
use crate::base::id::{NodeId, Seq, SiloId, SlotKey, VolumeId};
use crate::cluster::replication::acceptor::Session;
use crate::cluster::replication::keeper::{self, Keeper, Outcome};
use crate::cluster::replication::message::{Answer, FromSilo, Request, ToSilo};
use crate::cluster::replication::scrubber::{ScrubReport, Scrubber};
use crate::store::error::StoreError;
use crate::store::silo::Silo;

/// Messages taken together at the most, so that an acknowledgement is never far away.
const BATCH_MESSAGES_MAX: usize = 256;
/// How often free space is looked at.
const SPACE_CHECK_EVERY: Duration = Duration::from_millis(200);
/// How old what silos report of one another may be on the disk, while there is I/O: it tells, after a power loss, which
/// of them lost something (rule 14).
const PEERS_SAVE_EVERY: Duration = Duration::from_secs(2);

/// How long space that a trim or an overwrite lets go may stay taken on a silo with room, and on one that is short of it.
const FREE_EVERY: Duration = Duration::from_secs(5);
const FREE_EVERY_SHORT: Duration = Duration::from_millis(500);
/// The longest that cleaning rests while there is something to clean.
const CLEANING_PAUSE_MAX: Duration = Duration::from_secs(1);

/// What the background thread is asked for; the greater includes the lesser.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Chore {
    /// See what is due, and clean.
    Look,
    /// Make a checkpoint first.
    Checkpoint,
}

/// Where a session's answers go.
pub type Sink = Arc<dyn Fn(FromSilo) + Send + Sync>;

#[expect(clippy::large_enum_variant, reason = "nearly all inputs are messages: a box each would cost more")]
enum Input {
    Opened(Session, Sink),
    Closed(Session),
    Message(NodeId, Session, ToSilo),
    /// The scrub found these blocks damaged.
    Damaged(Vec<(SlotKey, u64)>),
    /// A scrub is asked for.
    Scrub,
    Confirmed,
    Retire(String),
    Forget(VolumeId),
    Inspect(Box<dyn FnOnce(&Keeper) + Send>),
    Stop,
}

/// A running silo. Cheap to clone; the last one to be dropped does not stop it, [`SiloService::stop`] does.
#[derive(Clone)]
pub struct SiloHandle {
    id: SiloId,
    silo: Arc<Silo>,
    inbox: Sender<Input>,
    next_session: Arc<AtomicU64>,
    /// When the sync that runs now began, 0 if none does.
    sync_began: Arc<AtomicU64>,
    scrub: Arc<Mutex<ScrubReport>>,
}

/// The threads of a running silo.
pub struct SiloService {
    handle: SiloHandle,
    threads: Vec<JoinHandle<()>>,
}

impl SiloService {
    /// Starts the threads of an open silo of a node. `boot` is the machine's boot id.
    pub fn start(
        silo: Silo,
        node: NodeId,
        boot: [u8; 16],
        runtime: tokio::runtime::Handle,
    ) -> std::io::Result<SiloService> {
        let silo = Arc::new(silo);
        let (inbox, messages) = channel();
        let (syncs, sync_requests) = channel();
        let (chores, chore_requests) = channel();
        let (scrubs, scrub_requests) = channel();
        let scrubber = Scrubber::new(silo.clone(), wall_seconds());
        let handle = SiloHandle {
            id: silo.id(),
            silo: silo.clone(),
            inbox,
            next_session: Arc::default(),
            sync_began: Arc::default(),
            scrub: scrubber.report(),
        };
        let mut keeper = Keeper::new(silo.clone(), boot, Moment::now());
        keeper.set_node(node);
        let worker = Worker {
            keeper,
            sinks: HashMap::new(),
            runtime,
            threads: Some(Threads { syncs, chores, scrubs }),
            writers: HashMap::new(),
            syncing: false,
            checked_at: Moment::default(),
            peers_saved_at: Moment::default(),
            merged_at: Moment::default(),
        };
        let name = silo.id().short();
        let worker = Arc::new(Mutex::new(worker));
        let (syncing, sync_silo, sync_began) = (worker.clone(), silo.clone(), handle.sync_began.clone());
        let finds = handle.inbox.clone();
        let chore_silo = silo;
        let threads = vec![
            std::thread::Builder::new().name(format!("silo-{name}")).spawn(move || run_appends(&worker, &messages))?,
            std::thread::Builder::new()
                .name(format!("sync-{name}"))
                .spawn(move || run_syncs(&syncing, &sync_silo, &sync_requests, &sync_began))?,
            std::thread::Builder::new()
                .name(format!("chore-{name}"))
                .spawn(move || run_chores(&chore_silo, &chore_requests))?,
            std::thread::Builder::new()
                .name(format!("scrub-{name}"))
                .spawn(move || run_scrub(scrubber, &scrub_requests, &finds))?,
        ];
        Ok(SiloService { handle, threads })
    }

    pub fn handle(&self) -> &SiloHandle {
        &self.handle
    }

    /// Stops the threads, and closes the silo cleanly: everything synced and checkpointed.
    pub fn stop(self) -> Result<(), StoreError> {
        let SiloService { handle, threads } = self;
        // A worker that is gone already needs no message.
        let _ = handle.inbox.send(Input::Stop);
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of silo {} panicked", handle.id.short());
            }
        }
        handle.silo.close()
    }
}

impl SiloHandle {
    pub fn id(&self) -> SiloId {
        self.id
    }

    pub fn silo(&self) -> &Arc<Silo> {
        &self.silo
    }

    /// Opens a session for a connection; its answers go to the sink, from the silo's threads.
    pub fn open(&self, sink: Sink) -> Session {
        let session = self.next_session.fetch_add(1, Ordering::Relaxed) + 1;
        self.send(Input::Opened(session, sink));
        session
    }

    pub fn close(&self, session: Session) {
        self.send(Input::Closed(session));
    }

    /// Delivers a message of a writer on `from`.
    pub fn deliver(&self, from: NodeId, session: Session, message: ToSilo) {
        self.send(Input::Message(from, session, message));
    }

    /// The cluster state knows the present incarnation.
    pub fn confirmed(&self) {
        self.send(Input::Confirmed);
    }

    /// Takes the silo out of service for good.
    pub fn retire(&self, why: String) {
        self.send(Input::Retire(why));
    }

    /// The volume was deleted.
    pub fn forget(&self, volume: VolumeId) {
        self.send(Input::Forget(volume));
    }

    /// Begins a pass of the scrub at once.
    pub fn scrub(&self) {
        self.send(Input::Scrub);
    }

    /// How the scrub stands.
    pub fn scrub_report(&self) -> ScrubReport {
        *self.scrub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when the disk has owed the end of a sync, if one runs.
    pub fn syncing_since(&self) -> Option<Moment> {
        let began = self.sync_began.load(Ordering::Relaxed);
        (began > 0).then_some(Moment(began))
    }

    /// Asks the worker for something about its acceptor.
    pub async fn inspect<T: Send + 'static>(&self, ask: impl FnOnce(&Keeper) -> T + Send + 'static) -> Option<T> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.send(Input::Inspect(Box::new(move |keeper| {
            // Whoever asked may be gone.
            let _ = answer.send(ask(keeper));
        })));
        answered.await.ok()
    }

    fn send(&self, input: Input) {
        // After a stop nobody listens, and connections are being closed.
        let _ = self.inbox.send(input);
    }
}

/// The silos open on this node.
#[derive(Clone, Default)]
pub struct Silos {
    open: Arc<RwLock<HashMap<SiloId, SiloHandle>>>,
}

impl Silos {
    pub fn insert(&self, handle: SiloHandle) {
        self.open.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(handle.id, handle);
    }

    pub fn get(&self, silo: SiloId) -> Option<SiloHandle> {
        self.open.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(&silo).cloned()
    }

    pub fn all(&self) -> Vec<SiloHandle> {
        self.open.read().unwrap_or_else(std::sync::PoisonError::into_inner).values().cloned().collect()
    }
}

struct Worker {
    keeper: Keeper,
    sinks: HashMap<Session, Sink>,
    runtime: tokio::runtime::Handle,
    /// None once the silo stops.
    threads: Option<Threads>,
    /// The session that a volume's writer was last heard on.
    writers: HashMap<VolumeId, Session>,
    syncing: bool,
    checked_at: Moment,
    peers_saved_at: Moment,
    /// When a checkpoint was last asked for, for whatever reason.
    merged_at: Moment,
}

/// The ways to the other threads, which end when these are dropped.
struct Threads {
    syncs: Sender<()>,
    chores: Sender<Chore>,
    scrubs: Sender<()>,
}

impl Worker {
    fn process(&mut self, messages: &mut Vec<(NodeId, Session, ToSilo)>) {
        if messages.is_empty() {
            return;
        }
        let now = Moment::now();
        let check = now.since(self.checked_at) >= SPACE_CHECK_EVERY;
        if check {
            self.checked_at = now;
            let takes_writes = self.keeper.takes_writes();
            let outcome = self.keeper.set_takes_writes(takes_writes);
            self.dispatch(outcome);
        }
        for (_, session, message) in messages.iter() {
            if let ToSilo::Rare(_, volume, Request::Promote { .. } | Request::Heartbeat { .. }) = message {
                self.writers.insert(*volume, *session);
            }
        }
        let outcome = self.keeper.process(now, messages.drain(..));
        self.dispatch(outcome);
        if let Some(chore) = self.chore(now, check) {
            self.ask_for(chore);
        }
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
        (save_peers || check && (silo.tidy_due() || silo.urgency() > 0.0)).then_some(Chore::Look)
    }

    fn other(&mut self, input: Input) -> bool {
        match input {
            Input::Opened(session, sink) => {
                self.sinks.insert(session, sink);
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
            Input::Inspect(ask) => ask(&self.keeper),
            Input::Message(..) => {}
            Input::Stop => {
                self.threads = None;
                return false;
            }
        }
        true
    }

    fn dispatch(&mut self, outcome: Outcome) {
        let replies = outcome.replies;
        for (index, (session, reply)) in replies.iter().enumerate() {
            // Of acknowledgements of one slot that follow one another, the last says it all.
            let superseded = match (reply, replies.get(index + 1)) {
                (FromSilo::Ack(ack), Some((next, FromSilo::Ack(later)))) => next == session && later.key == ack.key,
                _ => false,
            };
            if let (false, Some(sink)) = (superseded, self.sinks.get(session)) {
                sink(reply.clone());
            }
        }
        for (session, volume, request) in outcome.serves {
            if let Some(sink) = self.sinks.get(&session) {
                self.serve(sink.clone(), volume, request);
            }
        }
        if outcome.sync
            && !self.syncing
            && let Some(threads) = &self.threads
        {
            // The sync thread lives until its sender is dropped.
            self.syncing = threads.syncs.send(()).is_ok();
        }
    }

    /// What the next sync is for; none if nobody waits, and then the sync thread rests.
    fn next_sync(&mut self) -> Option<Vec<(SlotKey, Seq)>> {
        let marks = self.keeper.begin_sync();
        self.syncing = !marks.is_empty();
        self.syncing.then_some(marks)
    }

    fn synced(&mut self, marks: &[(SlotKey, Seq)], result: Result<(), StoreError>) {
        let outcome = self.keeper.end_sync(marks, result);
        self.dispatch(outcome);
    }

    /// Tells the writers of damaged blocks; who has none attached is told by the scrub again, later.
    fn tell_damage(&self, blocks: &[(SlotKey, u64)]) {
        let silo = self.keeper.silo();
        for (key, block) in blocks {
            let sink = self.writers.get(&key.volume).and_then(|session| self.sinks.get(session));
            if let (Some(sink), Some(state)) = (sink, silo.slot(*key)) {
                let answer = Answer::Damaged { slot: key.slot, epoch: state.adopted, block: *block };
                sink(FromSilo::Rare(silo.id(), key.volume, answer));
            }
        }
    }

    fn serve(&self, sink: Sink, volume: VolumeId, request: Request) {
        let silo = self.keeper.silo().clone();
        self.runtime.spawn_blocking(move || sink(keeper::serve(&silo, volume, &request)));
    }
}

/// The worker, for one of its threads. A panic in another has stopped the process, or it only left its own work undone.
fn take(worker: &Mutex<Worker>) -> MutexGuard<'_, Worker> {
    worker.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run_appends(worker: &Mutex<Worker>, inbox: &Receiver<Input>) {
    let mut messages = Vec::new();
    while let Ok(first) = inbox.recv() {
        // Whoever sent this may be about to send more, if only it gets the processor: a larger batch costs less.
        std::thread::yield_now();
        let mut next = Some(first);
        while let Some(input) = next {
            match input {
                Input::Message(from, session, message) => messages.push((from, session, message)),
                other => {
                    let mut worker = take(worker);
                    worker.process(&mut messages);
                    if !worker.other(other) {
                        return;
                    }
                }
            }
            next = if messages.len() < BATCH_MESSAGES_MAX { inbox.try_recv().ok() } else { None };
        }
        take(worker).process(&mut messages);
    }
}

fn run_syncs(worker: &Mutex<Worker>, silo: &Silo, requests: &Receiver<()>, began: &AtomicU64) {
    while requests.recv().is_ok() {
        loop {
            // A binding of its own, so that the worker is free while the disk syncs.
            let next = take(worker).next_sync();
            let Some(marks) = next else { break };
            began.store(Moment::now().0, Ordering::Relaxed);
            let result = silo.sync();
            began.store(0, Ordering::Relaxed);
            take(worker).synced(&marks, result);
        }
    }
}

/// Checkpoints, what watermarks have come to allow, and cleaning: one thing after the other, cleaning at the pace that
/// the room asks for.
fn run_chores(silo: &Silo, requests: &Receiver<Chore>) {
    let mut pause = None;
    loop {
        let first = match pause {
            None => requests.recv().ok(),
            Some(pause) => match requests.recv_timeout(pause) {
                Ok(chore) => Some(chore),
                Err(RecvTimeoutError::Timeout) => Some(Chore::Look),
                Err(RecvTimeoutError::Disconnected) => None,
            },
        };
        let Some(mut chore) = first else { return };
        chore = requests.try_iter().fold(chore, Ord::max);
        if silo.faulted().is_some() {
            pause = None;
            continue;
        }
        if let Err(error) = do_chores(silo, chore) {
            tracing::error!("silo {}: {error}", silo.id().short());
        }
        pause = clean(silo);
    }
}

fn do_chores(silo: &Silo, chore: Chore) -> Result<(), StoreError> {
    silo.save_peers()?;
    if chore == Chore::Checkpoint || silo.checkpoint_due() {
        silo.checkpoint()
    } else if silo.tidy_due() {
        silo.tidy()
    } else {
        Ok(())
    }
}

/// One step of cleaning; how long to wait before the next, none if there is nothing to do until more is written.
fn clean(silo: &Silo) -> Option<Duration> {
    let began = Moment::now();
    match silo.clean() {
        Ok(cleaned) if cleaned.more => {
            let urgency = silo.urgency();
            let spent = Moment::now().since(began);
            let rest = if urgency > 0.0 { spent.mul_f64((1.0 - urgency) / urgency) } else { CLEANING_PAUSE_MAX };
            Some(rest.min(CLEANING_PAUSE_MAX))
        }
        Ok(_) | Err(StoreError::NoSpace) => None,
        Err(error) => {
            tracing::error!("silo {} cannot be cleaned: {error}", silo.id().short());
            None
        }
    }
}

fn run_scrub(mut scrubber: Scrubber, requests: &Receiver<()>, inbox: &Sender<Input>) {
    loop {
        let next = scrubber.step(wall_seconds());
        if !next.tell.is_empty() && inbox.send(Input::Damaged(next.tell)).is_err() {
            return;
        }
        match requests.recv_timeout(next.pause) {
            Ok(()) => scrubber.demand(),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
