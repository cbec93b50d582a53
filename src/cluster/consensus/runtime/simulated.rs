//! A thread under simulation: tasks that run one after the other on virtual time, in an order that a seed decides.
//!
//! Every task belongs to a [`Host`], one life of a process, and so do the tasks that it starts. A host has a clock of its
//! own, which may go wrong; it can be paused, and killed at any await, which drops all that it was doing. Polling takes
//! no time: only when nobody can go on the clock moves to the next timer. Work on blocking threads is done at once and
//! in one piece, some time after it was asked for and some time before its result is seen.
//!
//! Of the tasks that were woken the seed chooses one by their numbers; in what order they were woken does not matter.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::cluster::consensus::types::{LogId, Reply};
use crate::cluster::state::ClusterState;
use crate::cluster::state::command::{Command, Outcome};
use crate::cluster::state::refusal::Refusal;

/// Polls at one moment after which the tasks are taken to wake one another for ever.
const POLLS_AT_ONCE_MAX: u32 = 1_000_000;
/// What every clock shows at the start, so that moments before it exist.
const START: Duration = Duration::from_secs(1_000);

static RUNS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static STATE: RefCell<Option<State>> = const { RefCell::new(None) };
}

/// One life of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host(usize);

/// What a member of the group did, as a simulation overhears it.
#[derive(Debug)]
pub enum Overheard {
    /// Its state machine applied this log entry.
    Applied { index: u64, term: u64, decided: Option<Box<(Command, Result<Outcome, Refusal>)>> },
    /// Its state after so many entries is seen from now on.
    Published { entries: u64, state: Arc<ClusterState> },
}

impl Overheard {
    pub(in crate::cluster::consensus) fn applied(id: LogId, command: Option<Command>, reply: &Reply) -> Overheard {
        let decided = match (command, reply) {
            (Some(command), Reply::Decided(answer)) => Some(Box::new((command, answer.clone()))),
            (None, _) | (_, Reply::Nothing) => None,
        };
        Overheard::Applied { index: id.index, term: id.leader_id.term, decided }
    }
}

struct State {
    /// Tells the futures of this simulation from those of an earlier one.
    run: u64,
    now_ns: u64,
    dice: u64,
    digest: u64,
    hosts: Vec<HostState>,
    tasks: BTreeMap<u64, Task>,
    timers: BTreeMap<(u64, u64), Waker>,
    ready: Arc<Mutex<BTreeSet<u64>>>,
    /// The number of the next task or timer.
    next: u64,
    running: Option<(u64, Host)>,
    polls_at_once: u32,
    overheard: Vec<(Host, Overheard)>,
}

struct HostState {
    drift_ppm: i64,
    paused: bool,
    dead: bool,
    blocking_ns: RangeInclusive<u64>,
}

struct Task {
    host: Host,
    /// Not there while it is polled.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    waker: Waker,
}

struct Alarm {
    task: u64,
    ready: Arc<Mutex<BTreeSet<u64>>>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        // Nothing panics while it holds the set.
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).insert(self.task);
    }
}

fn with<T>(work: impl FnOnce(&mut State) -> T) -> Option<T> {
    STATE.with(|state| state.borrow_mut().as_mut().map(work))
}

/// For what only a simulation does.
fn within<T>(work: impl FnOnce(&mut State) -> T) -> T {
    with(work).expect("this thread is under no simulation")
}

impl State {
    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.dice;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn mix(&mut self, number: u64) {
        self.digest = (self.digest ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// What a host's clock shows.
    fn clock_ns(&self, host: Option<Host>, now_ns: u64) -> u64 {
        let drift_ppm = host.map_or(0, |host| self.hosts[host.0].drift_ppm);
        now_ns.saturating_add_signed((i128::from(now_ns) * i128::from(drift_ppm) / 1_000_000) as i64)
    }

    /// When a host's clock will show this.
    fn moment_ns(&self, host: Option<Host>, clock_ns: u64) -> u64 {
        let drift_ppm = host.map_or(0, |host| self.hosts[host.0].drift_ppm);
        let mut at = (i128::from(clock_ns) * 1_000_000 / i128::from(1_000_000 + drift_ppm)) as u64;
        while self.clock_ns(host, at) < clock_ns {
            at += 1;
        }
        at
    }

    fn running_host(&self) -> Option<Host> {
        self.running.map(|(_, host)| host)
    }

    fn add_task(&mut self, host: Host, future: Pin<Box<dyn Future<Output = ()>>>) -> u64 {
        let number = self.number();
        let waker = Waker::from(Arc::new(Alarm { task: number, ready: Arc::clone(&self.ready) }));
        waker.wake_by_ref();
        self.tasks.insert(number, Task { host, future: Some(future), waker });
        number
    }

    /// One of the tasks that were woken and may run.
    fn choose(&mut self) -> Option<u64> {
        let ready = Arc::clone(&self.ready);
        let mut ready = ready.lock().unwrap_or_else(PoisonError::into_inner);
        ready.retain(|task| self.tasks.contains_key(task));
        let may_run = |task: &&u64| self.tasks.get(task).is_some_and(|task| !self.hosts[task.host.0].paused);
        let able: Vec<u64> = ready.iter().filter(may_run).copied().collect();
        if able.is_empty() {
            return None;
        }
        let chosen = able[(self.random() % able.len() as u64) as usize];
        ready.remove(&chosen);
        self.mix(self.now_ns);
        self.mix(chosen);
        Some(chosen)
    }

    /// Moves the clock to the next timer, if it lies before `until`.
    fn advance(&mut self, until_ns: u64) -> bool {
        self.polls_at_once = 0;
        let Some((&(at, _), _)) = self.timers.first_key_value().filter(|((at, _), _)| *at <= until_ns) else {
            self.now_ns = self.now_ns.max(until_ns);
            return false;
        };
        self.now_ns = self.now_ns.max(at);
        while let Some(timer) = self.timers.first_entry().filter(|timer| timer.key().0 <= self.now_ns) {
            timer.remove().wake();
        }
        true
    }
}

/// The simulation of this thread; it ends when this is dropped.
pub struct Simulation {
    only_here: PhantomData<*const ()>,
}

impl Simulation {
    pub fn start(seed: u64) -> Simulation {
        STATE.with(|slot| {
            let mut slot = slot.borrow_mut();
            assert!(slot.is_none(), "a simulation at a time");
            *slot = Some(State {
                run: RUNS.fetch_add(1, Ordering::Relaxed),
                now_ns: 0,
                dice: seed,
                digest: 0xcbf2_9ce4_8422_2325,
                hosts: Vec::new(),
                tasks: BTreeMap::new(),
                timers: BTreeMap::new(),
                ready: Arc::default(),
                next: 0,
                running: None,
                polls_at_once: 0,
                overheard: Vec::new(),
            });
        });
        Simulation { only_here: PhantomData }
    }

    /// Lets the next thing happen, if it lies before `until_ns`.
    pub fn step(&self, until_ns: u64) -> bool {
        match within(State::choose) {
            Some(task) => {
                poll(task);
                true
            }
            None => within(|state| state.advance(until_ns)),
        }
    }

    /// The same if and only if all tasks ran at the same moments in the same order.
    pub fn digest(&self) -> u64 {
        within(|state| state.digest)
    }

    /// What the members did since this was last asked.
    pub fn overheard(&self) -> Vec<(Host, Overheard)> {
        within(|state| std::mem::take(&mut state.overheard))
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        let hosts = within(|state| state.hosts.len());
        within(|state| state.running = None);
        (0..hosts).for_each(|host| Host(host).kill());
        // What is dropped may look for the simulation, so it is taken out first.
        let ended = STATE.with(|state| state.borrow_mut().take());
        drop(ended);
    }
}

fn poll(number: u64) {
    let taken = within(|state| {
        state.polls_at_once += 1;
        assert!(state.polls_at_once < POLLS_AT_ONCE_MAX, "time stands still: the tasks wake one another for ever");
        let task = state.tasks.get_mut(&number)?;
        let (host, future, waker) = (task.host, task.future.take()?, task.waker.clone());
        state.running = Some((number, host));
        Some((host, future, waker))
    });
    let Some((host, mut future, waker)) = taken else { return };
    let done = future.poll_unpin(&mut Context::from_waker(&waker)).is_ready();
    let (left, dead) = within(|state| {
        state.running = None;
        let dead = state.hosts[host.0].dead;
        let task = if done { state.tasks.remove(&number).and(None) } else { state.tasks.get_mut(&number) };
        let left = match task {
            Some(task) => {
                task.future = Some(future);
                None
            }
            None => Some(future),
        };
        (left, dead)
    });
    drop(left);
    if dead {
        host.kill();
    }
}

impl Host {
    /// A new process, on a machine whose clock goes wrong by so many parts of a million.
    pub fn new(drift_ppm: i64) -> Host {
        within(|state| {
            state.hosts.push(HostState { drift_ppm, paused: false, dead: false, blocking_ns: 0..=0 });
            Host(state.hosts.len() - 1)
        })
    }

    pub fn spawn(self, future: impl Future<Output = ()> + 'static) {
        // What a dead host would do is dropped where it may look for the simulation.
        let dead = within(|state| state.hosts[self.0].dead);
        if !dead {
            within(|state| state.add_task(self, Box::pin(future)));
        }
    }

    /// Between one and the other of these passes before, and again after, work on a blocking thread.
    pub fn set_blocking_ns(self, range: RangeInclusive<u64>) {
        within(|state| state.hosts[self.0].blocking_ns = range);
    }

    /// Time goes on without it until [`Host::thaw`].
    pub fn pause(self) {
        within(|state| state.hosts[self.0].paused = true);
    }

    pub fn thaw(self) {
        within(|state| state.hosts[self.0].paused = false);
    }

    pub fn is_dead(self) -> bool {
        within(|state| state.hosts[self.0].dead)
    }

    /// The process dies: all its tasks are dropped where they wait, the one that runs once it has returned.
    pub fn kill(self) {
        let (dropped, running) = within(|state| {
            state.hosts[self.0].dead = true;
            let ended = state.tasks.extract_if(.., |_, task| task.host == self && task.future.is_some());
            // What is dropped must not start tasks in the name of whoever killed it.
            (ended.collect::<Vec<_>>(), state.running.take())
        });
        drop(dropped);
        within(|state| state.running = running);
    }
}

/// Whether this thread is under a simulation.
pub fn is_on() -> bool {
    STATE.with(|state| state.borrow().is_some())
}

/// The moment by the running host's clock.
pub fn now() -> Option<Instant> {
    static BASE: OnceLock<std::time::Instant> = OnceLock::new();
    with(|state| state.clock_ns(state.running_host(), state.now_ns)).map(|clock| {
        Instant::from_std(*BASE.get_or_init(std::time::Instant::now) + START + Duration::from_nanos(clock))
    })
}

/// The moment by the simulation's own clock, which no host sees.
pub fn now_ns() -> u64 {
    within(|state| state.now_ns)
}

pub fn random() -> Option<u64> {
    with(State::random)
}

/// Adds to the digest.
pub fn mix(number: u64) {
    with(|state| state.mix(number));
}

/// Tells the simulation, if there is one, what a member did.
pub fn overhear(event: impl FnOnce() -> Overheard) {
    with(|state| {
        if let Some(host) = state.running_host() {
            state.overheard.push((host, event()));
        }
    });
}

/// Starts a task of the running host.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    let (sender, result) = oneshot::channel();
    let work = async move { drop(sender.send(future.await)) };
    within(|state| {
        let host = state.running_host().expect("a task is started by a task");
        JoinHandle { task: state.add_task(host, Box::pin(work)), run: state.run, result }
    })
}

/// Starts a task of the running host, if one runs.
pub fn spawn_if_running(future: impl Future<Output = ()> + 'static) {
    let host = with(|state| state.running_host()).flatten();
    if let Some(host) = host {
        host.spawn(future);
    }
}

pub fn spawn_blocking<T: 'static>(work: impl FnOnce() -> T + 'static) -> JoinHandle<T> {
    let pause = || {
        within(|state| {
            let host = state.running_host().expect("a task is started by a task");
            let (least, most) = state.hosts[host.0].blocking_ns.clone().into_inner();
            Duration::from_nanos(least + state.random() % (most - least + 1))
        })
    };
    let (before, after) = (pause(), pause());
    spawn(async move {
        pass(before).await;
        let result = work();
        pass(after).await;
        result
    })
}

/// Ready after so long, by the running host's clock.
pub fn pass(duration: Duration) -> Sleep {
    let clock_ns = within(|state| state.clock_ns(state.running_host(), state.now_ns));
    Sleep::at(clock_ns.saturating_add(duration.as_nanos() as u64))
}

/// Ready when the running host's clock shows this.
pub fn sleep_until(deadline: Instant) -> Sleep {
    let left = now().map_or(Duration::ZERO, |now| deadline.saturating_duration_since(now));
    pass(left)
}

/// A task's result, once it has one.
pub struct JoinHandle<T> {
    task: u64,
    run: u64,
    result: oneshot::Receiver<T>,
}

impl<T> JoinHandle<T> {
    pub fn abort(&self) {
        let aborted = with(|state| if state.run == self.run { state.tasks.remove(&self.task) } else { None });
        drop(aborted);
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, oneshot::error::RecvError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.result.poll_unpin(cx)
    }
}

/// Ready when a host's clock shows what was asked for.
pub struct Sleep {
    run: u64,
    /// By the simulation's clock.
    at_ns: u64,
    /// While it waits.
    timer: Option<(u64, u64)>,
}

impl Sleep {
    fn at(clock_ns: u64) -> Sleep {
        within(|state| {
            let at_ns = state.moment_ns(state.running_host(), clock_ns);
            Sleep { run: state.run, at_ns, timer: None }
        })
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        within(|state| {
            if state.now_ns >= self.at_ns {
                return Poll::Ready(());
            }
            let key = self.timer.unwrap_or_else(|| (self.at_ns, state.number()));
            state.timers.insert(key, cx.waker().clone());
            self.timer = Some(key);
            Poll::Pending
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let Some(timer) = self.timer else { return };
        let waker = with(|state| if state.run == self.run { state.timers.remove(&timer) } else { None });
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn second() -> Duration {
        Duration::from_secs(1)
    }

    /// Two hosts that wait for one another over and over, in an order that only the seed decides.
    fn digest(seed: u64) -> u64 {
        let simulation = Simulation::start(seed);
        let (sender, receiver) = tokio::sync::watch::channel(0);
        for host in [Host::new(0), Host::new(5_000)] {
            for _ in 0..4 {
                let (sender, mut receiver) = (sender.clone(), receiver.clone());
                host.spawn(async move {
                    for _ in 0..8 {
                        pass(Duration::from_millis(random().unwrap() % 3)).await;
                        sender.send_modify(|count| *count += 1);
                        receiver.changed().await.unwrap();
                    }
                });
            }
        }
        while simulation.step(SECOND_NS) {}
        simulation.digest()
    }

    #[test]
    fn the_seed_decides_everything() {
        assert_eq!(digest(1), digest(1));
        assert_ne!(digest(1), digest(2));
    }

    #[test]
    fn clocks_go_wrong_and_nothing_takes_real_time() {
        let simulation = Simulation::start(1);
        let woken = Rc::new(Cell::new([0; 2]));
        for (at, drift_ppm) in [10_000, -10_000].into_iter().enumerate() {
            let woken = Rc::clone(&woken);
            Host::new(drift_ppm).spawn(async move {
                let before = now().unwrap();
                sleep_until(before + 3600 * second()).await;
                assert_eq!(now().unwrap() - before, 3600 * second());
                let mut both = woken.get();
                both[at] = now_ns() / SECOND_NS;
                woken.set(both);
            });
        }
        let began = std::time::Instant::now();
        while simulation.step(4000 * SECOND_NS) {}
        assert_eq!(woken.get(), [3564, 3636]);
        assert!(began.elapsed() < 60 * second());
    }

    #[test]
    fn a_killed_host_does_nothing_more_and_a_paused_one_goes_on_later() {
        let simulation = Simulation::start(1);
        let count = Rc::new(Cell::new(0));
        let (killed, paused) = (Host::new(0), Host::new(0));
        for host in [killed, paused] {
            let count = Rc::clone(&count);
            host.spawn(async move {
                let work = spawn_blocking(|| 1);
                pass(2 * second()).await;
                count.set(count.get() + work.await.unwrap());
            });
        }
        while simulation.step(SECOND_NS) {}
        killed.kill();
        paused.pause();
        assert!(killed.is_dead() && Rc::strong_count(&count) == 2);
        while simulation.step(10 * SECOND_NS) {}
        assert_eq!(count.get(), 0);
        paused.thaw();
        while simulation.step(20 * SECOND_NS) {}
        assert_eq!(count.get(), 1);
    }
}
