//! Nodes talking to nodes. This layer carries bytes; it does not know what they mean, and never touches a store.
//!
//! **Who.** A node is an Ed25519 key (`identity`). That it belongs to a network says its `passport`: signed by the
//! network's key, or by the one-off key of an invitation that leads back to it. A `token` is the line of text that
//! carries an invitation, its one-off key and addresses to a new machine.
//!
//! **Where.** `discovery` is a libp2p swarm whose Kademlia table holds each node's signed word on its addresses. It
//! gives hints, nothing else: the bytes never go through it. An address may be a host name, which whoever dials asks
//! the `resolver` for.
//!
//! **How.** The data plane is TLS 1.3 over TCP with the node keys. An `endpoint` listens and dials; each connection
//! begins with a `hello` in which both sides show their passports, and is then a channel of frames. `tls` proves the
//! node, `stream` puts frames into records and back, `link` is the task that moves them. `rpc` is requests and
//! answers over a channel. A node that cannot be dialled is reached by a `callback`. What is built on channels sees only the trait in `network`; its twin in `memory` serves
//! tests.
//!
//! ```text
//! cluster ── Network ──▶ Endpoint ──▶ Link (one task a connection) ──▶ SecureStream ──▶ TCP
//!                    └─▶ MemoryEndpoint (tests)
//! ```
//!
//! What grows: a connection a purpose to each node that this one talks to, with at most the bytes of
//! [`network::Purpose::queue_bytes_max`] waiting on the way out and [`network::RECEIVED_BYTES_MAX`] on the way in.

pub mod callback;
pub mod discovery;
pub mod endpoint;
pub mod hello;
pub mod identity;
mod link;
pub mod memory;
pub mod network;
pub mod passport;
pub mod resolver;
pub mod rpc;
pub mod stream;
pub mod tls;
pub mod token;

pub use self::link::{SIGN_OF_LIFE_PERIOD, SILENCE_MAX};
pub use self::stream::fuzz_frames;
