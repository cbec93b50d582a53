//! What makes a directory a silo, and how it becomes one.
//!
//! ```text
//! superblock: offset size
//!                  0    8  magic "INFSILO\0"
//!                  8    4  format version
//!                 12    4  zero
//!                 16   16  silo
//!                 32   32  network that it was formatted for, or zero
//!                 64  444  zero
//!                508    4  CRC32C of bytes 0..508
//! ```
//!
//! Formatting first leaves a file `formatting`, then makes the index, then the superblock, then removes the first again;
//! each step is durable before the next. So a directory in which formatting was interrupted is told from a foreign or a
//! damaged one, and formatting it again loses nothing.

use std::io;
use std::sync::Arc;

use crate::base::id::{NetworkId, SiloId};
use crate::store::disk::{Disk, DiskLock, LOCK_NAME};
use crate::store::error::{Damage, Result, StoreError};
use crate::store::index::{Index, Leaves};
use crate::store::keys::{SILO, SILO_KEY, SiloRow, encode_row};
use crate::store::pages::PageFile;
use crate::store::position::Position;
use crate::store::segment::{SEGMENT_HEADER_BYTES, segment_number};

/// The format that this version writes. 1: the first. 2: the index's pages have checksums. Opening a silo of an older one
/// raises it.
pub const FORMAT_VERSION: u32 = 2;
const FORMAT_FIRST: u32 = 1;

pub(crate) const SUPERBLOCK_NAME: &str = "superblock";
pub(crate) const INDEX_NAME: &str = "index.redb";
pub(crate) const SUMS_NAME: &str = "index.sums";
pub(crate) const FAULT_NAME: &str = "fault";
/// There while the silo is open, and after an unclean stop.
pub(crate) const IN_USE_NAME: &str = "in-use";
const FORMATTING_NAME: &str = "formatting";
/// A fresh ext4 file system has this folder; it is nobody's data.
const LOST_FOUND_NAME: &str = "lost+found";

const MAGIC: [u8; 8] = *b"INFSILO\0";
const SUPERBLOCK_BYTES: usize = 512;
/// The index is small while a silo is formatted.
const FORMAT_CACHE_BYTES: usize = 1 << 20;

/// Makes the directory a silo. Refuses one that holds a silo already or anything foreign.
pub(crate) fn format(disk: &Arc<dyn Disk>, id: SiloId, network: NetworkId) -> Result<()> {
    check_vacant(disk)?;
    let _lock = lock(disk)?;
    // Another process may have been formatting until it gave up the lock.
    check_vacant(disk)?;
    let names = disk.list().map_err(StoreError::io("list the silo's directory"))?;
    if !names.iter().any(|name| name == FORMATTING_NAME) {
        disk.create(FORMATTING_NAME).and_then(|_| disk.sync_dir()).map_err(StoreError::io("begin formatting"))?;
    }
    for left in names.iter().filter(|name| [SUPERBLOCK_NAME, INDEX_NAME, SUMS_NAME].contains(&name.as_str())) {
        disk.remove(left).map_err(StoreError::io("remove what an interrupted formatting left"))?;
    }
    create_index(disk, id)?;
    let superblock = disk.create(SUPERBLOCK_NAME).map_err(StoreError::io("create the superblock"))?;
    let raw = encode(FORMAT_VERSION, id, network);
    superblock
        .write_vectored_at(&mut [io::IoSlice::new(&raw)], 0)
        .and_then(|()| superblock.sync_data())
        .and_then(|()| disk.sync_dir())
        .map_err(StoreError::io("write the superblock"))?;
    disk.remove(FORMATTING_NAME).and_then(|()| disk.sync_dir()).map_err(StoreError::io("finish formatting"))
}

/// The id of the silo in this directory, or why there is none that can be opened.
pub fn identify(disk: &Arc<dyn Disk>) -> Result<SiloId> {
    let names = match disk.list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::NotFormatted),
        other => other.map_err(StoreError::io("list the silo's directory"))?,
    };
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    if has(SUPERBLOCK_NAME) {
        let read = read(disk).map(|read| read.id);
        let damaged = matches!(read, Err(StoreError::Damaged(_)));
        return if damaged && has(FORMATTING_NAME) { Err(StoreError::HalfFormatted) } else { read };
    }
    if has(FORMATTING_NAME) {
        return Err(StoreError::HalfFormatted);
    }
    match names.into_iter().find(|name| ![LOCK_NAME, LOST_FOUND_NAME].contains(&name.as_str())) {
        Some(name) if [INDEX_NAME, SUMS_NAME].contains(&name.as_str()) || segment_number(&name).is_some() => {
            Err(StoreError::Damaged(Damage::Superblock))
        }
        Some(name) => Err(StoreError::Foreign(name)),
        None => Err(StoreError::NotFormatted),
    }
}

/// The network that the silo in this directory was formatted for; none if for no particular one, or if there is no
/// silo that can be opened.
pub fn network(disk: &Arc<dyn Disk>) -> Option<NetworkId> {
    let network = read(disk).ok()?.network;
    (network != NetworkId::default()).then_some(network)
}

/// Takes the silo for this process alone.
pub(crate) fn lock(disk: &Arc<dyn Disk>) -> Result<Box<dyn DiskLock>> {
    disk.lock().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StoreError::Locked,
        _ => StoreError::Io { doing: "lock the silo", error },
    })
}

/// Fails unless formatting here destroys nothing.
fn check_vacant(disk: &Arc<dyn Disk>) -> Result<()> {
    match identify(disk) {
        Ok(id) => return Err(StoreError::AlreadyFormatted(id)),
        Err(StoreError::NotFormatted) => {}
        Err(StoreError::HalfFormatted) => {
            let own = [FORMATTING_NAME, SUPERBLOCK_NAME, INDEX_NAME, SUMS_NAME, LOCK_NAME, LOST_FOUND_NAME];
            let names = disk.list().map_err(StoreError::io("list the silo's directory"))?;
            if let Some(foreign) = names.into_iter().find(|name| !own.contains(&name.as_str())) {
                return Err(StoreError::Foreign(foreign));
            }
        }
        Err(other) => return Err(other),
    }
    Ok(())
}

fn create_index(disk: &Arc<dyn Disk>, id: SiloId) -> Result<()> {
    let file = disk.create(INDEX_NAME).map_err(StoreError::io("create the index"))?;
    let sums = disk.create(SUMS_NAME).map_err(StoreError::io("create the index's checksums"))?;
    let pages = PageFile::create(file.clone(), sums).map_err(StoreError::io("create the index's checksums"))?;
    let index = Index::open(pages, None, FORMAT_CACHE_BYTES)?;
    let checkpoint = Position::new(1, SEGMENT_HEADER_BYTES);
    let row = SiloRow { id, clean: true, checkpoint, chain: Vec::new(), next_slot: 1 };
    index.turn(false).write(Leaves::Nothing, |txn| {
        Index::create_tables(txn)?;
        txn.open_table(SILO)?.insert(SILO_KEY, &encode_row(&row)[..])?;
        Ok(())
    })?;
    drop(index);
    file.sync_data().map_err(StoreError::io("sync the index"))
}

fn encode(version: u32, id: SiloId, network: NetworkId) -> [u8; SUPERBLOCK_BYTES] {
    let mut raw = [0; SUPERBLOCK_BYTES];
    raw[..8].copy_from_slice(&MAGIC);
    raw[8..12].copy_from_slice(&version.to_le_bytes());
    raw[16..32].copy_from_slice(&id.0);
    raw[32..64].copy_from_slice(&network.0);
    let crc = crc32c::crc32c(&raw[..508]);
    raw[508..].copy_from_slice(&crc.to_le_bytes());
    raw
}

/// What the superblock says.
struct Superblock {
    version: u32,
    id: SiloId,
    network: NetworkId,
}

/// The format that the silo in this directory has.
pub(crate) fn format_version(disk: &Arc<dyn Disk>) -> Result<u32> {
    read(disk).map(|superblock| superblock.version)
}

/// The silo has everything that the present format asks for: its superblock says so from here on.
pub(crate) fn raise_format(disk: &Arc<dyn Disk>) -> Result<()> {
    let Superblock { id, network, .. } = read(disk)?;
    let raw = encode(FORMAT_VERSION, id, network);
    let file = disk.open(SUPERBLOCK_NAME).map_err(StoreError::io("open the superblock"))?;
    // One sector: after a power loss it is the old one or the new one.
    file.write_vectored_at(&mut [io::IoSlice::new(&raw)], 0)
        .and_then(|()| file.sync_data())
        .map_err(StoreError::io("raise the format"))
}

fn read(disk: &Arc<dyn Disk>) -> Result<Superblock> {
    let damaged = || StoreError::Damaged(Damage::Superblock);
    let file = disk.open(SUPERBLOCK_NAME).map_err(StoreError::io("open the superblock"))?;
    let mut raw = [0; SUPERBLOCK_BYTES];
    match file.read_at(&mut raw, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(damaged()),
        other => other.map_err(StoreError::io("read the superblock"))?,
    }
    let (body, crc) = raw.split_at(508);
    if raw[..8] != MAGIC || crc32c::crc32c(body).to_le_bytes() != crc {
        return Err(damaged());
    }
    let found = u32::from_le_bytes([raw[8], raw[9], raw[10], raw[11]]);
    match found {
        FORMAT_FIRST..=FORMAT_VERSION => {}
        newer if newer > FORMAT_VERSION => {
            return Err(StoreError::Newer { found: newer, known: FORMAT_VERSION });
        }
        _ => return Err(damaged()),
    }
    let mut id = SiloId::default();
    id.0.copy_from_slice(&raw[16..32]);
    let mut network = NetworkId::default();
    network.0.copy_from_slice(&raw[32..64]);
    Ok(Superblock { version: found, id, network })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::faulty::{Crash, FaultyDisk};

    const NETWORK: NetworkId = NetworkId([9; 32]);

    fn fresh() -> (FaultyDisk, Arc<dyn Disk>) {
        let disk = FaultyDisk::new(1);
        (disk.clone(), Arc::new(disk))
    }

    #[test]
    fn only_a_vacant_directory_is_formatted() {
        let (_, disk) = fresh();
        assert!(matches!(identify(&disk), Err(StoreError::NotFormatted)));
        disk.create("lost+found").unwrap();
        format(&disk, SiloId([1; 16]), NETWORK).unwrap();
        assert_eq!(identify(&disk).unwrap(), SiloId([1; 16]));
        assert_eq!(network(&disk), Some(NETWORK));
        assert!(matches!(format(&disk, SiloId([2; 16]), NETWORK), Err(StoreError::AlreadyFormatted(SiloId([1, ..])))));

        let (_, disk) = fresh();
        disk.create("holiday.jpg").unwrap();
        assert!(
            matches!(format(&disk, SiloId([1; 16]), NETWORK), Err(StoreError::Foreign(name)) if name == "holiday.jpg")
        );
        assert_eq!(disk.list().unwrap(), ["holiday.jpg"], "a foreign directory is not touched");

        let (_, disk) = fresh();
        format(&disk, SiloId([1; 16]), NETWORK).unwrap();
        disk.remove(SUPERBLOCK_NAME).unwrap();
        assert!(matches!(format(&disk, SiloId([1; 16]), NETWORK), Err(StoreError::Damaged(Damage::Superblock))));
    }

    #[test]
    fn damaged_and_newer_superblocks_are_told_apart() {
        let (faulty, disk) = fresh();
        format(&disk, SiloId([1; 16]), NETWORK).unwrap();
        for byte in [0, 9, 20, 100, 510] {
            faulty.flip_bit(SUPERBLOCK_NAME, byte, 3);
            assert!(matches!(identify(&disk), Err(StoreError::Damaged(Damage::Superblock))), "byte {byte}");
            faulty.flip_bit(SUPERBLOCK_NAME, byte, 3);
        }
        let mut raw = encode(FORMAT_VERSION + 1, SiloId([1; 16]), NETWORK);
        let crc = crc32c::crc32c(&raw[..508]);
        raw[508..].copy_from_slice(&crc.to_le_bytes());
        disk.open(SUPERBLOCK_NAME).unwrap().write_vectored_at(&mut [io::IoSlice::new(&raw)], 0).unwrap();
        assert!(matches!(identify(&disk), Err(StoreError::Newer { found: 3, known: 2 })));
    }

    #[test]
    fn formatting_interrupted_anywhere_is_recognised_and_done_again() {
        let (counting, disk) = fresh();
        format(&disk, SiloId([1; 16]), NETWORK).unwrap();
        for at in 0..counting.operations() {
            for crash in [Crash::Power, Crash::Process] {
                let faulty = FaultyDisk::new(at);
                let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
                faulty.crash_after(at, crash);
                assert!(format(&disk, SiloId([1; 16]), NETWORK).is_err());
                faulty.restart();
                match identify(&disk) {
                    Ok(id) => assert_eq!(id, SiloId([1; 16])),
                    Err(StoreError::HalfFormatted | StoreError::NotFormatted) => {
                        format(&disk, SiloId([1; 16]), NETWORK).unwrap();
                        faulty.crash(Crash::Power);
                        identify(&disk).unwrap();
                    }
                    Err(other) => panic!("crash at {at}: {other}"),
                }
            }
        }
    }
}
