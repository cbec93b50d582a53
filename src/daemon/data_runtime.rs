//! The runtime of the data path: clients' connections, writers, and the connections between nodes that carry blocks.
//!
//! It has threads of its own, few of them, for two reasons. What the control plane does can never hold up a write. And
//! a request passes through several tasks; on a thread of their own they hand it on without waking another thread, which
//! costs more than all that they do with it. Blocking work never runs here: silos have threads of their own.

use std::num::NonZero;

use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};
use tokio::task::JoinHandle;

/// A bound, so that large machines do not start a crowd; it was not measured beyond two processors.
const THREADS_MAX: usize = 4;

/// The threads; they end, without waiting for anything, when this is dropped.
pub struct DataRuntime {
    handle: DataHandle,
    runtime: Option<Runtime>,
}

/// Starts tasks on the data path's threads.
#[derive(Clone)]
pub struct DataHandle(Handle);

impl DataRuntime {
    /// Starts the threads: one for each two processors.
    pub fn start() -> std::io::Result<DataRuntime> {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads = (processors / 2).clamp(1, THREADS_MAX);
        let runtime = Builder::new_multi_thread().worker_threads(threads).thread_name("data").enable_all().build()?;
        Ok(DataRuntime { handle: DataHandle(runtime.handle().clone()), runtime: Some(runtime) })
    }

    pub fn handle(&self) -> DataHandle {
        self.handle.clone()
    }
}

impl Drop for DataRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl DataHandle {
    /// Runs something on the data path.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.0.spawn(task)
    }

    /// Until the guard is dropped, whatever this thread spawns runs on the data path.
    pub fn enter(&self) -> EnterGuard<'_> {
        self.0.enter()
    }
}
