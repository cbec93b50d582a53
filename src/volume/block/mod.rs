//! Block volumes: a disk that one node at a time writes.

pub mod attached;
pub mod device;
pub mod memory;
