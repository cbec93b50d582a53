//! One silo at work: a thread that appends and answers, one that syncs, one that checkpoints, and readers.
//!
//! The append thread takes everything that waits and writes it with one system call; the sync thread runs one fsync
//! for everyone who waits for durability by then, while appends go on, and tells them itself; the thread of a connection
//! appends what it received if the silo is idle, and syncs where its client waits for nothing else: a wake-up of another
//! thread costs more than all that is done there.
//! They use the worker, one at a time; none holds it while the disk syncs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::clock::{Moment, wall_seconds};
use crate::base::id::{ConfigNumber, Epoch, NodeId, SiloId, SlotKey, VolumeId};
use crate::cluster::replication::acceptor::Session;
use crate::cluster::replication::keeper::{self, Keeper};
use crate::cluster::replication::message::{FromSilo, Refusal, ToSilo};
use crate::cluster::replication::scrub_request::{ScrubRequest, ScrubRequests};
use crate::cluster::replication::scrubber::{ScrubReport, Scrubber};
use crate::cluster::replication::worker::{Chore, Input, Marks, Sink, Threads, Waiting, Worker};
use crate::store::error::StoreError;
use crate::store::silo::Silo;

/// Messages taken together at the most, so that an acknowledgement is never far away.
const BATCH_MESSAGES_MAX: usize = 256;
/// More than this is written by the silo's own thread, while the connection's receives what follows.
const PROCESSED_BYTES_MAX: usize = 64 << 10;
/// How long what there was no space for, a checkpoint or cleaning, is not tried again.
const FULL_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The longest that cleaning rests while there is something to clean.
const CLEANING_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A running silo. Cheap to clone; the last one to be dropped does not stop it, [`SiloService::stop`] does.
#[derive(Clone)]
pub struct SiloHandle {
    id: SiloId,
    silo: Arc<Silo>,
    worker: Arc<Mutex<Worker>>,
    inbox: Sender<Input>,
    next_session: Arc<AtomicU64>,
    syncs: Syncs,
    scrub: Arc<Mutex<ScrubReport>>,
    scrub_requests: ScrubRequests,
}

/// Runs the silo's syncs, one at a time, which the worker sees to.
#[derive(Clone)]
struct Syncs {
    worker: Arc<Mutex<Worker>>,
    silo: Arc<Silo>,
    /// When the sync that runs now began, 0 if none does.
    began: Arc<AtomicU64>,
}

impl Syncs {
    fn sync(&self) -> (Duration, Result<(), StoreError>) {
        let began = Moment::now();
        self.began.store(began.0, Ordering::Relaxed);
        let result = self.silo.sync();
        self.began.store(0, Ordering::Relaxed);
        (Moment::now().since(began), result)
    }

    /// The sync that the worker gave this thread.
    fn run_here(&self, marks: &Marks) {
        let (took, result) = self.sync();
        take(&self.worker).synced_here(marks, took, result);
    }

    /// The sync thread: it syncs as long as somebody waits, and then rests until it is asked again.
    fn run(&self, requests: &Receiver<()>) {
        while requests.recv().is_ok() {
            loop {
                // A binding of its own, so that the worker is free while the disk syncs.
                let next = take(&self.worker).next_sync();
                let Some(marks) = next else { break };
                let (took, result) = self.sync();
                take(&self.worker).synced(&marks, took, result);
            }
        }
    }
}

/// A sync that the thread which has it must run: the silo's other ones wait for it. Dropped, it is left to the sync
/// thread: the connection may end before it comes to it.
#[must_use]
pub struct OwedSync {
    syncs: Syncs,
    marks: Option<Marks>,
}

impl OwedSync {
    /// Waits for the disk, and answers.
    pub fn run(mut self) {
        if let Some(marks) = self.marks.take() {
            self.syncs.run_here(&marks);
        }
    }
}

impl Drop for OwedSync {
    fn drop(&mut self) {
        if self.marks.is_some() {
            take(&self.syncs.worker).leave_sync();
        }
    }
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
        let mut keeper = Keeper::new(silo.clone(), boot, Moment::now());
        keeper.set_node(node);
        let worker = Arc::new(Mutex::new(Worker::new(keeper, Threads { syncs, chores, scrubs }, runtime)));
        let handle = SiloHandle {
            id: silo.id(),
            silo: silo.clone(),
            worker: worker.clone(),
            inbox,
            next_session: Arc::default(),
            syncs: Syncs { worker: worker.clone(), silo: silo.clone(), began: Arc::default() },
            scrub: scrubber.report(),
            scrub_requests: scrubber.requests(),
        };
        let name = silo.id().short();
        let asks = worker.clone();
        let (appending, syncing) = (handle.syncs.clone(), handle.syncs.clone());
        let finds = handle.inbox.clone();
        let chore_silo = silo;
        let threads = vec![
            std::thread::Builder::new()
                .name(format!("silo-{name}"))
                .spawn(move || run_appends(&appending, &messages))?,
            std::thread::Builder::new().name(format!("sync-{name}")).spawn(move || syncing.run(&sync_requests))?,
            std::thread::Builder::new()
                .name(format!("chore-{name}"))
                .spawn(move || run_chores(&chore_silo, &chore_requests))?,
            std::thread::Builder::new()
                .name(format!("scrub-{name}"))
                .spawn(move || run_scrub(scrubber, &asks, &scrub_requests, &finds))?,
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

    /// Opens a session for a connection; its answers go to the sink, from whichever thread has them.
    pub fn open(&self, sink: Sink) -> SiloSession {
        let number = self.next_session.fetch_add(1, Ordering::Relaxed) + 1;
        let waiting = Waiting::new(AtomicUsize::new(1));
        self.send(Input::Opened(number, sink, waiting.clone()));
        SiloSession { handle: self.clone(), number, waiting }
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

    /// What the cluster state says of slots that this silo is none of: it lets go of them, unless it is to become one.
    pub fn left(&self, slots: Vec<(SlotKey, Epoch, ConfigNumber)>) {
        self.send(Input::Left(slots));
    }

    /// Asks for a scrub of a volume, unless one is under way.
    pub fn scrub(&self, volume: VolumeId) {
        self.scrub_requests.add(volume);
        self.send(Input::Scrub);
    }

    /// How the last scrub stands that was asked for; none since the silo was opened.
    pub fn scrub_of(&self, volume: VolumeId) -> Option<ScrubRequest> {
        self.scrub_requests.of(volume)
    }

    /// How scrubbing stands by itself, and what damage is known.
    pub fn scrub_report(&self) -> ScrubReport {
        self.scrub.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Since when the disk has owed the end of a sync, if one runs.
    pub fn syncing_since(&self) -> Option<Moment> {
        let began = self.syncs.began.load(Ordering::Relaxed);
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

/// A connection's end of its session with a silo. Dropping it closes the session.
///
/// Messages keep their order as long as one task at a time sends them.
pub struct SiloSession {
    handle: SiloHandle,
    number: Session,
    waiting: Waiting,
}

impl SiloSession {
    /// Hands a message of a writer on `from` to the silo's own thread. Never waits.
    pub fn deliver(&self, from: NodeId, message: ToSilo) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.handle.send(Input::Message(from, self.number, message));
    }

    /// Carries out messages on this thread, which saves waking the silo's; it may wait for the disk. They are delivered
    /// instead if the silo is busy, or if they may take long: the connection must go on showing that it lives, and while
    /// long records are written this thread receives the next.
    ///
    /// What is returned is to be synced on this thread, before it does anything else.
    #[must_use]
    pub fn process(&self, from: NodeId, messages: &mut Vec<ToSilo>) -> Option<OwedSync> {
        let bytes = messages.iter().map(ToSilo::light_bytes).try_fold(0, |sum, bytes| Some(sum + bytes?));
        if bytes.is_some_and(|bytes| bytes <= PROCESSED_BYTES_MAX)
            && let Some(mut worker) = self.idle()
            && self.handle.silo.is_at_ease()
        {
            let mut batch = messages.drain(..).map(|message| (from, self.number, message)).collect();
            let marks = worker.process(&mut batch)?;
            return Some(OwedSync { syncs: self.handle.syncs.clone(), marks: Some(marks) });
        }
        messages.drain(..).for_each(|message| self.deliver(from, message));
        None
    }

    /// Has a read judged on this thread; what it reads is read on another. Never waits for the disk.
    pub fn ask(&self, from: NodeId, message: ToSilo) {
        match self.idle() {
            Some(mut worker) => worker.judge(from, self.number, message),
            None => self.deliver(from, message),
        }
    }

    /// The worker, if nobody has it and nothing of this session waits for it.
    fn idle(&self) -> Option<MutexGuard<'_, Worker>> {
        if self.waiting.load(Ordering::Acquire) > 0 {
            return None;
        }
        let worker = match self.handle.worker.try_lock() {
            Ok(worker) => worker,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        (!worker.has_stopped()).then_some(worker)
    }
}

impl Drop for SiloSession {
    fn drop(&mut self) {
        self.handle.send(Input::Closed(self.number));
    }
}

/// The silos of this node: those that are open, and why others are not.
#[derive(Clone, Default)]
pub struct Silos {
    open: Arc<RwLock<HashMap<SiloId, SiloHandle>>>,
    shut: Arc<RwLock<HashMap<SiloId, String>>>,
}

impl Silos {
    pub fn insert(&self, handle: SiloHandle) {
        self.open.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(handle.id, handle);
    }

    /// A silo that is here and cannot be opened.
    pub fn insert_shut(&self, silo: SiloId, why: String) {
        self.shut.write().unwrap_or_else(PoisonError::into_inner).insert(silo, why);
    }

    /// What a message to a silo that is not open here is answered.
    pub fn refusal(&self, silo: SiloId, message: &ToSilo) -> FromSilo {
        let shut = self.shut.read().unwrap_or_else(PoisonError::into_inner);
        keeper::refusal(silo, message, shut.get(&silo).cloned().map_or(Refusal::Unknown, Refusal::Faulted))
    }

    pub fn get(&self, silo: SiloId) -> Option<SiloHandle> {
        self.open.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(&silo).cloned()
    }

    pub fn all(&self) -> Vec<SiloHandle> {
        self.open.read().unwrap_or_else(std::sync::PoisonError::into_inner).values().cloned().collect()
    }
}

/// The worker, for one of its threads. A panic in another has stopped the process, or it only left its own work undone.
fn take(worker: &Mutex<Worker>) -> MutexGuard<'_, Worker> {
    worker.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run_appends(syncs: &Syncs, inbox: &Receiver<Input>) {
    let mut messages = Vec::new();
    while let Ok(first) = inbox.recv() {
        // Whoever sent this may be about to send more, if only it gets the processor: a larger batch costs less.
        std::thread::yield_now();
        let mut next = Some(first);
        while let Some(input) = next {
            match input {
                Input::Message(from, session, message) => messages.push((from, session, message)),
                other => {
                    take_in(syncs, &mut messages);
                    if !take(&syncs.worker).other(other) {
                        return;
                    }
                }
            }
            next = if messages.len() < BATCH_MESSAGES_MAX { inbox.try_recv().ok() } else { None };
        }
        take_in(syncs, &mut messages);
    }
}

fn take_in(syncs: &Syncs, messages: &mut Vec<(NodeId, Session, ToSilo)>) {
    let marks = take(&syncs.worker).take_in(messages);
    if let Some(marks) = marks {
        syncs.run_here(&marks);
    }
}

/// Checkpoints, what watermarks have come to allow, and cleaning: one thing after the other, cleaning at the pace that
/// the room asks for.
fn run_chores(silo: &Silo, requests: &Receiver<Chore>) {
    let mut pause = None;
    let mut full_until = Moment::default();
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
        if Moment::now() >= full_until {
            match do_chores(silo, chore) {
                Ok(()) => {}
                // The silo says so to its writers and in its status, and goes on when there is space.
                Err(StoreError::NoSpace) => full_until = Moment::now() + FULL_AGAIN_AFTER,
                Err(error) => tracing::error!("silo {}: {error}", silo.id().short()),
            }
        }
        pause = clean(silo);
        if full_until > Moment::now() {
            pause = Some(pause.map_or(FULL_AGAIN_AFTER, |pause| pause.min(FULL_AGAIN_AFTER)));
        }
    }
}

fn do_chores(silo: &Silo, chore: Chore) -> Result<(), StoreError> {
    silo.zero_ahead()?;
    silo.save_peers()?;
    if chore == Chore::Checkpoint || silo.checkpoint_due() {
        match silo.checkpoint() {
            // What can be let go makes room for the next.
            Err(StoreError::NoSpace) => silo.tidy().and(Err(StoreError::NoSpace)),
            other => other,
        }
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
        // Others may have given space back.
        Ok(cleaned) if cleaned.lacks_room => Some(FULL_AGAIN_AFTER),
        Err(StoreError::NoSpace) => Some(FULL_AGAIN_AFTER),
        Ok(_) => None,
        Err(error) => {
            tracing::error!("silo {} cannot be cleaned: {error}", silo.id().short());
            None
        }
    }
}

fn run_scrub(mut scrubber: Scrubber, worker: &Mutex<Worker>, requests: &Receiver<()>, inbox: &Sender<Input>) {
    let has_writer = |volume| take(worker).has_writer(volume);
    loop {
        let began = Moment::now();
        let next = scrubber.step(wall_seconds(), &has_writer);
        scrubber.spent(Moment::now().since(began));
        if !next.tell.is_empty() && inbox.send(Input::Damaged(next.tell)).is_err() {
            return;
        }
        match requests.recv_timeout(next.pause) {
            // A request wakes up, and the next step sees it.
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    use crate::base::id::{ConfigNumber, Epoch, Incarnation, Seq, SlotIndex, SlotKey, Stamp};
    use crate::base::record::Record;
    use crate::cluster::replication::message::{Answer, Append, FromSilo, Request};
    use crate::cluster::replication::worker::QUICK_SYNC_MAX;
    use crate::store::faulty::FaultyDisk;
    use crate::store::silo::SiloOptions;
    use crate::store::slot::Vote;

    const VOLUME: VolumeId = VolumeId([9; 16]);
    const WRITER: NodeId = NodeId([2; 32]);

    fn promote(epoch: u64) -> ToSilo {
        let slots = vec![(SlotIndex(0), ConfigNumber(1))];
        let (epoch, holder) = (Epoch(epoch), WRITER);
        ToSilo::Rare(
            SiloId([1; 16]),
            VOLUME,
            Request::Promote { epoch, holder, own_dead: true, lease_ms: 0, sent: 0, slots },
        )
    }

    fn read(id: u64) -> ToSilo {
        let (slot, epoch, floor) = (SlotIndex(0), Epoch(9), Seq::ZERO);
        ToSilo::Rare(SiloId([1; 16]), VOLUME, Request::Read { id, slot, epoch, floor, first_block: 0, blocks: 1 })
    }

    /// The epoch of a promise, or the number of a read.
    fn number(answer: FromSilo) -> u64 {
        match answer {
            FromSilo::Rare(_, _, Answer::Promised(promised)) => promised.epoch.0,
            FromSilo::Rare(_, _, Answer::Read { id, .. }) => id,
            other => panic!("{other:?} is no answer to what was asked"),
        }
    }

    fn adopt(incarnation: Incarnation) -> ToSilo {
        let (slot, epoch) = (SlotIndex(0), Epoch(1));
        let request = Request::AdoptAsIs { slot, epoch, incarnation, attempt: 1, expected: Vote::default() };
        ToSilo::Rare(SiloId([1; 16]), VOLUME, request)
    }

    fn append(seq: u64, incarnation: Incarnation, sync: bool) -> ToSilo {
        let key = SlotKey { volume: VOLUME, slot: SlotIndex(0) };
        let stamp = Stamp::new(Epoch(1), Seq(seq));
        ToSilo::Append(Append {
            silo: SiloId([1; 16]),
            config: ConfigNumber(1),
            epoch: Epoch(1),
            previous: Seq(seq - 1),
            incarnation,
            committed: Seq::ZERO,
            sent: 0,
            sync,
            record: Record::write(key, 0, stamp, Bytes::from(vec![seq as u8; 4096])),
        })
    }

    /// What is applied and what is durable, of the next answer.
    fn acknowledged(answers: &Receiver<FromSilo>) -> (Seq, Seq) {
        match answers.recv().unwrap() {
            FromSilo::Ack(ack) => (ack.applied, ack.durable),
            other => panic!("{other:?} is no acknowledgement"),
        }
    }

    #[test]
    fn a_write_to_be_durable_at_once_is_synced_where_it_was_appended() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let disk = Arc::new(FaultyDisk::new(1));
        Silo::format(disk.clone(), SiloId([1; 16])).unwrap();
        let silo = Silo::open(disk, SiloOptions::new(1 << 30, Incarnation(5), [7; 16])).unwrap();
        let service = SiloService::start(silo, NodeId([7; 32]), [7; 16], runtime.handle().clone()).unwrap();
        let handle = service.handle().clone();
        let (answers, answered) = channel();
        let session = handle.open(Arc::new(move |answer| answers.send(answer).unwrap()));
        session.deliver(WRITER, promote(1));
        session.deliver(WRITER, adopt(Incarnation(5)));
        assert_eq!(number(answered.recv().unwrap()), 1);
        assert!(matches!(answered.recv().unwrap(), FromSilo::Rare(_, _, Answer::Adopted { .. })));
        while session.idle().is_none() {
            std::thread::yield_now();
        }

        let owed = session.process(WRITER, &mut vec![append(1, Incarnation(5), true)]);
        let owed = owed.expect("the sync is this thread's");
        assert_eq!(acknowledged(&answered), (Seq(1), Seq(0)), "the client need not wait for the disk");
        session.deliver(WRITER, append(2, Incarnation(5), true));
        assert_eq!(acknowledged(&answered), (Seq(2), Seq(0)), "one sync at a time");
        owed.run();
        assert_eq!(acknowledged(&answered), (Seq(2), Seq(1)));
        assert_eq!(acknowledged(&answered), (Seq(2), Seq(2)), "the sync thread goes on");

        while session.idle().is_none() {
            std::thread::yield_now();
        }
        let owed = session.process(WRITER, &mut vec![append(3, Incarnation(5), true)]);
        assert_eq!(acknowledged(&answered), (Seq(3), Seq(2)));
        assert!(owed.is_some());
        drop(owed);
        assert_eq!(acknowledged(&answered), (Seq(3), Seq(3)), "nobody waits for a connection that ended");

        // After one that took long, syncs are left to the sync thread.
        while session.idle().is_none() {
            std::thread::yield_now();
        }
        take(&handle.worker).synced_here(&Vec::new(), QUICK_SYNC_MAX * 2, Ok(()));
        assert!(session.process(WRITER, &mut vec![append(4, Incarnation(5), true)]).is_none());
        assert_eq!(acknowledged(&answered), (Seq(4), Seq(3)));
        assert_eq!(acknowledged(&answered), (Seq(4), Seq(4)));
        service.stop().unwrap();
    }

    /// A silo on this disk that has adopted the first epoch, and its writer's session.
    fn adopted(runtime: &tokio::runtime::Runtime, disk: &FaultyDisk) -> (SiloService, SiloSession, Receiver<FromSilo>) {
        Silo::format(Arc::new(disk.clone()), SiloId([1; 16])).unwrap();
        let silo = Silo::open(Arc::new(disk.clone()), SiloOptions::new(1 << 30, Incarnation(5), [7; 16])).unwrap();
        let service = SiloService::start(silo, NodeId([7; 32]), [7; 16], runtime.handle().clone()).unwrap();
        let (answers, answered) = channel();
        let session = service.handle().open(Arc::new(move |answer| answers.send(answer).unwrap()));
        session.deliver(WRITER, promote(1));
        session.deliver(WRITER, adopt(Incarnation(5)));
        assert!((0..2).all(|_| answered.recv().is_ok()));
        (service, session, answered)
    }

    /// Whoever waits for durability there waits for ever, and nobody may sync for them again and again.
    #[test]
    fn a_silo_whose_sync_failed_rests() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let disk = FaultyDisk::new(1);
        let (service, session, answered) = adopted(&runtime, &disk);
        session.deliver(WRITER, append(1, Incarnation(5), true));
        assert_eq!(acknowledged(&answered), (Seq(1), Seq(0)));
        assert_eq!(acknowledged(&answered), (Seq(1), Seq(1)));
        disk.fail_sync_after(0);
        session.deliver(WRITER, append(2, Incarnation(5), true));
        assert_eq!(acknowledged(&answered), (Seq(2), Seq(1)));
        let refused = |answer| matches!(answer, FromSilo::Rare(_, _, Answer::Refused { .. }));
        while !refused({
            session.deliver(WRITER, promote(1));
            answered.recv().unwrap()
        }) {}
        assert!(take(&service.handle().worker).next_sync().is_none());
        assert!(service.stop().is_err(), "it is not closed in order");
    }

    /// A writer that waits for other silos writes nothing, and would take this one for well.
    #[test]
    fn a_failed_checkpoint_is_told_to_a_writer_that_asks_for_signs_of_life_alone() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let disk = FaultyDisk::new(1);
        let (service, session, answered) = adopted(&runtime, &disk);
        let sign = || {
            let request =
                Request::Heartbeat { epoch: Epoch(1), incarnation: Incarnation(5), sent: 0, slots: Vec::new() };
            session.deliver(WRITER, ToSilo::Rare(SiloId([1; 16]), VOLUME, request));
            answered.recv().unwrap()
        };
        assert!(matches!(sign(), FromSilo::Rare(_, _, Answer::Renewed { .. })));
        session.deliver(WRITER, append(1, Incarnation(5), false));
        assert_eq!(acknowledged(&answered), (Seq(1), Seq(0)));
        disk.fail_sync_after(0);
        assert!(service.handle().silo().checkpoint().is_err());
        let FromSilo::Rare(_, _, Answer::Refused { reason: Refusal::Faulted(why), .. }) = sign() else {
            panic!("it is taken for well");
        };
        assert!(why.contains("sync"), "{why}");
        assert!(service.stop().is_err(), "it is not closed in order");
    }

    #[test]
    fn what_a_connection_does_itself_keeps_its_place_and_never_waits_for_the_worker() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let disk = Arc::new(FaultyDisk::new(1));
        Silo::format(disk.clone(), SiloId([1; 16])).unwrap();
        let silo = Silo::open(disk, SiloOptions::new(1 << 30, Incarnation(1), [7; 16])).unwrap();
        let service = SiloService::start(silo, NodeId([7; 32]), [7; 16], runtime.handle().clone()).unwrap();
        let handle = service.handle().clone();
        let (answers, answered) = channel();
        let session = handle.open(Arc::new(move |answer| answers.send(answer).unwrap()));

        let busy = take(&handle.worker);
        assert!(session.process(WRITER, &mut vec![read(1), promote(2)]).is_none());
        session.ask(WRITER, read(3));
        assert!(session.waiting.load(Ordering::Relaxed) >= 3, "all of it waits for the worker");
        assert!(answered.try_recv().is_err());
        drop(busy);
        assert!(session.process(WRITER, &mut vec![promote(4)]).is_none());
        for epoch in 1..=4 {
            assert_eq!(number(answered.recv().unwrap()), epoch);
        }
        // The count falls before the messages are carried out, and the answers come after.
        while session.idle().is_none() {
            std::thread::yield_now();
        }
        assert!(session.process(WRITER, &mut vec![read(5)]).is_none());
        assert_eq!(number(answered.try_recv().unwrap()), 5, "an idle silo answers on this thread");

        service.stop().unwrap();
        assert!(session.process(WRITER, &mut vec![read(6)]).is_none());
        session.ask(WRITER, read(7));
        assert!(answered.recv().is_err(), "a silo that has stopped says nothing and lets its connections go");
    }
}
