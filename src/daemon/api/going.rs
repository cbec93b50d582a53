//! Nodes that are emptied, leave or stop, and what is set for the whole network.

use serde::{Deserialize, Serialize};

use crate::daemon::api::NodeRef;

/// Whether a node's silos hold copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Duty {
    /// They get their share.
    #[default]
    Stores,
    /// Their copies go elsewhere, and they get none.
    Drains,
    /// The same, and then the node leaves the network: it will not come back.
    Leaves,
}

/// Asks that the copies on a node go elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainNode {
    /// Let it hold copies again instead.
    #[serde(default)]
    pub cancel: bool,
}

/// Asks that a node leaves the network for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveNode {
    /// It will not come back: its copies are made anew from the others first.
    #[serde(default)]
    pub dead: bool,
}

/// A node that leaves, or has left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedNode {
    #[serde(flatten)]
    pub node: NodeRef,
    /// Copies that are to be made elsewhere before it leaves; none once it has left.
    pub copies: u32,
}

/// Asks to change what a volume is kept by; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetVolume {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u8>,
}

/// Asks to change what holds for the whole network; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetNetwork {
    /// A silo that nobody reached for so long is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_after_ms: Option<u64>,
}

/// Asks the daemon to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopNode {
    /// Its volumes stay attached here: it will be back soon, and their clients connect again.
    #[serde(default)]
    pub keep_attached: bool,
}

/// The daemon stops once it has answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    pub node: NodeRef,
}
