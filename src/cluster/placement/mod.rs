//! Which silos a slot's copies go to: a pure function of the silos, what lies on them, and the slot.
//!
//! The copies of a slot lie on distinct nodes always, and in distinct zones where there are enough; a node without a
//! zone is a zone of its own. Among what remains, the silo that would be filled least, relative to its capacity, is
//! taken; equal ones are told apart by a hash of (volume, slot, silo), the highest first (rendezvous hashing, Thaler
//! and Ravishankar 1998), so that no silo is favoured and every member computes the same.

pub mod balance;

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::{NodeId, SiloId, SlotIndex, VolumeId};

/// A silo that may be given slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub silo: SiloId,
    pub node: NodeId,
    pub zone: Option<String>,
    pub capacity_bytes: u64,
    /// Bytes of slots that lie on it already, as if every volume were full.
    pub placed_bytes: u64,
}

/// There are fewer nodes with a silo than copies wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFewNodes {
    /// Nodes that have a candidate.
    pub nodes: usize,
}

/// Places every slot of a new volume, one after the other, each seeing what the ones before it took.
///
/// `slot_lens`: the bytes of each slot.
pub fn place_volume(
    volume: VolumeId,
    slot_lens: impl IntoIterator<Item = u64>,
    replicas: usize,
    mut candidates: Vec<Candidate>,
) -> Result<Vec<Vec<SiloId>>, TooFewNodes> {
    let mut slots = Vec::new();
    for (index, len) in slot_lens.into_iter().enumerate() {
        let chosen = place_slot(volume, SlotIndex(index as u32), len, replicas, &candidates)?;
        for candidate in &mut candidates {
            if chosen.contains(&candidate.silo) {
                candidate.placed_bytes = candidate.placed_bytes.saturating_add(len);
            }
        }
        slots.push(chosen);
    }
    Ok(slots)
}

/// The silos of one slot of `len` bytes.
pub fn place_slot(
    volume: VolumeId,
    slot: SlotIndex,
    len: u64,
    replicas: usize,
    candidates: &[Candidate],
) -> Result<Vec<SiloId>, TooFewNodes> {
    let usable: Vec<_> = candidates.iter().filter(|candidate| candidate.capacity_bytes > 0).collect();
    let nodes = usable.iter().map(|candidate| candidate.node).collect::<BTreeSet<_>>().len();
    if nodes < replicas {
        return Err(TooFewNodes { nodes });
    }
    let mut chosen = Vec::with_capacity(replicas);
    let mut nodes_taken = BTreeSet::new();
    let mut zones_taken: BTreeMap<Zone<'_>, usize> = BTreeMap::new();
    while chosen.len() < replicas {
        let free = usable.iter().filter(|candidate| !nodes_taken.contains(&candidate.node));
        let best = free.min_by(|a, b| {
            let in_zone = |candidate: &Candidate| zones_taken.get(&zone(candidate)).copied().unwrap_or(0);
            let hash = |candidate: &Candidate| Reverse((rendezvous(volume, slot, candidate.silo), candidate.silo));
            in_zone(a).cmp(&in_zone(b)).then_with(|| by_fill(a, b, len)).then_with(|| hash(a).cmp(&hash(b)))
        });
        let Some(best) = best else { return Err(TooFewNodes { nodes }) };
        nodes_taken.insert(best.node);
        *zones_taken.entry(zone(best)).or_default() += 1;
        chosen.push(best.silo);
    }
    Ok(chosen)
}

/// A failure domain.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Zone<'a> {
    Named(&'a str),
    Node(NodeId),
}

fn zone(candidate: &Candidate) -> Zone<'_> {
    match &candidate.zone {
        Some(name) => Zone::Named(name),
        None => Zone::Node(candidate.node),
    }
}

/// Compares how full two silos would be with `len` more bytes, exactly: fractions by cross multiplication.
fn by_fill(a: &Candidate, b: &Candidate, len: u64) -> Ordering {
    let after = |candidate: &Candidate| u128::from(candidate.placed_bytes) + u128::from(len);
    (after(a) * u128::from(b.capacity_bytes)).cmp(&(after(b) * u128::from(a.capacity_bytes)))
}

/// A hash that is the same on every machine and version: it decides where slots lie.
fn rendezvous(volume: VolumeId, slot: SlotIndex, silo: SiloId) -> u64 {
    let words = |bytes: [u8; 16]| {
        let whole = u128::from_le_bytes(bytes);
        [whole as u64, (whole >> 64) as u64]
    };
    let [volume_low, volume_high] = words(volume.0);
    let [silo_low, silo_high] = words(silo.0);
    [volume_low, volume_high, u64::from(slot.0), silo_low, silo_high].into_iter().fold(0, |hash, word| mix(hash ^ word))
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn candidate(index: u8, node: u8, zone: Option<&str>, capacity_bytes: u64) -> Candidate {
        Candidate {
            silo: SiloId([index; 16]),
            node: NodeId([node; 32]),
            zone: zone.map(str::to_owned),
            capacity_bytes,
            placed_bytes: 0,
        }
    }

    fn of_silo(candidates: &[Candidate], silo: SiloId) -> &Candidate {
        candidates.iter().find(|candidate| candidate.silo == silo).unwrap()
    }

    #[test]
    fn the_same_input_gives_the_same_silos() {
        let candidates: Vec<_> = (0..6).map(|i| candidate(i, i, None, 100 * GIB)).collect();
        let reversed: Vec<_> = candidates.iter().rev().cloned().collect();
        let place = |c: &[Candidate]| place_slot(VolumeId([1; 16]), SlotIndex(0), GIB, 3, c).unwrap();
        assert_eq!(place(&candidates), place(&reversed));
        // Where slots of existing clusters would go must not change with a new version.
        assert_eq!(rendezvous(VolumeId([1; 16]), SlotIndex(2), SiloId([3; 16])), 4_463_377_076_957_194_329);
    }

    #[test]
    fn too_few_nodes_are_told_and_two_silos_of_a_node_count_once() {
        let candidates = [candidate(0, 0, None, GIB), candidate(1, 0, None, GIB), candidate(2, 1, None, GIB)];
        assert_eq!(place_slot(VolumeId::default(), SlotIndex(0), 1, 3, &candidates), Err(TooFewNodes { nodes: 2 }));
        let empty = [candidate(0, 0, None, 0)];
        assert_eq!(place_slot(VolumeId::default(), SlotIndex(0), 1, 1, &empty), Err(TooFewNodes { nodes: 0 }));
    }

    #[test]
    fn zones_come_before_fill() {
        let mut candidates: Vec<_> =
            (0..6).map(|i| candidate(i, i, Some(["a", "a", "a", "a", "b", "c"][i as usize]), GIB)).collect();
        candidates[4].placed_bytes = GIB / 2;
        candidates[5].placed_bytes = GIB / 2;
        let chosen = place_slot(VolumeId([9; 16]), SlotIndex(3), 4096, 3, &candidates).unwrap();
        let zones: BTreeSet<_> = chosen.iter().map(|silo| of_silo(&candidates, *silo).zone.clone()).collect();
        assert_eq!(zones.len(), 3);
        // With five copies and three zones, no zone has more than one above another.
        let five = place_slot(VolumeId([9; 16]), SlotIndex(3), 4096, 5, &candidates).unwrap();
        assert_eq!(five.len(), 5);
    }

    #[test]
    fn mixed_capacities_fill_evenly() {
        let capacities = [500, 750, 1000, 1000, 1250, 2000, 1500].map(|gib| gib * GIB);
        let candidates: Vec<_> =
            capacities.iter().enumerate().map(|(i, c)| candidate(i as u8, i as u8, None, *c)).collect();
        let total: u64 = capacities.iter().sum();
        let slots = total / 3 / GIB * 9 / 10;
        let lens = std::iter::repeat_n(GIB, slots as usize);
        let placed = place_volume(VolumeId([5; 16]), lens, 3, candidates.clone()).unwrap();
        let mut bytes: BTreeMap<SiloId, u64> = BTreeMap::new();
        for silo in placed.iter().flatten() {
            *bytes.entry(*silo).or_default() += GIB;
        }
        let fills: Vec<_> = candidates.iter().map(|c| bytes[&c.silo] as f64 / c.capacity_bytes as f64).collect();
        let mean = fills.iter().sum::<f64>() / fills.len() as f64;
        assert!(fills.iter().all(|fill| (fill - mean).abs() <= 0.05 * mean), "{fills:?}");
    }

    proptest! {
        #[test]
        fn copies_lie_on_distinct_nodes_and_zones(
            silos in prop::collection::vec((0u8..8, 0u8..5, 1u64..10_000, 0u64..20_000), 1..20),
            replicas in 1usize..6,
            slot in 0u32..1000,
        ) {
            let candidates: Vec<_> = silos
                .iter()
                .enumerate()
                .map(|(i, (node, _, capacity, placed))| Candidate {
                    // A zone belongs to a node.
                    zone: (node % 3 != 0).then(|| format!("z{}", node % 4)),
                    placed_bytes: *placed,
                    ..candidate(i as u8, *node, None, *capacity)
                })
                .collect();
            let nodes: BTreeSet<_> = candidates.iter().map(|c| c.node).collect();
            let zones: BTreeSet<_> = candidates.iter().map(zone).collect();
            match place_slot(VolumeId([3; 16]), SlotIndex(slot), 100, replicas, &candidates) {
                Err(few) => prop_assert!(few.nodes == nodes.len() && nodes.len() < replicas),
                Ok(chosen) => {
                    let used: BTreeSet<_> = chosen.iter().map(|s| of_silo(&candidates, *s).node).collect();
                    prop_assert_eq!(used.len(), replicas);
                    let used: BTreeSet<_> = chosen.iter().map(|s| zone(of_silo(&candidates, *s))).collect();
                    prop_assert_eq!(used.len(), replicas.min(zones.len()));
                }
            }
        }
    }
}
