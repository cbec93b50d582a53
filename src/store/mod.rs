//! A silo: one directory on one disk. Bytes go to append-only segments, the index and the state of slots to redb.
//!
//! The segments are the log and the place of all data at once: a batch of records, as it came from the network, is one
//! sequential write and is found by reads at once; one sync makes it and everything before it durable. What was
//! appended since the last checkpoint is indexed in memory; a checkpoint moves that into redb in bounded transactions.
//! After a crash the log past the checkpoint is read again.
//!
//! The life of a write: [`silo::Silo::append`] (`append.rs`) verifies the records and hands them to the log (`log.rs`,
//! format in `segment.rs`), then puts a version of each block in the slot's overlay (`slots.rs`, `version.rs`), or, for
//! a long trim, a range in `trims.rs`. A read (`read.rs`) asks the overlay, then the index (`index.rs`, keys in
//! `keys.rs`), then reads the bytes and verifies their checksums;
//! the index's own pages are verified as redb reads them (`pages.rs`). `checkpoint.rs` moves overlays into the index,
//! `commit.rs` makes the replication protocol's decisions durable, `history.rs` changes what belongs to a slot's past,
//! `delta.rs` and `staging.rs` are the two ends of catching up, `open.rs` and `replay.rs` bring a silo back.
//!
//! Space: `usage.rs` counts in the index's own transactions what is needed of each segment; `cleaning.rs` removes the
//! segments that are not needed and copies what is left of those that are worth it to segments apart from the log (`cold.rs`);
//! `space.rs` decides when that is worth it and when the silo is full; `ballast.rs` keeps room for the index.
//!
//! The files of a silo's directory:
//!
//! | file | what it is | byte map |
//! |---|---|---|
//! | `superblock` | makes the directory a silo: its id and format version | `superblock.rs` |
//! | `segment-xxxxxxxx` | the log, 64 MiB each, numbered in hexadecimal | `segment.rs` |
//! | `index.redb` | the index and the state of slots | `keys.rs` |
//! | `index.sums` | checksums of the index's pages | `pages.rs` |
//! | `reserve` | empty space, made when the disk is nearly full, for the index to grow into | |
//! | `lock` | empty; locked by the process that has the silo open | |
//! | `in-use` | empty; there while the silo is open, and after an unclean stop | |
//! | `scrub` | how far scrubbing has come | `scrub.rs` |
//! | `fault` | only after a failed write or sync: which, and why, as two lines of text | |
//! | `formatting` | only while the silo is being formatted | |
//!
//! What grows with what: memory is about 8 MiB a TiB written (the extents' versions), usually under 16 MiB of overlay,
//! and 64 MiB of redb's cache. On the disk a record takes 120 bytes beside its data (3 % at 4 KiB, 0.3 % at 128 KiB), and
//! the index 5 bytes a block written in long runs, up to 80 for a block that is a run of its own (2 % at the worst). A silo
//! of 1 TiB in such blocks opens in seconds and serves in less than 200 MiB: see ARCHITECTURE.md.
//!
//! Measured beside other work on two cores, ext4, 4 KiB blocks written at random, one sync a batch: 1,200 blocks/s at 1 a
//! batch, 15,000 at 32, 50,000 at 256; without a sync 30,000 one by one and 70,000 at 32 a batch. Random reads of one
//! block from the page cache: 140,000/s while the overlay has it, 70,000/s through the index.
//!
//! This layer knows slots, versions and histories, not why the protocol wants them so; it never touches the network,
//! starts no thread, and takes time and randomness from outside, so that a simulation can run it on a disk in memory.

pub mod cleaning;
pub mod commit;
pub mod delta;
pub mod disk;
pub mod error;
pub mod faulty;
pub mod read;
mod recent;
pub mod replay;
pub mod scrub;
pub mod segment;
pub mod silo;
pub mod slot;
pub mod space;
pub mod staging;
pub mod superblock;

pub use crate::store::keys::fuzz_rows;

mod ahead;
mod append;
mod ballast;
mod checkpoint;
mod cold;
mod extents;
mod group;
mod history;
mod index;
mod keys;
mod log;
mod open;
mod pages;
mod position;
mod slots;
mod trims;
mod usage;
mod version;

#[cfg(test)]
mod tests;
