//! Nodes talking to nodes: identity and passports, discovery over libp2p, the data plane over TLS 1.3, and an
//! in-memory twin for tests. This layer carries bytes; it does not know what they mean, and never touches a store.

pub mod network;
