//! One block, one order (rule 5): requests that touch the same 4 KiB block are carried out in the order they came,
//! except that reads pass one another.

use crate::base::mutant::{Mutant, on};

/// A request, numbered by the driver.
pub type RequestId = u64;

struct Entry {
    id: RequestId,
    first_block: u64,
    end_block: u64,
    exclusive: bool,
    /// Earlier requests that must end first.
    blockers: usize,
}

impl Entry {
    fn conflicts(&self, other: &Entry) -> bool {
        let apart = if on(Mutant::ReadOfInFlight) {
            self.exclusive && other.exclusive
        } else {
            self.exclusive || other.exclusive
        };
        apart && self.first_block < other.end_block && other.first_block < self.end_block
    }
}

/// The requests under way and waiting, in the order they came. Their number is bounded by the interfaces, so a scan
/// costs less than a tree would.
#[derive(Default)]
pub struct Order {
    entries: Vec<Entry>,
}

impl Order {
    /// Queues a request on the blocks `first_block..end_block`; true if it may run at once.
    pub fn enter(&mut self, id: RequestId, first_block: u64, end_block: u64, exclusive: bool) -> bool {
        let mut entry = Entry { id, first_block, end_block, exclusive, blockers: 0 };
        entry.blockers = self.entries.iter().filter(|earlier| earlier.conflicts(&entry)).count();
        let free = entry.blockers == 0;
        self.entries.push(entry);
        free
    }

    /// Ends a request and pushes those that may run now.
    pub fn leave(&mut self, id: RequestId, free: &mut Vec<RequestId>) {
        let Some(index) = self.entries.iter().position(|entry| entry.id == id) else { return };
        let gone = self.entries.remove(index);
        for later in &mut self.entries[index..] {
            if gone.conflicts(later) {
                later.blockers -= 1;
                if later.blockers == 0 {
                    free.push(later.id);
                }
            }
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_pass_one_another_and_writes_wait() {
        let mut order = Order::default();
        let mut free = Vec::new();
        assert!(order.enter(1, 0, 4, false));
        assert!(order.enter(2, 2, 6, false));
        assert!(!order.enter(3, 3, 4, true));
        assert!(!order.enter(4, 0, 8, false), "a read does not overtake a waiting write");
        assert!(order.enter(5, 8, 9, true));
        order.leave(1, &mut free);
        assert!(free.is_empty());
        order.leave(2, &mut free);
        assert_eq!(free, [3]);
        free.clear();
        order.leave(3, &mut free);
        assert_eq!(free, [4]);
    }

    proptest! {
        /// Whatever comes, no two that conflict run together, and everything runs in the end.
        #[test]
        fn conflicting_requests_never_run_together(requests in prop::collection::vec((0u64..8, 1u64..4, any::<bool>()), 1..40)) {
            let mut order = Order::default();
            let mut running = Vec::new();
            for (id, (first, len, exclusive)) in requests.iter().enumerate() {
                if order.enter(id as u64, *first, first + len, *exclusive) {
                    running.push(id as u64);
                }
            }
            let mut ended = 0;
            while let Some(id) = running.pop() {
                for other in &running {
                    let (a, b) = (requests[id as usize], requests[*other as usize]);
                    prop_assert!(!((a.2 || b.2) && a.0 < b.0 + b.1 && b.0 < a.0 + a.1));
                }
                ended += 1;
                order.leave(id, &mut running);
            }
            prop_assert_eq!(ended, requests.len());
            prop_assert!(order.is_empty());
        }
    }
}
