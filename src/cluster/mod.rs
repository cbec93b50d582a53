//! The cluster: who is in it, where slots lie, and how writes reach their silos. It does not know what a volume's
//! bytes mean.

pub mod consensus;
pub mod placement;
pub mod replication;
pub mod state;
