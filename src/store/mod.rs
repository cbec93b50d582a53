//! A silo: one directory on one disk. Bytes go to append-only segments, the index and the state of slots to redb.

pub mod slot;
