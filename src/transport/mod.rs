//! Nodes talking to nodes.
pub mod identity;
pub mod network;
pub mod passport;
pub mod token;
