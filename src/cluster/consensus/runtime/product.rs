//! The product's surroundings: tokio.

use std::future::Future;

use tokio::time::Instant;

use crate::cluster::consensus::runtime::Tokio;

pub use rand::random;
pub use tokio::task::{JoinHandle, spawn, spawn_blocking};
pub use tokio::time::{sleep, sleep_until, timeout, timeout_at};

/// What openraft runs on.
pub type RaftRuntime = Tokio;

pub fn now() -> Instant {
    Instant::now()
}

/// Starts a task, unless the runtime is gone.
pub fn spawn_if_running(future: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(future);
    }
}
