//! The words of the control API's states and choices: people read and type the same as stands in JSON.

use std::fmt;

use crate::daemon::api::going::Duty;
use crate::daemon::api::scrub::ScrubState;
use crate::daemon::api::{Durability, NodeState, ReplicaState, Role, SiloState, VolumeState};

/// How each variant is written.
macro_rules! words {
    ($type:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $($type::$variant => $word),+ })
            }
        }
    };
}

words!(Role { Storage = "storage", Client = "client", Admin = "admin", Witness = "witness" });
words!(Duty { Stores = "stores", Drains = "drains", Leaves = "leaves" });
words!(NodeState { Up = "up", Down = "down", Joining = "joining", Unknown = "unknown" });
words!(SiloState {
    Up = "up",
    Down = "down",
    Damaged = "damaged",
    Foreign = "foreign",
    Stalled = "stalled",
    Unknown = "unknown",
});
words!(ScrubState {
    Waiting = "waiting",
    Reading = "reading",
    Repairing = "repairing",
    Done = "done",
    Failed = "failed",
    Unreachable = "unreachable",
    NotBegun = "not-begun",
});
words!(Durability { Flush = "flush", Write = "write" });
words!(VolumeState { Healthy = "healthy", Degraded = "degraded", Suspended = "suspended", Detached = "detached" });
words!(ReplicaState {
    UpToDate = "up-to-date",
    CatchingUp = "catching-up",
    Idle = "idle",
    Down = "down",
    Damaged = "damaged",
    Foreign = "foreign",
    Stalled = "stalled",
    Unknown = "unknown",
});

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[test]
    fn words_are_the_same_in_json() {
        fn same<T: Serialize + fmt::Display>(value: T) {
            assert_eq!(serde_json::to_string(&value).unwrap(), format!("\"{value}\""));
        }
        [Role::Storage, Role::Client, Role::Admin, Role::Witness].into_iter().for_each(same);
        [Duty::Stores, Duty::Drains, Duty::Leaves].into_iter().for_each(same);
        [NodeState::Up, NodeState::Down, NodeState::Joining, NodeState::Unknown].into_iter().for_each(same);
        [SiloState::Up, SiloState::Down, SiloState::Damaged].into_iter().for_each(same);
        [SiloState::Foreign, SiloState::Stalled, SiloState::Unknown].into_iter().for_each(same);
        [ScrubState::Waiting, ScrubState::Reading, ScrubState::Repairing, ScrubState::Done].into_iter().for_each(same);
        [ScrubState::Failed, ScrubState::Unreachable, ScrubState::NotBegun].into_iter().for_each(same);
        [Durability::Flush, Durability::Write].into_iter().for_each(same);
        [VolumeState::Healthy, VolumeState::Degraded, VolumeState::Suspended, VolumeState::Detached]
            .into_iter()
            .for_each(same);
        [ReplicaState::UpToDate, ReplicaState::CatchingUp, ReplicaState::Idle, ReplicaState::Down]
            .into_iter()
            .for_each(same);
        [ReplicaState::Damaged, ReplicaState::Foreign, ReplicaState::Stalled, ReplicaState::Unknown]
            .into_iter()
            .for_each(same);
    }
}
