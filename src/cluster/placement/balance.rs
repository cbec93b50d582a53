//! Where all slots should lie, from where they lie now: a pure function that every member computes alike.
//!
//! What must move, moves: copies on silos that are to hold nothing, copies too many, copies that share a node, copies that
//! share a zone while another zone has none. Beyond that, copies go from the silos that are filled most, relative to their
//! capacity, to those that are filled least, and only where that does not turn the order of the two around. So each byte moves
//! once at the most, from above the mean to below it, and what is balanced as well as the slots' sizes allow stays as it is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::{NodeId, SiloId, SlotIndex, VolumeId};
use crate::cluster::placement::{Candidate, rendezvous, zone};

/// A slot as it lies now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub volume: VolumeId,
    pub slot: SlotIndex,
    /// Its bytes, as if the volume were full.
    pub len: u64,
    /// Copies wanted.
    pub replicas: usize,
    pub silos: Vec<SiloId>,
    /// A node from which a copy that lies there is not moved away.
    pub near: Option<NodeId>,
    /// A copy is to lie there.
    pub brought: bool,
}

/// Fill levels are compared as whole numbers of so many binary places.
const FILL_BITS: u32 = 40;

/// The silos that each slot should lie on, in the order of `slots`. `candidates` are the silos that may hold copies, whatever
/// their `placed_bytes`: it is what `slots` says that counts. A slot gets fewer copies than it wants where there are fewer
/// nodes.
pub fn targets(candidates: &[Candidate], slots: &[Held]) -> Vec<Vec<SiloId>> {
    let mut balance = Balance::new(candidates, slots);
    for slot in 0..slots.len() {
        balance.shed(slot);
    }
    // Large ones first: what is small finds its place between them.
    let mut order: Vec<usize> = (0..slots.len()).collect();
    order.sort_by_key(|slot| (Reverse(slots[*slot].len), *slot));
    for slot in &order {
        balance.bring_near(*slot);
        while balance.copies[*slot].len() < slots[*slot].replicas && balance.add(*slot) {}
    }
    loop {
        for slot in &order {
            while balance.spread(*slot) {}
        }
        balance.level();
        // There may be room now where there was none; what is near stays there, so this ends.
        if order.iter().filter(|slot| balance.bring_near(**slot)).count() == 0 {
            break;
        }
    }
    balance.copies.iter().map(|copies| copies.iter().map(|silo| balance.silos[*silo].id).collect()).collect()
}

/// A silo that may hold copies.
struct Silo {
    id: SiloId,
    node: usize,
    zone: usize,
    capacity_bytes: u64,
    bytes: u64,
    /// The slots that have a copy here.
    slots: BTreeSet<usize>,
}

impl Silo {
    /// How full it would be with so many bytes.
    fn fill(&self, bytes: u64) -> u128 {
        (u128::from(bytes) << FILL_BITS) / u128::from(self.capacity_bytes)
    }
}

struct Balance<'a> {
    slots: &'a [Held],
    silos: Vec<Silo>,
    nodes: BTreeMap<NodeId, usize>,
    /// By slot: its copies, by the silos' numbers.
    copies: Vec<Vec<usize>>,
}

impl<'a> Balance<'a> {
    fn new(candidates: &[Candidate], slots: &'a [Held]) -> Self {
        // The order of the input must not matter.
        let mut usable: Vec<&Candidate> = candidates.iter().filter(|candidate| candidate.capacity_bytes > 0).collect();
        usable.sort_by_key(|candidate| candidate.silo);
        usable.dedup_by_key(|candidate| candidate.silo);
        let (mut nodes, mut zones) = (BTreeMap::new(), BTreeMap::new());
        let mut silos = Vec::with_capacity(usable.len());
        for candidate in &usable {
            let count = zones.len();
            let zone = *zones.entry(zone(candidate)).or_insert(count);
            let count = nodes.len();
            let node = *nodes.entry(candidate.node).or_insert(count);
            let (id, capacity_bytes) = (candidate.silo, candidate.capacity_bytes);
            silos.push(Silo { id, node, zone, capacity_bytes, bytes: 0, slots: BTreeSet::new() });
        }
        let numbers: BTreeMap<SiloId, usize> = silos.iter().enumerate().map(|(index, silo)| (silo.id, index)).collect();
        let mut balance = Balance { slots, silos, nodes, copies: vec![Vec::new(); slots.len()] };
        for (index, held) in slots.iter().enumerate() {
            for silo in held.silos.iter().filter_map(|silo| numbers.get(silo)) {
                if !balance.copies[index].contains(silo) {
                    balance.put(index, *silo);
                }
            }
        }
        balance
    }

    fn put(&mut self, slot: usize, silo: usize) {
        self.copies[slot].push(silo);
        self.silos[silo].slots.insert(slot);
        self.silos[silo].bytes += self.slots[slot].len;
    }

    fn take(&mut self, slot: usize, silo: usize) {
        self.copies[slot].retain(|copy| *copy != silo);
        self.silos[silo].slots.remove(&slot);
        self.silos[silo].bytes -= self.slots[slot].len;
    }

    fn fill(&self, silo: usize) -> u128 {
        self.silos[silo].fill(self.silos[silo].bytes)
    }

    fn fill_with(&self, silo: usize, slot: usize) -> u128 {
        self.silos[silo].fill(self.silos[silo].bytes + self.slots[slot].len)
    }

    /// Copies of the slot in a zone, but for one of them.
    fn in_zone(&self, slot: usize, zone: usize, without: Option<usize>) -> usize {
        self.copies[slot].iter().filter(|copy| self.silos[**copy].zone == zone && Some(**copy) != without).count()
    }

    fn on_node(&self, slot: usize, node: usize, without: Option<usize>) -> bool {
        self.copies[slot].iter().any(|copy| self.silos[*copy].node == node && Some(*copy) != without)
    }

    fn near(&self, slot: usize) -> Option<usize> {
        self.slots[slot].near.and_then(|node| self.nodes.get(&node).copied())
    }

    /// Lets go of copies that share a node, and of those too many.
    fn shed(&mut self, slot: usize) {
        loop {
            let copies = &self.copies[slot];
            let shared = |copy: &&usize| self.on_node(slot, self.silos[**copy].node, Some(**copy));
            let mut loose: Vec<usize> = copies.iter().filter(shared).copied().collect();
            if loose.is_empty() {
                if copies.len() <= self.slots[slot].replicas {
                    return;
                }
                let near = self.near(slot);
                loose = copies.iter().copied().filter(|copy| Some(self.silos[*copy].node) != near).collect();
            }
            let worst = |silo: &usize| (self.in_zone(slot, self.silos[*silo].zone, None), self.fill(*silo), *silo);
            let Some(worst) = loose.into_iter().max_by_key(worst) else { return };
            self.take(slot, worst);
        }
    }

    /// Where a copy would lie best; `from` is one that it takes the place of.
    fn best(&self, slot: usize, from: Option<usize>, is_fit: impl Fn(&Silo) -> bool) -> Option<usize> {
        let fits = |silo: &usize| {
            let to = &self.silos[*silo];
            is_fit(to) && !self.on_node(slot, to.node, from) && Some(*silo) != from
        };
        let Held { volume, slot: number, .. } = &self.slots[slot];
        (0..self.silos.len()).filter(fits).min_by_key(|silo| {
            let to = &self.silos[*silo];
            let hash = rendezvous(*volume, *number, to.id);
            (self.in_zone(slot, to.zone, from), self.fill_with(*silo, slot), Reverse(hash))
        })
    }

    /// Makes one more copy; false if there is no node for it.
    fn add(&mut self, slot: usize) -> bool {
        let best = self.best(slot, None, |_| true);
        if let Some(silo) = best {
            self.put(slot, silo);
        }
        best.is_some()
    }

    /// Has a copy on the node that it should be near to, if that has room for it; whether one was put there.
    fn bring_near(&mut self, slot: usize) -> bool {
        let Some(node) = self.near(slot).filter(|_| self.slots[slot].brought) else { return false };
        if self.on_node(slot, node, None) {
            return false;
        }
        let has_room = |silo: &Silo| silo.bytes + self.slots[slot].len <= silo.capacity_bytes;
        let Some(to) = self.best(slot, None, |silo| silo.node == node && has_room(silo)) else { return false };
        let silo = &self.silos[to];
        if self.copies[slot].len() >= self.slots[slot].replicas {
            let worst = |copy: &&usize| {
                let zone = self.silos[**copy].zone;
                (self.in_zone(slot, zone, None) + usize::from(zone == silo.zone), self.fill(**copy), **copy)
            };
            let Some(worst) = self.copies[slot].iter().max_by_key(worst).copied() else { return false };
            self.take(slot, worst);
        }
        self.put(slot, to);
        true
    }

    /// Moves a copy out of a zone that has two more of the slot than another could have; false if there is none.
    fn spread(&mut self, slot: usize) -> bool {
        let near = self.near(slot);
        let free = self.copies[slot].iter().copied().filter(|copy| Some(self.silos[*copy].node) != near);
        let crowded = |silo: &usize| (self.in_zone(slot, self.silos[*silo].zone, None), self.fill(*silo), *silo);
        let Some(from) = free.max_by_key(crowded) else { return false };
        let count = self.in_zone(slot, self.silos[from].zone, None);
        let has_fewer = |silo: &Silo| self.in_zone(slot, silo.zone, None) + 1 < count;
        let Some(to) = self.best(slot, Some(from), has_fewer) else { return false };
        self.take(slot, from);
        self.put(slot, to);
        true
    }

    /// Moves copies from where it is fullest to where it is emptiest, as long as that makes the two more alike.
    fn level(&mut self) {
        let mut settled: BTreeSet<usize> = BTreeSet::new();
        loop {
            let open = (0..self.silos.len()).filter(|silo| !settled.contains(silo));
            let Some(from) = open.max_by_key(|silo| (self.fill(*silo), Reverse(*silo))) else { return };
            let mut order: Vec<usize> = (0..self.silos.len()).filter(|silo| *silo != from).collect();
            order.sort_by_key(|silo| (self.fill(*silo), *silo));
            let fill = self.fill(from);
            let found = order
                .into_iter()
                .take_while(|to| self.fill(*to) < fill)
                .find_map(|to| Some((self.movable(from, to)?, to)));
            match found {
                Some((slot, to)) => {
                    self.take(slot, from);
                    self.put(slot, to);
                    // Others may find what they look for there now.
                    settled.clear();
                }
                None => {
                    settled.insert(from);
                }
            }
        }
    }

    /// The largest slot that may move and leaves the one no emptier than the other.
    fn movable(&self, from: usize, to: usize) -> Option<usize> {
        let (source, target) = (&self.silos[from], &self.silos[to]);
        let may_move = |slot: &usize| {
            let len = self.slots[*slot].len;
            let near = self.near(*slot) == Some(source.node) && target.node != source.node;
            let crowded = target.zone != source.zone
                && self.in_zone(*slot, target.zone, None) >= self.in_zone(*slot, source.zone, None);
            target.fill(target.bytes + len) <= source.fill(source.bytes - len)
                && !near
                && !crowded
                && !self.on_node(*slot, target.node, Some(from))
        };
        let hash = |slot: usize| rendezvous(self.slots[slot].volume, self.slots[slot].slot, target.id);
        source.slots.iter().copied().filter(may_move).max_by_key(|slot| (self.slots[*slot].len, hash(*slot)))
    }
}

#[cfg(test)]
mod tests {

    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn candidate(index: u8, node: u8, zone: Option<&str>, capacity_bytes: u64) -> Candidate {
        let zone = zone.map(str::to_owned);
        Candidate { silo: SiloId([index; 16]), node: NodeId([node; 32]), zone, capacity_bytes, placed_bytes: 0 }
    }

    fn nodes(count: u8) -> Vec<Candidate> {
        (0..count).map(|index| candidate(index, index, None, 1000 * GIB)).collect()
    }

    fn slots(count: usize, len: impl Fn(usize) -> u64, replicas: usize) -> Vec<Held> {
        let slot = |index: usize| Held {
            volume: VolumeId([(index / 10) as u8; 16]),
            slot: SlotIndex((index % 10 + index / 2560 * 10) as u32),
            len: len(index),
            replicas,
            silos: Vec::new(),
            near: None,
            brought: false,
        };
        (0..count).map(slot).collect()
    }

    /// The same slots, where they were put.
    fn put(slots: &[Held], silos: Vec<Vec<SiloId>>) -> Vec<Held> {
        slots.iter().zip(silos).map(|(slot, silos)| Held { silos, ..slot.clone() }).collect()
    }

    fn bytes_on(slots: &[Held]) -> BTreeMap<SiloId, u64> {
        let mut bytes = BTreeMap::new();
        for (slot, silo) in slots.iter().flat_map(|slot| slot.silos.iter().map(move |silo| (slot, silo))) {
            *bytes.entry(*silo).or_default() += slot.len;
        }
        bytes
    }

    fn moved(before: &[Held], after: &[Held]) -> u64 {
        let new = |(before, after): (&Held, &Held)| {
            after.silos.iter().filter(|silo| !before.silos.contains(silo)).count() as u64 * after.len
        };
        before.iter().zip(after).map(new).sum()
    }

    /// The largest distance from the mean fill, in parts of it.
    fn imbalance(candidates: &[Candidate], slots: &[Held]) -> f64 {
        let bytes = bytes_on(slots);
        let fill = |c: &Candidate| bytes.get(&c.silo).copied().unwrap_or(0) as f64 / c.capacity_bytes as f64;
        let fills: Vec<f64> = candidates.iter().map(fill).collect();
        let mean = fills.iter().sum::<f64>() / fills.len() as f64;
        fills.iter().map(|fill| (fill - mean).abs() / mean).fold(0.0, f64::max)
    }

    /// Moves to other nodes; bytes moved, and how many had to be: what the new ones lack, or what the old ones held.
    fn change(slots: &[Held], from: &[Candidate], to: &[Candidate]) -> (Vec<Held>, Vec<Held>, f64) {
        let before = put(slots, targets(from, slots));
        let after = put(slots, targets(to, &before));
        let held = bytes_on(&before);
        let total: u64 = held.values().sum();
        let capacity: u64 = to.iter().map(|c| c.capacity_bytes).sum();
        let share = |c: &Candidate| (total as f64 * c.capacity_bytes as f64 / capacity as f64) as u64;
        let lacks = |c: &Candidate| share(c).saturating_sub(held.get(&c.silo).copied().unwrap_or(0));
        let optimal: u64 = to.iter().map(lacks).sum();
        let ratio = moved(&before, &after) as f64 / optimal as f64;
        (before, after, ratio)
    }

    #[test]
    fn what_is_balanced_stays_and_the_order_of_the_input_does_not_matter() {
        let candidates = nodes(5);
        let slots = slots(200, |index| (1 + index as u64 % 7) * GIB, 3);
        let first = put(&slots, targets(&candidates, &slots));
        assert_eq!(targets(&candidates, &first), first.iter().map(|slot| slot.silos.clone()).collect::<Vec<_>>());
        let reversed: Vec<_> = candidates.iter().rev().cloned().collect();
        assert_eq!(targets(&reversed, &slots), targets(&candidates, &slots));
        assert!(imbalance(&candidates, &first) < 0.05);
    }

    #[test]
    fn nodes_that_come_and_go_move_little_more_than_they_must() {
        for (from, to) in [(3, 4), (5, 6), (9, 10), (10, 9), (5, 4)] {
            let slots = slots(40 * from.max(to), |index| [1, 8, 32][index % 3] * GIB, 3);
            let (before, after, ratio) = change(&slots, &nodes(from as u8), &nodes(to as u8));
            let off = imbalance(&nodes(to as u8), &after);
            println!(
                "{from} -> {to} nodes: {} GiB moved, {ratio:.3} of the optimum, {:.1} % off balance",
                moved(&before, &after) / GIB,
                off * 100.0
            );
            assert!(ratio <= 1.05, "{from} -> {to}: {ratio}");
            assert!(off <= 0.05, "{from} -> {to}: {off}");
        }
    }

    #[test]
    fn one_of_a_hundred_nodes_gets_its_share_of_ten_thousand_slots() {
        let slots = slots(10_000, |_| 32 * GIB, 3);
        let mut nodes: Vec<_> =
            (0..100).map(|i| candidate(i, i, Some(["a", "b", "c", "d"][i as usize % 4]), 16_000 * GIB)).collect();
        let before = put(&slots, targets(&nodes, &slots));
        nodes.push(candidate(100, 100, Some("a"), 16_000 * GIB));
        let after = put(&slots, targets(&nodes, &before));
        let (copies, off) = (moved(&before, &after) / 32 / GIB, imbalance(&nodes, &after));
        assert!(copies <= 30_000 / 101 + 1, "{copies} copies moved");
        assert!(off <= 0.05, "{off}");
    }

    #[test]
    fn mixed_capacities_fill_evenly_and_several_silos_of_a_node_count_once() {
        let capacities = [500, 750, 1000, 1000, 1250, 2000, 1500];
        let mut candidates: Vec<_> =
            capacities.iter().enumerate().map(|(i, gib)| candidate(i as u8, i as u8, None, gib * GIB)).collect();
        candidates.push(candidate(7, 5, None, 500 * GIB));
        let slots = slots(2000, |_| GIB, 3);
        let placed = put(&slots, targets(&candidates, &slots));
        assert!(imbalance(&candidates, &placed) <= 0.05, "{}", imbalance(&candidates, &placed));
    }

    #[test]
    fn policies_change_and_the_copies_follow() {
        let candidates = nodes(6);
        let three = slots(100, |_| GIB, 3);
        let three = put(&three, targets(&candidates, &three));
        for replicas in [5, 1] {
            let wanted: Vec<Held> = three.iter().map(|slot| Held { replicas, ..slot.clone() }).collect();
            let after = put(&wanted, targets(&candidates, &wanted));
            assert!(after.iter().all(|slot| slot.silos.len() == replicas));
            assert!(imbalance(&candidates, &after) <= 0.05, "{}", imbalance(&candidates, &after));
        }
    }

    #[test]
    fn a_copy_lies_near_where_its_volume_is_used() {
        let candidates = nodes(5);
        let near = NodeId([4; 32]);
        let slots: Vec<Held> = slots(60, |_| GIB, 3)
            .into_iter()
            .enumerate()
            .map(|(index, slot)| Held { near: (index < 20).then_some(near), brought: true, ..slot })
            .collect();
        let placed = put(&slots, targets(&candidates, &slots));
        assert!(placed[..20].iter().all(|slot| slot.silos.contains(&SiloId([4; 16]))));
        assert!(imbalance(&candidates, &placed) <= 0.06);
        // Where it lies already it stays, also while none would be brought there.
        let full: Vec<_> =
            candidates.iter().map(|c| Candidate { capacity_bytes: c.capacity_bytes / 2, ..c.clone() }).collect();
        let mut uneven = full.clone();
        uneven[4].capacity_bytes /= 4;
        let kept: Vec<Held> = placed.iter().map(|slot| Held { brought: false, ..slot.clone() }).collect();
        let after = put(&kept, targets(&uneven, &kept));
        assert!(after[..20].iter().all(|slot| slot.silos.contains(&SiloId([4; 16]))));
        assert!(after[20..].iter().filter(|slot| slot.silos.contains(&SiloId([4; 16]))).count() < 8);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn copies_lie_on_distinct_nodes_and_zones_whatever_they_come_from(
            silos in prop::collection::vec((0u8..8, 1u64..10_000), 1..20),
            held in prop::collection::vec((prop::collection::vec(0u8..24, 0..6), 1usize..7, 1u64..500, 0u8..10), 0..40),
        ) {
            let of_node = |node: u8| (!node.is_multiple_of(3)).then(|| ["z0", "z1", "z2", "z3"][usize::from(node % 4)]);
            let candidates: Vec<_> = silos
                .iter()
                .enumerate()
                .map(|(i, (node, capacity))| candidate(i as u8, *node, of_node(*node), *capacity))
                .collect();
            let slots: Vec<Held> = held
                .iter()
                .enumerate()
                .map(|(index, (silos, replicas, len, near))| Held {
                    volume: VolumeId([1; 16]),
                    slot: SlotIndex(index as u32),
                    len: *len,
                    replicas: *replicas,
                    silos: silos.iter().map(|silo| SiloId([*silo; 16])).collect(),
                    near: (*near < 8).then_some(NodeId([*near; 32])),
                    brought: *near % 3 != 0,
                })
                .collect();
            let of = |silo: &SiloId| candidates.iter().find(|c| c.silo == *silo).unwrap();
            let all_nodes: BTreeSet<_> = candidates.iter().map(|c| c.node).collect();
            let all_zones: BTreeSet<_> = candidates.iter().map(zone).collect();
            let placed = targets(&candidates, &slots);
            for (slot, silos) in slots.iter().zip(&placed) {
                let nodes: BTreeSet<_> = silos.iter().map(|silo| of(silo).node).collect();
                prop_assert_eq!(nodes.len(), silos.len());
                prop_assert_eq!(silos.len(), slot.replicas.min(all_nodes.len()));
                let zones: BTreeSet<_> = silos.iter().map(|silo| zone(of(silo))).collect();
                prop_assert!(zones.len() + usize::from(slot.near.is_some()) >= silos.len().min(all_zones.len()));
            }
            let again = put(&slots, placed);
            let silos: Vec<_> = again.iter().map(|slot| slot.silos.clone()).collect();
            prop_assert_eq!(targets(&candidates, &again), silos, "what was decided stays");
        }
    }
}
