//! The daemon: the composition root. It assembles, starts and stops everything, and decides nothing.
//!
//! [`node`] starts and stops a node in one linear function. [`control`] is the control API on a Unix socket, whose
//! types are [`api`], written in [`words`]. [`peers`] is what daemons ask of one another, [`standing`] whether a member is up by that,
//! [`standby`] has this node reached by those who cannot dial it;
//! [`directory`] says who is a member and where; [`silos`] opens silos and keeps the cluster informed of them, [`vitals`]
//! watches whether they answer; [`attachments`] attaches volumes and serves them; [`status`] puts together what people
//! see, [`copies`] what of it concerns silos and copies; [`scrubs`] has volumes scrubbed. [`data_runtime`] has the threads of the data path. [`home`] is what lies on the disk; [`membership`] creates and joins
//! networks; [`offline`] is what the command line calls without a daemon; [`demo`] drives real processes.

pub mod addresses;
pub mod api;
pub mod attachments;
mod caretaker;
pub mod control;
pub mod copies;
pub mod data_runtime;
pub mod demo;
pub mod directory;
pub mod doctor;
pub mod home;
pub mod membership;
mod mover;
mod moving;
pub mod node;
pub mod offline;
pub mod peers;
pub mod regroup;
pub mod scrubs;
pub mod silos;
mod standby;
pub mod standing;
pub mod status;
mod twin;
pub mod vitals;
pub mod words;
