//! All that the group takes from its surroundings: the time, timers, tasks, blocking threads and chance.
//!
//! In the product this is tokio by shorter names, and costs nothing. Unit tests may put a thread under a simulation
//! (`simulated`): there time is virtual, tasks run one after the other in an order that a seed decides, and nothing
//! happens that does not come from the seed. openraft gets the same by its own seam, [`RaftRuntime`].
//!
//! The rest of the group names neither tokio's clock nor its tasks nor a random number generator (`tests/tidy.rs`
//! checks it). Channels it takes from tokio: they need no runtime. One thing about them depends on chance: in which order
//! a watch wakes those who wait for it; a simulation chooses among woken tasks by itself.

#[cfg(not(test))]
mod product;
#[cfg(test)]
pub mod simulated;
#[cfg(test)]
mod switched;

#[cfg(not(test))]
use product as chosen;
#[cfg(test)]
use switched as chosen;

pub(super) use chosen::{
    JoinHandle, RaftRuntime, now, random, sleep, sleep_until, spawn, spawn_blocking, spawn_if_running, timeout,
    timeout_at,
};

// openraft marks its own default runtime as deprecated in favour of the same type in a crate that it depends on.
#[allow(deprecated)]
pub(super) type Tokio = openraft::impls::TokioRuntime;

/// A moment on this process's monotonic clock.
pub(super) use tokio::time::Instant;
