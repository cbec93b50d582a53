//! What every layer may use: ids, units, errors, the clock, checksums and the record header that the wire and the
//! disk share. Nothing here imports another layer, opens a file or a socket, or starts a task.

pub mod address;
pub mod block;
pub mod clock;
pub mod contained;
pub mod error;
pub mod id;
pub mod mutant;
pub mod record;
pub mod units;
