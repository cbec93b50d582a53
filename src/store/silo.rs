//! The silo itself: what it is opened with, what it knows of itself, and how it fails.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use crate::base::id::{Epoch, Incarnation, NetworkId, Seq, SiloId, SlotKey};
use crate::store::ballast::Ballast;
use crate::store::checkpoint::save_row;
use crate::store::cleaning::{Cleaning, Findings};
use crate::store::disk::{Disk, DiskLock};
use crate::store::error::{Fault, Operation, Result, StoreError};
use crate::store::index::{Index, Leaves};
use crate::store::keys::{SILO, SILO_KEY, SiloRow, encode_row};
use crate::store::log::{Log, LogError};
use crate::store::recent::Recent;
use crate::store::replay::Finding;
use crate::store::slot::SlotState;
use crate::store::slots::Slot;
use crate::store::space::Space;
use crate::store::superblock::{self, FAULT_NAME};
use crate::store::usage::Usage;

/// How a silo is opened.
#[derive(Clone, Debug)]
pub struct SiloOptions {
    /// The most bytes the silo takes on its disk, segments and index together.
    pub capacity_bytes: u64,
    /// The random number of this opening.
    pub incarnation: Incarnation,
    /// The boot id of the machine, to tell whether the page cache was kept.
    pub boot_id: [u8; 16],
    /// Bytes of a segment.
    pub segment_bytes: u32,
    /// Memory for the index's pages.
    pub index_cache_bytes: usize,
    /// A checkpoint is due once so many bytes were appended since the last one. They are what an opening after a crash
    /// reads and writes again.
    pub checkpoint_log_bytes: u64,
    /// A checkpoint is due once so many versions were added since the last one: about 60 bytes of memory each.
    pub checkpoint_versions: u64,
}

/// Long enough that making one is rare, short enough that cleaning one is quick.
pub const SEGMENT_BYTES: u32 = 64 << 20;
/// A silo of less than 32 GiB has smaller segments, down to this: it keeps some of them free.
const SEGMENT_BYTES_MIN: u32 = 8 << 20;
const SEGMENT_PARTS: u64 = 512;
/// What lies past the checkpoint cannot be cleaned: on a small silo it must be little.
const SMALL_PARTS: u64 = 128;
const CHECKPOINT_LOG_BYTES_MIN: u64 = 16 << 20;
/// The index of a busy 100 GiB has its inner pages and hottest leaves in this.
pub const INDEX_CACHE_BYTES: usize = 64 << 20;
/// Bounds the time to open after a crash: on two cores that had much else to do, reading so much back and writing it anew
/// took 7.4 s.
pub const CHECKPOINT_LOG_BYTES: u64 = 256 << 20;
/// 8 MiB of memory. Scattered over 64 GiB, 128 Ki versions are merged in 1.6 s.
pub const CHECKPOINT_VERSIONS: u64 = 128 << 10;
/// Whoever appends makes a checkpoint itself once so many times the due amount has gathered, so that memory and the
/// time to open stay bounded however far the background falls behind.
const CHECKPOINT_OVERDUE: u64 = 4;
/// The most links of the chain that are kept while the cluster state confirms none.
const CHAIN_MAX: usize = 1024;

fn segment_bytes_of(capacity_bytes: u64) -> u32 {
    let parts = (capacity_bytes / SEGMENT_PARTS).clamp(u64::from(SEGMENT_BYTES_MIN), u64::from(SEGMENT_BYTES));
    // At most SEGMENT_BYTES, which fits; whole mebibytes.
    (parts as u32) & !((1 << 20) - 1)
}

impl SiloOptions {
    /// The defaults around what must be given.
    pub fn new(capacity_bytes: u64, incarnation: Incarnation, boot_id: [u8; 16]) -> Self {
        Self {
            capacity_bytes,
            incarnation,
            boot_id,
            segment_bytes: segment_bytes_of(capacity_bytes),
            index_cache_bytes: INDEX_CACHE_BYTES,
            checkpoint_log_bytes: CHECKPOINT_LOG_BYTES.min(capacity_bytes / SMALL_PARTS).max(CHECKPOINT_LOG_BYTES_MIN),
            checkpoint_versions: CHECKPOINT_VERSIONS,
        }
    }
}

/// An open silo. One thread appends, one syncs, one makes checkpoints and commits, any number read.
pub struct Silo {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) id: SiloId,
    pub(crate) options: SiloOptions,
    pub(crate) log: Log,
    pub(crate) index: Index,
    pub(crate) recent: Recent,
    pub(crate) ballast: Arc<Ballast>,
    pub(crate) slots: RwLock<BTreeMap<SlotKey, Arc<Slot>>>,
    pub(crate) row: Mutex<SiloRow>,
    pub(crate) fault: OnceLock<Fault>,
    pub(crate) findings: Vec<Finding>,
    /// Versions added to overlays since the last checkpoint began.
    pub(crate) pending_versions: AtomicU64,
    /// Bytes appended to the log since then.
    pub(crate) pending_bytes: AtomicU64,
    /// A slot has reports of other silos that are not in its row.
    pub(crate) unsaved_peers: AtomicBool,
    pub(crate) checkpointing: Mutex<()>,
    pub(crate) usage: Usage,
    pub(crate) cleaning: Mutex<Cleaning>,
    pub(crate) cleaning_findings: Mutex<Findings>,
    pub(crate) space: Space,
    pub(crate) _lock: Box<dyn DiskLock>,
}

impl Silo {
    /// Makes a directory a silo. Refuses one that holds a silo already or anything foreign; one in which formatting was
    /// interrupted is formatted again.
    pub fn format(disk: Arc<dyn Disk>, id: SiloId) -> Result<()> {
        superblock::format(&disk, id, NetworkId::default())
    }

    /// As [`Silo::format`], for one network: [`superblock::network`] tells it from another's before it is opened.
    pub fn format_for(disk: Arc<dyn Disk>, id: SiloId, network: NetworkId) -> Result<()> {
        superblock::format(&disk, id, network)
    }

    pub fn id(&self) -> SiloId {
        self.id
    }

    pub fn incarnation(&self) -> Incarnation {
        self.options.incarnation
    }

    /// The incarnations since the last one that the cluster state confirmed, that one first, this opening's last.
    pub fn chain(&self) -> Vec<Incarnation> {
        self.row().chain.clone()
    }

    /// The cluster state has confirmed this incarnation: what came before it in the chain is forgotten, durably. One
    /// that is not in the chain changes nothing.
    pub fn confirm(&self, incarnation: Incarnation) -> Result<()> {
        self.check_fault()?;
        let turn = self.index.turn(true);
        let mut row = self.row().clone();
        let Some(at) = row.chain.iter().rposition(|link| *link == incarnation) else { return Ok(()) };
        if at == 0 {
            return Ok(());
        }
        row.chain.drain(..at);
        self.guard(turn.write(Leaves::Nothing, |txn| {
            txn.open_table(SILO)?.insert(SILO_KEY, &encode_row(&row)[..])?;
            Ok(())
        }))?;
        *self.row() = row;
        Ok(())
    }

    pub fn capacity_bytes(&self) -> u64 {
        self.options.capacity_bytes
    }

    /// Bytes that the silo's segments and index take on the disk.
    pub fn used_bytes(&self) -> u64 {
        self.log.allocated_bytes() + self.index.size() + self.ballast.bytes()
    }

    /// The write or sync that failed, in this life or an earlier one. It is final: nothing is taken any more.
    pub fn faulted(&self) -> Option<Fault> {
        self.fault.get().cloned()
    }

    /// Damage in the log that was noticed at opening. What lay beyond is not part of any slot's state.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether all that the slot was given since its epoch was adopted is still there even if it was never synced: the
    /// machine has not restarted since, and no sync failed (rule 15 of the protocol).
    pub fn kept_page_cache(&self, state: &SlotState) -> bool {
        state.adopted_boot == self.options.boot_id && self.fault.get().is_none()
    }

    /// The state of every slot.
    pub fn slots(&self) -> Vec<(SlotKey, SlotState)> {
        self.all_slots().iter().map(|slot| (slot.key, slot.read().state.clone())).collect()
    }

    /// The state of a slot.
    pub fn slot(&self, key: SlotKey) -> Option<SlotState> {
        self.find(key).ok().map(|slot| slot.read().state.clone())
    }

    /// The writer says that everything of this slot up to `seq` is durable on a majority. Kept in memory until the next
    /// checkpoint; lets older versions go.
    ///
    /// Only for a slot that has adopted the writer's epoch, or is incomplete. An incomplete one keeps the watermark of
    /// its own history, from which it compares with the source, and uses the given one for what it receives. After an
    /// adoption the slot's watermark stands still until the given one passes what was adopted: what to compare from is
    /// always the `committed` of [`Silo::slot`], which may be lower than the writer's.
    pub fn set_committed(&self, key: SlotKey, seq: Seq) -> Result<()> {
        self.find(key)?.write().advance_watermark(seq);
        Ok(())
    }

    /// The watermark was told together with records that there was no space for: it is no higher than what is here.
    pub fn clamp_committed(&self, key: SlotKey) -> Result<()> {
        self.find(key)?.write().clamp_watermark();
        Ok(())
    }

    /// What the writer reports of the slot's silos. Kept in memory until [`Silo::save_peers`], or until the next
    /// checkpoint or commit.
    pub fn set_peers(&self, key: SlotKey, peers: Vec<(SiloId, Epoch, Seq)>) -> Result<()> {
        let slot = self.find(key)?;
        let mut content = slot.write();
        content.state.peers = peers;
        content.unsaved_peers = true;
        drop(content);
        self.unsaved_peers.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether something was reported that a power loss would take.
    pub fn has_unsaved_peers(&self) -> bool {
        self.unsaved_peers.load(Ordering::Relaxed)
    }

    /// Makes what was reported durable. May run beside appends.
    pub fn save_peers(&self) -> Result<()> {
        self.check_fault()?;
        let turn = self.index.turn(false);
        if !self.unsaved_peers.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let slots: Vec<_> = self.all_slots().into_iter().filter(|slot| slot.read().unsaved_peers).collect();
        let saved = self.guard(turn.write(Leaves::Nothing, |txn| {
            for slot in &slots {
                let mut content = slot.write();
                // A slot that was forgotten meanwhile has no row any more.
                if !content.forgotten {
                    content.unsaved_peers = false;
                    save_row(txn, slot.key, &content, slot.number)?;
                }
            }
            Ok(())
        }));
        if saved.is_err() {
            slots.iter().for_each(|slot| slot.write().unsaved_peers = true);
            self.unsaved_peers.store(true, Ordering::Relaxed);
        }
        saved
    }

    /// Whether a checkpoint should be made soon.
    pub fn checkpoint_due(&self) -> bool {
        self.is_pending(1)
    }

    pub(crate) fn checkpoint_overdue(&self) -> bool {
        self.is_pending(CHECKPOINT_OVERDUE)
    }

    fn is_pending(&self, times: u64) -> bool {
        self.pending_versions.load(Ordering::Relaxed) >= self.options.checkpoint_versions * times
            || self.pending_bytes.load(Ordering::Relaxed) >= self.options.checkpoint_log_bytes * times
    }

    pub(crate) fn row(&self) -> MutexGuard<'_, SiloRow> {
        self.row.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn find(&self, key: SlotKey) -> Result<Arc<Slot>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.get(&key).cloned().ok_or(StoreError::UnknownSlot(key))
    }

    /// Every slot, by number, the order in which gates are taken.
    pub(crate) fn all_slots(&self) -> Vec<Arc<Slot>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = slots.values().cloned().collect();
        all.sort_by_key(|slot| slot.number);
        all
    }

    pub(crate) fn check_fault(&self) -> Result<()> {
        self.fault.get().map_or(Ok(()), |fault| Err(StoreError::Faulted(fault.clone())))
    }

    /// Turns a failure of the log into the silo's: all but a lack of space is final.
    pub(crate) fn log_failure(&self, error: LogError) -> StoreError {
        match error {
            LogError::NoSpace => StoreError::NoSpace,
            LogError::TooLong => StoreError::BadRecord(crate::base::record::RecordError::Shape),
            LogError::Failed(operation, error) => self.fail(operation, crate::base::error::plain(&error)),
        }
    }

    /// A transaction of the index that failed is final as well: what of it reached the disk is not known.
    pub(crate) fn guard<T>(&self, result: Result<T>) -> Result<T> {
        self.guarded(Operation::Commit, result)
    }

    /// An index that cannot be read any more is final too: without it nobody knows which blocks there are. The other
    /// silos have them.
    pub(crate) fn guard_read<T>(&self, result: Result<T>) -> Result<T> {
        self.guarded(Operation::Index, result)
    }

    fn guarded<T>(&self, operation: Operation, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            let cause = match error {
                StoreError::Index(error) => error.to_string(),
                StoreError::Damaged(damage) => damage.to_string(),
                other => return other,
            };
            match self.index.file().damage() {
                Some(damage) => self.fail(Operation::Index, damage.to_owned()),
                None => self.fail(operation, cause),
            }
        })
    }

    /// Remembers a failure for good, on the disk too as far as that still works: if it does not, the stop will have
    /// been an unclean one, after which the tail is written anew.
    pub(crate) fn fail(&self, operation: Operation, cause: String) -> StoreError {
        let fault = self.fault.get_or_init(|| Fault { operation, cause }).clone();
        let text = format!("{}\n{}\n", fault.operation.word(), fault.cause);
        let written = self.disk.create(FAULT_NAME).and_then(|file| {
            file.write_vectored_at(&mut [IoSlice::new(text.as_bytes())], 0)?;
            file.sync_data()?;
            self.disk.sync_dir()
        });
        if let Err(error) = written {
            tracing::warn!("the fault of silo {} could not be noted on its disk: {error}", self.id.short());
        }
        StoreError::Faulted(fault)
    }
}

/// Adds this opening to a chain that is bounded: the confirmed link always stays, of the others the newest.
pub(crate) fn extend_chain(chain: &mut Vec<Incarnation>, incarnation: Incarnation) {
    if chain.len() >= CHAIN_MAX {
        chain.remove(1);
    }
    chain.push(incarnation);
}
