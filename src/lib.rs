//! Infinit: a storage cluster in minutes, from one static binary.
//!
//! The layers, each a folder, import only downwards (`tests/tidy.rs` checks it):
//!
//! ```text
//! cli → daemon → interface → volume → cluster → { transport | store } → base
//! ```
//!
//! A write enters at `interface/nbd`, is ordered in `volume/block`, numbered and replicated by
//! `cluster/replication`, carried by `transport/link` and appended by `store/`. ARCHITECTURE.md is the map.

pub mod base;
pub mod cli;
pub mod cluster;
pub mod daemon;
pub mod interface;
pub mod store;
pub mod transport;
pub mod volume;

// The simulation is part of the unit tests, because only they have the deliberate bugs of `base::mutant` that it must
// find. It names the library as any other test does.
#[cfg(test)]
extern crate self as infinit;
#[cfg(test)]
#[path = "../tests/simulation/mod.rs"]
mod simulation;
