//! Nodes talking to nodes.
pub mod endpoint;
pub mod hello;
pub mod identity;
mod link;
pub mod memory;
pub mod network;
pub mod passport;
pub mod rpc;
pub mod stream;
pub mod tls;
pub mod token;
