//! The surroundings of unit tests: tokio, unless the thread is under a simulation. A task, a timer or a moment belongs to
//! where it was made, for good.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use openraft::{AsyncRuntime, OptionalSend};
use tokio::time::Instant;

use crate::cluster::consensus::runtime::{Tokio, simulated};

pub fn now() -> Instant {
    simulated::now().unwrap_or_else(Instant::now)
}

pub fn random() -> u64 {
    simulated::random().unwrap_or_else(rand::random)
}

pub fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    if simulated::is_on() {
        JoinHandle::Simulated(simulated::spawn(future))
    } else {
        JoinHandle::Real(tokio::spawn(future))
    }
}

/// Starts a task, unless there is nothing that would run it.
pub fn spawn_if_running(future: impl Future<Output = ()> + Send + 'static) {
    if simulated::is_on() {
        simulated::spawn_if_running(future);
    } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(future);
    }
}

pub fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    if simulated::is_on() {
        JoinHandle::Simulated(simulated::spawn_blocking(work))
    } else {
        JoinHandle::Real(tokio::task::spawn_blocking(work))
    }
}

pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(now() + duration)
}

pub fn sleep_until(deadline: Instant) -> Sleep {
    if simulated::is_on() {
        Sleep::Simulated(simulated::sleep_until(deadline))
    } else {
        Sleep::Real(Box::pin(tokio::time::sleep_until(deadline)))
    }
}

pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    timeout_at(now() + duration, future)
}

pub fn timeout_at<F: Future>(deadline: Instant, future: F) -> Timeout<F> {
    Timeout { future: Box::pin(future), sleep: sleep_until(deadline) }
}

/// A task's result, once it has one.
pub enum JoinHandle<T> {
    Real(tokio::task::JoinHandle<T>),
    Simulated(simulated::JoinHandle<T>),
}

impl<T> JoinHandle<T> {
    pub fn abort(&self) {
        match self {
            JoinHandle::Real(handle) => handle.abort(),
            JoinHandle::Simulated(handle) => handle.abort(),
        }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            JoinHandle::Real(handle) => handle.poll_unpin(cx).map_err(|error| JoinError(Some(error))),
            JoinHandle::Simulated(handle) => handle.poll_unpin(cx).map_err(|_| JoinError(None)),
        }
    }
}

/// The task has no result: it panicked or was aborted. In a simulation a panic ends the whole run instead.
#[derive(Debug)]
pub struct JoinError(Option<tokio::task::JoinError>);

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(error) => error.fmt(f),
            None => f.write_str("the task was aborted"),
        }
    }
}

/// Ready at a moment.
pub enum Sleep {
    Real(Pin<Box<tokio::time::Sleep>>),
    Simulated(simulated::Sleep),
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self {
            Sleep::Real(sleep) => sleep.poll_unpin(cx),
            Sleep::Simulated(sleep) => sleep.poll_unpin(cx),
        }
    }
}

/// The future's output, or that the time ran out before.
pub struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: Sleep,
}

#[derive(Debug)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time ran out")
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.poll_unpin(cx) {
            return Poll::Ready(Ok(output));
        }
        self.sleep.poll_unpin(cx).map(|()| Err(Elapsed))
    }
}

/// What openraft runs on.
#[derive(Debug)]
pub struct RaftRuntime;

impl AsyncRuntime for RaftRuntime {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = RaftInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = Chance;
    type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
    type Watch = <Tokio as AsyncRuntime>::Watch;
    type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        spawn(future)
    }

    fn sleep(duration: Duration) -> Sleep {
        sleep(duration)
    }

    fn sleep_until(deadline: RaftInstant) -> Sleep {
        sleep_until(deadline.0)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Timeout<F> {
        timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: RaftInstant, future: F) -> Timeout<F> {
        timeout_at(deadline.0, future)
    }

    fn is_panic(error: &JoinError) -> bool {
        error.0.as_ref().is_some_and(tokio::task::JoinError::is_panic)
    }

    fn thread_rng() -> Chance {
        Chance
    }

    fn new(_threads: usize) -> Self {
        RaftRuntime
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        // Only openraft's own tests ask for it.
        Tokio::new(1).block_on(future)
    }
}

/// openraft's moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RaftInstant(Instant);

impl openraft::Instant for RaftInstant {
    fn now() -> Self {
        Self(now())
    }
}

impl Add<Duration> for RaftInstant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

impl AddAssign<Duration> for RaftInstant {
    fn add_assign(&mut self, duration: Duration) {
        self.0 += duration;
    }
}

impl Sub<Duration> for RaftInstant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0 - duration)
    }
}

impl SubAssign<Duration> for RaftInstant {
    fn sub_assign(&mut self, duration: Duration) {
        self.0 -= duration;
    }
}

impl Sub for RaftInstant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0 - earlier.0
    }
}

/// openraft's randomness.
pub struct Chance;

impl rand_core::TryRng for Chance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(random() as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(random())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&random().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}
