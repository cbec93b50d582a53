//! How much is being copied: what the copies of a slot tell, added up over volumes.

use crate::daemon::api::{Moving, Replica, ReplicaState, Slot};

/// What of these slots is being copied.
pub fn of_slots(slots: &[Slot]) -> Option<Moving> {
    let copies = slots.iter().flat_map(|slot| slot.replicas.iter().chain(&slot.joining));
    total(copies.filter_map(of_copy))
}

/// A copy that was sent nothing yet, like one that waits for a lease to end, only counts.
fn of_copy(copy: &Replica) -> Option<Moving> {
    let moved_bytes = copy.moved_bytes.filter(|_| copy.state == ReplicaState::CatchingUp)?;
    let left_bytes = copy.bytes_per_second.zip(copy.left_ms);
    let left_bytes = left_bytes.map(|(rate, ms)| (u128::from(rate) * u128::from(ms) / 1000) as u64);
    Some(Moving { copies: 1, moved_bytes, bytes_per_second: copy.bytes_per_second, left_bytes, left_ms: copy.left_ms })
}

/// All of these together, nothing if there are none.
pub fn total(parts: impl Iterator<Item = Moving>) -> Option<Moving> {
    parts.reduce(|sum, part| {
        let rates = [sum.bytes_per_second, part.bytes_per_second];
        Moving {
            copies: sum.copies + part.copies,
            moved_bytes: sum.moved_bytes + part.moved_bytes,
            bytes_per_second: rates.into_iter().flatten().reduce(|a, b| a + b),
            left_bytes: sum.left_bytes.zip(part.left_bytes).map(|(a, b)| a + b),
            // They go on side by side.
            left_ms: sum.left_ms.zip(part.left_ms).map(|(a, b)| a.max(b)),
        }
    })
}

/// Copies that these slots should have beyond those that are good, where the policy asks for `wanted`.
pub fn missing(slots: &[Slot], wanted: usize) -> u32 {
    let good = |copy: &&Replica| {
        matches!(copy.state, ReplicaState::UpToDate | ReplicaState::Idle | ReplicaState::Unknown) && !copy.leaves
    };
    slots.iter().map(|slot| wanted.saturating_sub(slot.replicas.iter().filter(good).count()) as u32).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{ConfigNumber, NodeId, SiloId, SlotIndex};
    use crate::daemon::api::{NodeRef, VolumeState};

    fn copy(state: ReplicaState, moved: Option<(u64, u64, u64)>) -> Replica {
        Replica {
            silo: SiloId([1; 16]),
            node: NodeRef { id: NodeId([1; 32]), name: "a".into() },
            state,
            behind_bytes: None,
            behind_writes: None,
            moved_bytes: moved.map(|(bytes, ..)| bytes),
            bytes_per_second: moved.map(|(_, rate, _)| rate),
            left_ms: moved.map(|(.., left)| left),
            leaves: false,
        }
    }

    fn slot(replicas: Vec<Replica>, joining: Vec<Replica>) -> Slot {
        let configuration = ConfigNumber(1);
        Slot { slot: SlotIndex(0), configuration, state: VolumeState::Healthy, reason: None, replicas, joining }
    }

    #[test]
    fn what_is_copied_is_added_up_and_what_nobody_knows_is_not_guessed() {
        use ReplicaState::{CatchingUp, Down, Idle, UpToDate};
        let still = vec![copy(UpToDate, None), copy(Down, None), copy(Idle, None)];
        assert_eq!(of_slots(&[slot(still.clone(), Vec::new())]), None);
        let first = slot(vec![copy(UpToDate, None)], vec![copy(CatchingUp, Some((5000, 1000, 4000)))]);
        let second = slot(vec![copy(CatchingUp, Some((700, 100, 9000))), copy(UpToDate, None)], Vec::new());
        let both = of_slots(&[first.clone(), second.clone()]).unwrap();
        let expected = Moving {
            copies: 2,
            moved_bytes: 5700,
            bytes_per_second: Some(1100),
            left_bytes: Some(4900),
            left_ms: Some(9000),
        };
        assert_eq!(both, expected);
        let begins = Replica { bytes_per_second: None, left_ms: None, ..copy(CatchingUp, Some((0, 0, 0))) };
        let with_one_that_begins = of_slots(&[first.clone(), slot(vec![begins], Vec::new())]).unwrap();
        assert_eq!((with_one_that_begins.copies, with_one_that_begins.left_bytes), (2, None));
        assert_eq!(with_one_that_begins.bytes_per_second, Some(1000));
        assert_eq!(total([both, both].into_iter()).unwrap().copies, 4);

        assert_eq!(missing(&[slot(still, Vec::new()), first, second], 3), 1 + 2 + 2);
        let leaving = Replica { leaves: true, ..copy(UpToDate, None) };
        assert_eq!(missing(&[slot(vec![copy(UpToDate, None), leaving], Vec::new())], 1), 0);
    }
}
