//! Replication of block volumes: one writer, fenced by an epoch, drives the silos of each slot directly.
//!
//! The two sides are pure state machines, events in and effects out, with time passed in:
//!
//! - [`writer`] orders requests, numbers writes, streams them to the silos, answers at a majority, recovers at attach.
//! - [`acceptor`] is a silo's side: it promises epochs, takes the stream in order, votes, and is brought up to date.
//!
//! [`message`] is what they say to one another. [`keeper`] carries out an acceptor's effects on a store, [`scrubber`]
//! looks for decay in it, when people ask for it too ([`scrub_request`]); the threads and tasks around both sides are in [`service`] with its [`worker`], and [`driver`]. The rules are numbered as in ARCHITECTURE.md.

pub mod acceptor;
pub mod connections;
pub mod driver;
pub mod keeper;
pub mod message;
pub mod order;
pub mod scrub_request;
pub mod scrubber;
pub mod service;
pub mod sessions;
pub mod worker;
pub mod writer;

#[cfg(test)]
mod full;
