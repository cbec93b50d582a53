//! What a server serves: devices by name, and what is counted of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::volume::block::device::Device;

/// The devices that may be served, asked anew by each client.
pub trait Exports: Send + Sync + 'static {
    /// The names, in the order in which they are listed.
    fn list(&self) -> Vec<String>;
    /// The device with this name.
    fn find(&self, name: &str) -> Result<Export, Refusal>;
}

/// A device as it is served.
#[derive(Clone)]
pub struct Export {
    pub device: Arc<dyn Device>,
    /// Changes are refused with EPERM.
    pub read_only: bool,
    /// Shared by all connections to this export, and readable by whoever made it.
    pub counters: Arc<Counters>,
}

/// Why there is no such export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Unknown,
    /// It is being detached, or was fenced.
    Shutdown,
}

impl Export {
    /// A writable export with counters of its own.
    pub fn new(device: Arc<dyn Device>) -> Self {
        Self { device, read_only: false, counters: Arc::default() }
    }
}

/// Finds what a client means: an empty name is the only export, if there is exactly one.
pub fn resolve(exports: &dyn Exports, name: &str) -> Result<(String, Export), Refusal> {
    if !name.is_empty() {
        return exports.find(name).map(|export| (name.to_owned(), export));
    }
    let mut names = exports.list();
    match (names.pop(), names.is_empty()) {
        (Some(only), true) => exports.find(&only).map(|export| (only, export)),
        _ => Err(Refusal::Unknown),
    }
}

/// What was done on an export since it was made. Requests are counted when they are begun, bytes when they are done.
#[derive(Default)]
pub struct Counters {
    pub connections: AtomicU64,
    pub connections_open: AtomicU64,
    pub reads: AtomicU64,
    pub writes: AtomicU64,
    pub flushes: AtomicU64,
    pub trims: AtomicU64,
    pub zeroes: AtomicU64,
    pub read_bytes: AtomicU64,
    pub written_bytes: AtomicU64,
    /// Requests answered with an error, refused ones included.
    pub errors: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub connections: u64,
    pub connections_open: u64,
    pub reads: u64,
    pub writes: u64,
    pub flushes: u64,
    pub trims: u64,
    pub zeroes: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub errors: u64,
}

impl Counters {
    /// Reads all counters; those of requests in flight may be between two steps.
    pub fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            connections: get(&self.connections),
            connections_open: get(&self.connections_open),
            reads: get(&self.reads),
            writes: get(&self.writes),
            flushes: get(&self.flushes),
            trims: get(&self.trims),
            zeroes: get(&self.zeroes),
            read_bytes: get(&self.read_bytes),
            written_bytes: get(&self.written_bytes),
            errors: get(&self.errors),
        }
    }
}

/// Adds to a counter; counters order nothing.
pub fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
