//! A client that remembers what it wrote, and knows which values may legally be there after a crash.
//!
//! Each block holds one value at a time, a number that fills its 4 KiB in a way that tells a torn or misplaced block.
//! Value 0 is a block that was trimmed or never written. One request at a time is in flight on a block, many over all.
//! For each block the ledger keeps the value answered last, whether a flush covered it, and every value asked for
//! since without an answer. After a crash of processes, which loses nothing that was answered, exactly these may be
//! read; and whichever is read once is the only one from then on.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use bytes::Bytes;
use infinit::daemon::demo::client::{Client, NbdError};

pub const BLOCK_BYTES: usize = 4096;
/// Blocks between two that are used: they lie in several extents of 1 MiB.
const STRIDE: u64 = 5;
/// Requests in flight.
const WORKERS: u64 = 32;
/// Connections that share them: a flush on one covers what was answered on all.
const CONNECTIONS: usize = 4;

pub struct Ledger {
    blocks: Mutex<Vec<Block>>,
    next_value: AtomicU64,
    answered: AtomicU64,
    flushes: AtomicU64,
}

#[derive(Clone, Debug, Default)]
struct Block {
    answered: u64,
    flushed: bool,
    unanswered: Vec<u64>,
}

impl Ledger {
    /// A ledger of a volume that was never written.
    pub fn new(blocks: usize) -> Arc<Ledger> {
        Arc::new(Ledger {
            blocks: Mutex::new(vec![Block::default(); blocks]),
            next_value: AtomicU64::new(1),
            answered: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
        })
    }

    /// Writes and trims answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Flushes answered so far.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// Writes, trims and flushes until every connection is lost; anything else is a failure. The seed says what.
    pub async fn load(self: &Arc<Self>, socket: &Path, export: &str, seed: u64) {
        for ended in self.load_until_refused(socket, export, seed).await {
            match ended {
                NbdError::Lost => {}
                other => panic!("a request failed: {other}"),
            }
        }
    }

    /// The same until requests fail; how the first one on each of the connections did.
    pub async fn load_until_refused(self: &Arc<Self>, socket: &Path, export: &str, seed: u64) -> Vec<NbdError> {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(Client::connect(socket, export).await.unwrap());
        }
        let workers = (0..WORKERS).map(|worker| {
            let client = clients[worker as usize % CONNECTIONS].clone();
            tokio::spawn(self.clone().work(client, worker, seed))
        });
        let mut ended = Vec::new();
        for worker in workers.collect::<Vec<_>>() {
            ended.push(worker.await.unwrap());
        }
        ended
    }

    /// One request after another on every `WORKERS`th block.
    async fn work(self: Arc<Self>, client: Client, worker: u64, seed: u64) -> NbdError {
        let own = self.blocks().len() as u64 / WORKERS;
        let mut dice = Dice(mix(seed ^ mix(worker + 1)));
        loop {
            let block = (dice.roll(own) * WORKERS + worker) as usize;
            let done = match dice.roll(16) {
                0 => self.flush(&client).await,
                1 => self.put(&client, block, true, false).await,
                2 => self.put(&client, block, false, true).await,
                _ => self.put(&client, block, false, false).await,
            };
            if let Err(error) = done {
                return error;
            }
        }
    }

    /// Gives a block a new value, or none.
    async fn put(&self, client: &Client, block: usize, trim: bool, fua: bool) -> Result<(), NbdError> {
        let value = if trim { 0 } else { self.next_value.fetch_add(1, Ordering::Relaxed) };
        self.blocks()[block].unanswered.push(value);
        if trim {
            client.trim(offset(block), BLOCK_BYTES as u32).await?;
        } else {
            client.write(offset(block), fill(block, value), fua).await?;
        }
        // What was left unanswered by an earlier crash was settled by a read before this load began.
        self.blocks()[block] = Block { answered: value, flushed: fua, unanswered: Vec::new() };
        self.answered.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn flush(&self, client: &Client) -> Result<(), NbdError> {
        let before: Vec<u64> = self.blocks().iter().map(|block| block.answered).collect();
        client.flush().await?;
        for (block, answered) in self.blocks().iter_mut().zip(before) {
            block.flushed |= block.answered == answered;
        }
        self.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Writes one block and returns once it is answered.
    pub async fn put_one(&self, client: &Client, block: usize) -> Result<(), NbdError> {
        self.put(client, block, false, false).await
    }

    /// Reads every block and settles which of its legal values it has.
    ///
    /// # Panics
    /// If any block has another; names each.
    pub async fn check(&self, socket: &Path, export: &str) {
        let client = Client::connect(socket, export).await.unwrap();
        let count = self.blocks().len();
        let reads = (0..count).map(|block| client.read(offset(block), BLOCK_BYTES as u32));
        let mut wrong = Vec::new();
        for (block, data) in futures::future::join_all(reads).await.into_iter().enumerate() {
            let data = data.unwrap_or_else(|error| panic!("block {block} cannot be read: {error}"));
            let mut blocks = self.blocks();
            let known = blocks[block].clone();
            match value(block, &data) {
                Some(value) if value == known.answered || known.unanswered.contains(&value) => {
                    let flushed = known.flushed && value == known.answered;
                    blocks[block] = Block { answered: value, flushed, unanswered: Vec::new() };
                }
                found => wrong.push(format!("block {block} holds {found:?}, and the ledger says {known:?}")),
            }
        }
        assert!(wrong.is_empty(), "{} of {count} blocks are wrong:\n{}", wrong.len(), wrong.join("\n"));
    }

    fn blocks(&self) -> MutexGuard<'_, Vec<Block>> {
        self.blocks.lock().unwrap()
    }
}

/// Connects as soon as the export is open; `None` if it is not in time.
pub async fn connect_by(socket: &Path, export: &str, end: Instant) -> Option<Client> {
    let mut again = tokio::time::interval(std::time::Duration::from_millis(10));
    while Instant::now() < end {
        again.tick().await;
        if let Ok(client) = Client::connect(socket, export).await {
            return Some(client);
        }
    }
    None
}

/// Where a block of the ledger lies in the volume, bytes.
pub fn offset(block: usize) -> u64 {
    block as u64 * STRIDE * BLOCK_BYTES as u64
}

/// The bytes of a value in a block.
pub fn fill(block: usize, value: u64) -> Bytes {
    if value == 0 {
        return Bytes::from(vec![0; BLOCK_BYTES]);
    }
    let mut bytes = Vec::with_capacity(BLOCK_BYTES);
    bytes.extend(value.to_le_bytes());
    let mut dice = Dice(mix(value ^ mix(block as u64)));
    while bytes.len() < BLOCK_BYTES {
        bytes.extend(dice.next().to_le_bytes());
    }
    Bytes::from(bytes)
}

/// The value whose bytes these are, all of them, in this block; else none.
pub fn value(block: usize, bytes: &[u8]) -> Option<u64> {
    let value = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    (fill(block, value) == bytes).then_some(value)
}

struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.next() % sides
    }
}

/// Every bit of the result depends on every bit given (Steele and others, SplitMix64, 2014).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[test]
fn a_torn_or_misplaced_block_has_no_value() {
    assert_eq!(value(3, &fill(3, 7)), Some(7));
    assert_eq!(value(3, &[0; BLOCK_BYTES]), Some(0));
    assert_eq!(value(4, &fill(3, 7)), None);
    let torn = [&fill(3, 7)[..2048], &fill(3, 8)[2048..]].concat();
    assert_eq!(value(3, &torn), None);
}
