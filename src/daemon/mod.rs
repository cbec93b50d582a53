//! The daemon: the composition root. It assembles, starts and stops everything, and decides nothing.

pub mod api;
pub mod offline;
