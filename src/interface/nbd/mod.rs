//! NBD: block volumes for any client that speaks the NBD protocol — the kernel, qemu, libnbd and its tools.
//!
//! A [`Server`] binds one [`Address`] (`listener`) and takes clients there. Each is led through the fixed newstyle
//! handshake (`handshake`), in which it finds an export by name ([`Exports`]) and agrees on structured replies and on
//! `base:allocation`; then its requests are served (`session`) until it leaves or breaks the protocol, which costs it
//! its own connection and nobody else's. The codecs are pure and check every length: `option` and `request` read what
//! clients send, `reply` writes what they get, `errno` is where the volume's errors become codes.
//!
//! This layer holds session and wire only. It never orders, caches or repeats anything: overlapping requests, unaligned
//! ranges and waiting for a majority are the volume's. What it adds is a bound on everything a client can ask for at
//! once (`protocol` has the limits with their reasons), and the word whether the client is still there when the volume
//! wants to know ([`Origin`](crate::volume::block::device::Origin)).
//!
//! Requests of a connection are answered in the order in which they are done. A client that says goodbye is given all
//! its answers; one that vanishes has its unfinished requests dropped, and the volume decides what of them still
//! happens.

mod address;
mod errno;
mod exports;
mod handshake;
mod listener;
pub mod option;
mod outbox;
pub mod protocol;
mod reply;
pub mod request;
mod running;
mod server;
mod session;
mod socket;

pub use address::Address;
pub use errno::Errno;
pub use exports::{Counters, Counts, Export, Exports, Refusal};
pub use server::Server;
