//! Nodes talking to nodes.
pub mod endpoint;
pub mod hello;
pub mod identity;
mod link;
pub mod network;
pub mod passport;
mod stream;
pub mod tls;
pub mod token;
